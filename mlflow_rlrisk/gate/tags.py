"""Which ``rlrisk.*`` tags may stand on a version: those that a signature stands behind.

Pure. A tag proves nothing by itself, but people and dashboards read it; on a model that a rule
speaks about it may therefore only say what the version's attestation says.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime

from mlflow_rlrisk.attestation import (
    ATTESTATION_TAG,
    OVERRIDE_TAG,
    Attestation,
    Override,
    Place,
    Proven,
    is_expired,
    verify_attestation,
    verify_override,
)
from mlflow_rlrisk.content import text_digest
from mlflow_rlrisk.errors import AttestationError
from mlflow_rlrisk.gate.guard import Evidence
from mlflow_rlrisk.gate.names import alike, readable
from mlflow_rlrisk.gate.promotion_policy import Bar

PREFIX = "rlrisk."
FREE = frozenset(
    {"rlrisk.step", "rlrisk.parent", "rlrisk.series", "rlrisk.attempted_at", "rlrisk.outcome"}
)
"""Tags that describe a version and carry no verdict; everybody may set them."""


def is_reserved(key: str) -> bool:
    """Whether a tag can be read as one of ours that shows a verdict."""
    head, dot, _ = key.partition(".")
    is_ours = readable(key).startswith(PREFIX) or alike(head + dot, PREFIX)
    return is_ours and key not in FREE


def fault_of_setting(
    bar: Bar, evidence: Evidence, key: str, value: str, now: datetime
) -> str | None:
    """Why a reserved tag may not be set on a version, or ``None``."""
    if key == ATTESTATION_TAG:
        return _attestation_fault(bar, evidence, value, now)
    if key.startswith(OVERRIDE_TAG):
        return _override_fault(bar, evidence, key, value, now)
    proven = genuine(bar, evidence.envelope, evidence.attested_places, now)
    if isinstance(proven, str):
        return f"it shows a verdict, and {proven}"
    if proven.statement.tags.get(key) != text_digest(value):
        return "it does not say what the version's attestation says"
    return None


def fault_of_deleting(bar: Bar, evidence: Evidence, key: str, now: datetime) -> str | None:
    """Why a reserved tag may not be deleted from a version, or ``None``."""
    if key.startswith(OVERRIDE_TAG):
        try:
            found = verify_override(evidence.overrides.get(key, ""), bar.ring, evidence.place, now)
        except AttestationError:
            return None  # it is worth nothing
        return None if is_expired(found.statement, now) else "the override is in force"
    if key == ATTESTATION_TAG:
        return "an attestation is replaced by a newer one, never removed"
    proven = genuine(bar, evidence.envelope, evidence.attested_places, now)
    if isinstance(proven, str):
        return f"it shows a verdict, and {proven}"
    return "the version's attestation says it" if key in proven.statement.tags else None


def statement_in(
    bar: Bar, key: str, value: str, places: Iterable[Place], now: datetime
) -> Proven[Attestation] | Proven[Override] | None:
    """What a tag that carries a statement says, if it verifies for one of the places."""
    if key == ATTESTATION_TAG:
        proven = genuine(bar, value, places, now)
        return None if isinstance(proven, str) else proven
    if key.startswith(OVERRIDE_TAG):
        for place in places:
            with suppress(AttestationError):
                return verify_override(value, bar.ring, place, now)
    return None


def genuine(
    bar: Bar, envelope: str | None, places: Iterable[Place], now: datetime
) -> Proven[Attestation] | str:
    """The attestation if it verifies for one of the places, else why not."""
    if envelope is None:
        return "the version has no signed attestation"
    fault = "it is about another version"
    for place in places:
        try:
            return verify_attestation(envelope, bar.ring, place, now)
        except AttestationError as error:
            fault = str(error)
    return f"its attestation is refused: {fault}"


def _attestation_fault(bar: Bar, evidence: Evidence, value: str, now: datetime) -> str | None:
    try:
        given = verify_attestation(value, bar.ring, evidence.place, now)
    except AttestationError as error:
        return f"it is no attestation of this version: {error}"
    places = evidence.attested_places
    if evidence.place not in places:
        return None  # a copy that speaks through its original so far
    held = genuine(bar, evidence.envelope, places, now)
    if not isinstance(held, str) and not held.statement.issued_at <= given.statement.issued_at:
        return f"the version has a newer one, of {held.statement.issued_at}"
    return None


def _override_fault(
    bar: Bar, evidence: Evidence, key: str, value: str, now: datetime
) -> str | None:
    try:
        given = verify_override(value, bar.ring, evidence.place, now)
    except AttestationError as error:
        return f"it is no override for this version: {error}"
    if OVERRIDE_TAG + given.statement.target != key:
        return f"it is an override for {given.statement.target}"
    may = bar.policy.override.keys
    if may is not None and not any(each.key_id in may for each in given.signers):
        return "no key that signed it may override"
    return None


def forged_tags(
    bar: Bar, evidence: Evidence, tags: Mapping[str, str], now: datetime
) -> Iterator[str]:
    """Keys of tags that show a verdict nobody signed; envelopes are judged where they count."""
    proven = genuine(bar, evidence.envelope, evidence.attested_places, now)
    said = {} if isinstance(proven, str) else proven.statement.tags
    for key, value in tags.items():
        is_envelope = key == ATTESTATION_TAG or key.startswith(OVERRIDE_TAG)
        if is_reserved(key) and not is_envelope and said.get(key) != text_digest(value):
            yield key


def copied_tags(
    bar: Bar, tags: dict[str, str], original: Evidence | None, own: dict[str, str], now: datetime
) -> tuple[dict[str, str], list[str]]:
    """What a new version may carry of the tags it is created with.

    Args:
        bar: The policy in force.
        tags: What was asked for.
        original: Evidence on the version it is a copy of, if it is one.
        own: Tags of that version.
        now: The moment.

    Returns:
        The tags to create it with, and the keys of those that are forged. What stands on the
        original is no forgery: kept where its attestation says so, else left out.
    """
    kept = {key: value for key, value in tags.items() if not is_reserved(key)}
    forged = [key for key in tags if is_reserved(key) and own.get(key) != tags[key]]
    if original is not None:
        proven = genuine(bar, original.envelope, original.attested_places, now)
        said = {} if isinstance(proven, str) else proven.statement.tags
        kept |= {key: value for key, value in tags.items() if said.get(key) == text_digest(value)}
    return kept, forged
