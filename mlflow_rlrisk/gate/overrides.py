"""Makes overrides: a key holder takes responsibility for what the policy refuses.

An override is signed, names content, alias and reason, and ends by itself. It lifts refusals of
the policy only; a proof that does not hold cannot be overridden. It travels in a tag of the
version, which the gate takes because the signature is good, not because of who sets it.
"""

import tempfile
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_rlrisk.attestation import (
    OVERRIDE_TAG,
    Override,
    Place,
    Proven,
    sign_override,
    verify_override,
)
from mlflow_rlrisk.attestation.envelope import add_signature
from mlflow_rlrisk.attestation.keys import SigningKey, to_text
from mlflow_rlrisk.content import FileEntry, hash_folder
from mlflow_rlrisk.errors import AttestationError, ConfigError
from mlflow_rlrisk.gate.client import find_version, mlflow_refusals, place_of
from mlflow_rlrisk.gate.evidence import gather
from mlflow_rlrisk.gate.gatekeeper import utc_now
from mlflow_rlrisk.gate.promotion_policy import Bar, Target, seconds_of
from mlflow_rlrisk.gate.tags import genuine
from mlflow_rlrisk.model_reference import resolve_reference
from mlflow_rlrisk.plurals import counted

if TYPE_CHECKING:
    from mlflow import MlflowClient


def override(
    model: str,
    target: Target,
    *,
    reason: str,
    expires: str,
    keys: Sequence[SigningKey],
    bar: Bar,
) -> Proven[Override]:
    """Sign an override and put it onto the version.

    Args:
        model: The version, as `find_version` takes it.
        target: Alias or stage that it may take.
        reason: Why; kept in the statement and in the log.
        expires: Duration such as ``24h``.
        keys: Private keys of those who answer for it.
        bar: The gate's policy.

    Raises:
        ConfigError: Reason or duration are not what the policy takes, or no rule protects the
            target.
        AttestationError: The keys are not in the ring, or the version's signature is bad.
        PromotionRefusedError: The registry refuses it.
    """
    from mlflow import MlflowClient

    client = MlflowClient()
    statement = draw_up(client, model, target, reason=reason, expires=expires, bar=bar)
    return attach(client, sign_override(statement, keys), statement.place, bar)


def draw_up(
    client: "MlflowClient",
    model: str,
    target: Target,
    *,
    reason: str,
    expires: str,
    bar: Bar,
    requested_by: tuple[str, ...] = (),
) -> Override:
    """What an override says: checked against the policy, the content hashed; arguments as above.

    Args:
        client: The registry.
        model: The version.
        target: Alias or stage.
        reason: Why.
        expires: Duration.
        bar: The gate's policy.
        requested_by: For whom a service signs.

    Raises:
        ConfigError: Reason or duration are not what the policy takes, or no rule protects the
            target.
        AttestationError: The version's signature is bad.
    """
    lasts = check_terms(reason, expires, bar)
    version = find_version(client, model, None)
    place = check_place(version, target, bar)
    now = utc_now()
    _refuse_bad_proof(bar, client, place, now)
    return Override(
        registry=place.registry,
        workspace=place.workspace,
        model=place.model,
        version=place.version,
        files=_hashed(f"models:/{place.model}/{place.version}"),
        issued_at=to_text(now),
        expires_at=to_text(now + lasts),
        target=target.key,
        reason=reason.strip(),
        requested_by=requested_by,
    )


def attach(client: "MlflowClient", envelope: str, place: Place, bar: Bar) -> Proven[Override]:
    """Put a signed override onto its version.

    Raises:
        AttestationError: It is not good, or a key that signed it is outside the ring.
        PromotionRefusedError: The registry refuses it.
    """
    found = verify_override(envelope, bar.ring, place, utc_now())
    tag = OVERRIDE_TAG + found.statement.target
    with mlflow_refusals(f"models:/{place.model}/{place.version}"):
        client.set_model_version_tag(place.model, place.version, tag, envelope)
    return found


def co_sign(model: str, target: Target, *, key: SigningKey, bar: Bar) -> Proven[Override]:
    """Add a second signature to the override that a version carries; errors as `override`.

    The content is hashed again: nobody signs for files that have changed since.
    """
    from mlflow import MlflowClient

    client = MlflowClient()
    version = find_version(client, model, None)
    place = place_of(version, bar.policy.registry)
    tag = OVERRIDE_TAG + target.key
    envelope = version.tags.get(tag)
    if envelope is None:
        raise AttestationError("no_override", f"{model} carries no override for {target}")
    pending = verify_override(envelope, bar.ring, place, utc_now())
    if pending.statement.files != _hashed(f"models:/{place.model}/{place.version}"):
        raise AttestationError("content_changed", f"{model} has changed since it was overridden")
    envelope = add_signature(envelope, key, bar.ring)
    found = verify_override(envelope, bar.ring, place, utc_now())
    with mlflow_refusals(model):
        client.set_model_version_tag(place.model, place.version, tag, envelope)
    return found


def _refuse_bad_proof(bar: Bar, client: "MlflowClient", place: Place, now: datetime) -> None:
    """The gate would not let the override count; say so before anybody signs."""
    evidence = gather(client, place, with_files=False)
    if evidence.envelope is None:
        return
    proven = genuine(bar, evidence.envelope, evidence.attested_places, now)
    if isinstance(proven, str):
        raise AttestationError("bad_proof", f"{proven}; that cannot be overridden")


def check_terms(reason: str, expires: str, bar: Bar) -> timedelta:
    """How long an override with these terms lasts.

    Raises:
        ConfigError: Reason or duration are not what the policy takes.
    """
    shortest = bar.policy.override.min_reason_length
    if not len(reason.strip()) >= shortest:
        raise ConfigError(
            "reason",
            reason,
            f"at least {counted(shortest, 'character is', 'characters are')} needed",
        )
    return _duration(expires, bar)


def check_place(version: Any, target: Target, bar: Bar) -> Place:
    """The place of a version, where an override for this target can come to count.

    It can where a rule protects the target. What the version has already may also be protected
    under another name of its model: renaming asks for it under the name that it has.

    Args:
        version: MLflow's entity.
        target: Alias or stage that it may take.
        bar: The gate's policy.

    Raises:
        ConfigError: No rule protects it, as where its name is misspelt.
    """
    place = place_of(version, bar.policy.registry)
    held = [Target("version"), Target("stage", version.current_stage)]
    held += [Target("alias", alias) for alias in version.aliases]
    rules = bar.policy.rules_for(place.model, place.workspace, target)
    if target.key in [each.key for each in held]:
        rules += [rule for rule in bar.policy.rules if rule.protects(target)]
    if not rules:
        need = f"no rule protects it for {place.model!r}, so there is nothing to override"
        raise ConfigError(target.kind, target.name or None, need)
    return place


def _duration(expires: str, bar: Bar) -> timedelta:
    try:
        seconds = seconds_of(expires)
    except ValueError as error:
        raise ConfigError("expires", expires, str(error)) from error
    longest = bar.policy.override.max_duration
    if not seconds <= seconds_of(longest):
        raise ConfigError("expires", expires, f"the policy allows {longest} at most")
    return timedelta(seconds=seconds)


def _hashed(reference: str) -> tuple[FileEntry, ...]:
    source = resolve_reference(reference)
    with tempfile.TemporaryDirectory(prefix="rlrisk-override-") as private:
        return hash_folder(source.local_path or source.download(Path(private)))
