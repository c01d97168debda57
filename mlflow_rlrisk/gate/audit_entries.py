"""Entries of the gate's log, and how each is chained to the one before. Pure."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from mlflow_rlrisk.attestation.envelope import canonical_json
from mlflow_rlrisk.errors import AuditError

GENESIS = "0" * 64
"""The hash before the first entry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One decision.

    Attributes:
        action: What was asked for, such as ``set_alias``.
        outcome: ``promote``, ``block``, ``inconclusive``, or ``failed`` where the registry itself
            did not do what had been allowed, or ``done`` for what needs no leave.
        reason: A stable word.
        message: What the caller was told.
        workspace: MLflow workspace.
        model: Registered model.
        version: Its version; empty where it is about the model.
        target: Alias or stage, as in `Target.key`, or tag, or new name.
        rule: Rule of the policy that decided.
        actor: User and address that asked, as far as the server knows.
        content_digest: What was attested or overridden.
        key_ids: Keys that signed it, separated by spaces.
        bar_digest: Policy, key ring and risk policy that were in force.
    """

    action: str
    outcome: str
    reason: str
    message: str
    workspace: str
    model: str
    version: str = ""
    target: str = ""
    rule: str = ""
    actor: str = ""
    content_digest: str = ""
    key_ids: str = ""
    bar_digest: str = ""

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "Entry":
        """Read from a row of the log."""
        return cls(**{each.name: row[each.name] for each in fields(cls)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """An entry as it stands in the chain."""

    sequence: int
    recorded_at: str
    entry: Entry
    previous: str
    hash: str

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "Recorded":
        """Read from a row of the log."""
        own = {each.name: row[each.name] for each in fields(cls) if each.name != "entry"}
        return cls(entry=Entry.of(row), **own)

    def to_dict(self) -> dict[str, Any]:
        """The entry as one flat JSON object."""
        own = {"sequence": self.sequence, "recorded_at": self.recorded_at}
        return {**own, **asdict(self.entry), "previous": self.previous, "hash": self.hash}


def chained(sequence: int, recorded_at: str, entry: Entry, previous: str) -> Recorded:
    """Put an entry behind the one whose hash is ``previous``."""
    text = canonical_json([sequence, recorded_at, asdict(entry), previous])
    return Recorded(
        sequence=sequence,
        recorded_at=recorded_at,
        entry=entry,
        previous=previous,
        hash=hashlib.sha256(text.encode()).hexdigest(),
    )


def checked_chain(rows: Iterable[Mapping[str, Any]]) -> Iterator[Recorded]:
    """Read rows in their order.

    Raises:
        AuditError: One was changed, or does not follow the one before.
    """
    previous = GENESIS
    for position, row in enumerate(rows, 1):
        recorded = chained(position, row["recorded_at"], Entry.of(row), previous)
        if recorded.to_dict() != row:
            raise AuditError(f"the gate log is broken at entry {position}")
        previous = recorded.hash
        yield recorded
