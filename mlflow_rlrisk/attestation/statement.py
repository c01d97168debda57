"""What a key holder says of a model version: in-toto statements, bound to content and place.

Two kinds of statement: an *attestation* (this content was assessed, with these figures, under
this policy) and an *override* (this content may take this alias although the policy refuses).
Both name registry, workspace, model and version, and list every file of the version with size
and SHA-256. Pure: no files, no clock, no network; the moment comes in as an argument.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Annotated, Any, Generic, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from mlflow_rlrisk.attestation.envelope import canonical_json, open_envelope, sign_envelope
from mlflow_rlrisk.attestation.keys import KeyRing, PublicKey, SigningKey, Timestamp, to_text
from mlflow_rlrisk.content import FileEntry, content_digest
from mlflow_rlrisk.errors import AttestationError
from mlflow_rlrisk.plurals import counted

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
ATTESTATION_TYPE = "urn:mlflow-rlrisk:attestation:v1"
OVERRIDE_TYPE = "urn:mlflow-rlrisk:override:v1"

ATTESTATION_TAG = "rlrisk.attestation"
OVERRIDE_TAG = "rlrisk.override."
"""Followed by the target, such as ``alias.rl-ready``."""

CLOCK_TOLERANCE = timedelta(seconds=60)
"""How far a statement may be ahead of the reader's clock."""
DEFAULT_LIFETIME = timedelta(days=30)

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_T = TypeVar("_T", bound="_Predicate")


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Which version of which model in which registry a statement is about."""

    registry: str
    workspace: str
    model: str
    version: str


class AttestedMetric(_Strict):
    """A metric with its interval."""

    value: float
    ci_low: float
    ci_high: float
    num_prompts: int


class _Predicate(_Strict):
    """What both kinds of statement hold."""

    registry: str
    workspace: str
    model: str
    version: Annotated[str, Field(pattern=r"^[1-9][0-9]*$")]
    files: tuple[FileEntry, ...] = Field(min_length=1)
    """Every file of the version, sorted by path."""
    issued_at: Timestamp
    expires_at: Timestamp

    @model_validator(mode="after")
    def _is_ordered(self) -> Self:
        paths = [entry.path for entry in self.files]
        if paths != sorted(set(paths)):
            raise ValueError("files are repeated or out of order")
        if not self.issued_at < self.expires_at:
            raise ValueError("expires_at is not after issued_at")
        return self

    @property
    def place(self) -> Place:
        """What the statement is about."""
        return Place(
            registry=self.registry,
            workspace=self.workspace,
            model=self.model,
            version=self.version,
        )

    @property
    def content_digest(self) -> str:
        """Digest of all files of the version."""
        return content_digest(self.files)


class Attestation(_Predicate):
    """What was found when the content was assessed."""

    source: str
    """The version's ``source`` in the registry; a version made anew from elsewhere has another."""
    checkpoint_digest: Digest
    """Digest of the files that can change a rollout, as the report names it."""
    run_id: str | None
    report_uri: str
    report_digest: Digest
    risk_level: Literal["low", "medium", "high", "unknown"]
    metrics: dict[str, AttestedMetric]
    num_prompts: int
    num_rollouts: int
    policy: str
    policy_digest: Digest
    prompts_digest: Digest
    verifier: str
    verifier_digest: str
    sampler_digest: Digest
    judge_tier: str
    """Isolation of candidate code: ``A``, ``B``, ``C``, ``unsafe``; ``none`` where none was run."""
    code_version: str
    tags: dict[str, Digest]
    """SHA-256 of the value of each tag that shows the verdict."""
    started_at: str
    finished_at: str
    settings: dict[str, JsonValue] | None = None
    """How it was sampled and judged (`run_settings.settings_of`); older statements do not say."""

    @model_serializer(mode="wrap")
    def _without_what_is_not_said(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        found: dict[str, Any] = dump(self)
        return {k: found[k] for k in found if k != "settings" or self.settings is not None}


class Override(_Predicate):
    """Leave to put this content into one place although the policy refuses it."""

    target: str
    """``alias.<name>`` or ``stage.<name>``, normalised."""
    reason: Annotated[str, Field(min_length=1)]
    requested_by: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Who asked and who approved, where a service signed for them; else the signers did."""

    @model_serializer(mode="wrap")
    def _without_nobody(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        found: dict[str, Any] = dump(self)
        return found if self.requested_by else {k: found[k] for k in found if k != "requested_by"}


@dataclass(frozen=True, slots=True)
class Proven(Generic[_T]):
    """A statement whose signatures, place and start were found good."""

    statement: _T
    signers: tuple[PublicKey, ...]


def sign_attestation(attestation: Attestation, key: SigningKey) -> str:
    """The envelope that carries an attestation."""
    return sign_envelope(_statement(ATTESTATION_TYPE, attestation), [key])


def sign_override(override: Override, keys: Sequence[SigningKey]) -> str:
    """The envelope that carries an override, signed by every key."""
    return sign_envelope(_statement(OVERRIDE_TYPE, override), keys)


def _statement(kind: str, predicate: _Predicate) -> dict[str, Any]:
    name = f"{predicate.model}/{predicate.version}"
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": predicate.content_digest}}],
        "predicateType": kind,
        "predicate": predicate.model_dump(mode="json"),
    }


def verify_attestation(
    envelope: str, ring: KeyRing, place: Place, now: datetime
) -> Proven[Attestation]:
    """Check everything about an attestation but the files it is about and its expiry.

    Raises:
        AttestationError: ``malformed``, ``unknown_key``, ``revoked_key``, ``bad_signature``,
            ``key_expired``, ``wrong_subject``, ``many_signatures`` or ``from_the_future``.
    """
    proven = _verify(envelope, ring, place, now, ATTESTATION_TYPE, Attestation)
    if len(proven.signers) != 1:
        raise AttestationError("many_signatures", "an attestation has one signature")
    return proven


def verify_override(envelope: str, ring: KeyRing, place: Place, now: datetime) -> Proven[Override]:
    """Check everything about an override but the files and the place it is for, and its expiry.

    Raises:
        AttestationError: As `verify_attestation`; there may be more than one signature.
    """
    return _verify(envelope, ring, place, now, OVERRIDE_TYPE, Override)


def is_expired(statement: _Predicate, now: datetime) -> bool:
    """Whether a statement's time is over at ``now``."""
    return not to_text(now) < statement.expires_at


def _verify(
    envelope: str, ring: KeyRing, place: Place, now: datetime, kind: str, model: type[_T]
) -> Proven[_T]:
    proven: Proven[_T] = _signed(envelope, ring, kind, model)
    statement = proven.statement
    if statement.place != place:
        found = statement.place
        text = (
            f"it is about version {found.version} of {found.model!r} in registry "
            f"{found.registry!r}, workspace {found.workspace!r}"
        )
        raise AttestationError("wrong_subject", text)
    if not statement.issued_at <= to_text(now + CLOCK_TOLERANCE):
        raise AttestationError("from_the_future", f"it is of {statement.issued_at}")
    return proven


@lru_cache(maxsize=128)
def _signed(envelope: str, ring: KeyRing, kind: str, model: type[_T]) -> Proven[_T]:
    """All that follows from the bytes of envelope and ring alone; kept for equal bytes.

    Place and moment are judged each time; a refusal is an error, and errors are not kept.
    """
    opened = open_envelope(envelope, ring)
    payload = opened.payload
    if payload.get("_type") != STATEMENT_TYPE or payload.get("predicateType") != kind:
        raise AttestationError("malformed", f"the payload is no {kind.split(':')[2]} statement")
    statement = _predicate(payload.get("predicate"), model)
    if payload != _statement(kind, statement):
        raise AttestationError("malformed", "subject and predicate of the statement do not agree")
    for key in opened.signers:
        key.check_time(statement.issued_at)
    return Proven(statement, opened.signers)


def _predicate(raw: object, model: type[_T]) -> _T:
    try:
        return model.model_validate_json(canonical_json(raw))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise AttestationError("malformed", f"predicate {where}: {first['msg']}") from error


def changed_files(attested: Sequence[FileEntry], found: Mapping[str, int]) -> tuple[str, ...]:
    """What a list of files with sizes shows to be other than attested, as sentences."""
    known = {entry.path: entry.size for entry in attested}
    return (
        *(f"{path} is missing" for path in sorted(known.keys() - found.keys())),
        *(f"{path} was added" for path in sorted(found.keys() - known.keys())),
        *(
            f"{path} has {counted(found[path], 'byte')}, {known[path]} were attested"
            for path in sorted(known.keys() & found.keys())
            if found[path] != known[path]
        ),
    )
