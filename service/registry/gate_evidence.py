"""What the gate knows, for people to read: a version's attestation, and the audit log."""

import os
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from mlflow_rlrisk.attestation import (
    ATTESTATION_TAG,
    Attestation,
    Place,
    Proven,
    is_expired,
    verify_attestation,
)
from mlflow_rlrisk.errors import AttestationError, CheckpointError, ConfigError
from mlflow_rlrisk.gate.evidence import gather
from mlflow_rlrisk.gate.promotion_policy import POLICY_VARIABLE, Bar, PolicySource
from mlflow_rlrisk.gate.registry_database import open_log

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from mlflow_rlrisk.gate.audit import AuditLog, Recorded
    from service.registry.records import VersionRecord

State = Literal["none", "unchecked", "proven", "expired", "refused"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AttestationState:
    """Whether a version's signed statement holds.

    Attributes:
        state: ``none``: it has none; ``unchecked``: no key ring is at hand; ``proven``: signature,
            place and time hold, files were not compared; ``expired``; ``refused``.
        sentence: The same for people.
        statement: What was attested; only where the signature holds.
        signers: Ids of the keys.
    """

    state: State
    sentence: str
    statement: Attestation | None = None
    signers: tuple[str, ...] = ()


class GateReader:
    """Reads the gate's policy, keys and log; changes none of them."""

    def __init__(
        self,
        client: "MlflowClient",
        registry_uri: str,
        *,
        policy_path: str | None = None,
        log_uri: str | None = None,
    ) -> None:
        """Bind to a registry.

        Args:
            client: A client of it.
            registry_uri: Its address.
            policy_path: The gate's policy file; that of ``RLRISK_POLICY`` by default.
            log_uri: Database of the registry, as given to ``mlflow server``; by default that of
                ``MLFLOW_REGISTRY_STORE_URI`` or the registry itself where it is a database.
        """
        self._client, self._registry_uri = client, registry_uri
        path = policy_path or os.environ.get(POLICY_VARIABLE)
        self._policy = PolicySource(path) if path else None
        self._log_uri = log_uri
        self._log: AuditLog | None = None
        self._lock = threading.Lock()

    def attestation(self, version: "VersionRecord") -> AttestationState:
        """Check the signed statement of a version, as the gate does, but for its files."""
        from mlflow.exceptions import MlflowException

        try:
            bar = self._policy.current() if self._policy else None
        except ConfigError as error:
            return _unchecked(version, f"the gate's policy file cannot be used: {error}")
        if bar is None:
            return _unchecked(version, f"{POLICY_VARIABLE} names no policy file")
        try:
            return self._checked(version, bar)
        except (MlflowException, CheckpointError, OSError) as error:
            return _unchecked(version, f"the registry does not answer: {type(error).__name__}")

    def log(self) -> "list[Recorded]":
        """The whole log, newest first, after its chain was checked.

        Raises:
            ConfigError: No database is named, or it has no log.
            AuditError: The chain is broken, or the log cannot be read.
        """
        with self._lock:
            if self._log is None:
                self._log = open_log(self._log_uri or self._own_database())
            log = self._log
        return log.read()[::-1]

    def _own_database(self) -> str | None:
        """The registry's address where it names a database; a server does not tell its own."""
        uri = self._registry_uri
        return None if uri.startswith(("http://", "https://")) else uri

    def _checked(self, version: "VersionRecord", bar: Bar) -> AttestationState:
        place = Place(
            registry=bar.policy.registry,
            workspace=version.workspace,
            model=version.name,
            version=version.version,
        )
        evidence = gather(self._client, place, with_files=False)
        if evidence.envelope is None:
            return AttestationState(state="none", sentence=_NONE)
        now, fault = datetime.now(UTC), ""
        for attested in evidence.attested_places:
            try:
                return _proven(verify_attestation(evidence.envelope, bar.ring, attested, now), now)
            except AttestationError as error:
                fault = str(error)
        return AttestationState(state="refused", sentence=f"The signature does not hold: {fault}.")


_NONE = "No signed attestation: what the tags say proves nothing to the gate."


def _unchecked(version: "VersionRecord", why: str) -> AttestationState:
    if ATTESTATION_TAG not in version.tags:
        return AttestationState(state="none", sentence=_NONE)
    return AttestationState(
        state="unchecked", sentence=f"It carries an attestation that was not checked: {why}."
    )


def _proven(found: Proven[Attestation], now: datetime) -> AttestationState:
    statement, signers = found.statement, tuple(key.key_id for key in found.signers)
    if is_expired(statement, now):
        return AttestationState(
            state="expired",
            sentence=f"The signature holds, but it expired at {statement.expires_at}.",
            statement=statement,
            signers=signers,
        )
    return AttestationState(
        state="proven",
        sentence=(
            f"Signature, place and time hold until {statement.expires_at}; the gate compares the "
            "files as well when it decides."
        ),
        statement=statement,
        signers=signers,
    )
