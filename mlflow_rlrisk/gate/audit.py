"""The append-only log of every decision, in the registry's database.

Each entry holds the hash of the one before it, so that an entry that was changed, removed or put
in between is found by `read`. One row of a second table holds the head; whoever appends locks
that row first, so that the chain never forks, whatever the number of workers. The database itself
refuses to change or delete an entry where it knows triggers (SQLite, PostgreSQL).
"""

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from mlflow_rlrisk.attestation_envelope import canonical_json
from mlflow_rlrisk.attestation_keys import to_text
from mlflow_rlrisk.errors import AuditError
from mlflow_rlrisk.gate.turns import turns_of

GENESIS = "0" * 64
"""The hash before the first entry."""

_METADATA = sa.MetaData()


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """An entry as it stands in the chain."""

    sequence: int
    recorded_at: str
    entry: Entry
    previous: str
    hash: str

    def to_dict(self) -> dict[str, Any]:
        """The entry as one flat JSON object."""
        own = {"sequence": self.sequence, "recorded_at": self.recorded_at}
        return {**own, **asdict(self.entry), "previous": self.previous, "hash": self.hash}


_LOG = sa.Table(
    "rlrisk_gate_log",
    _METADATA,
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("recorded_at", sa.String(32), nullable=False),
    *(sa.Column(each.name, sa.Text, nullable=False) for each in fields(Entry)),
    sa.Column("previous", sa.String(64), nullable=False),
    sa.Column("hash", sa.String(64), nullable=False),
)
_HEAD = sa.Table(
    "rlrisk_gate_head",
    _METADATA,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("sequence", sa.Integer, nullable=False),
    sa.Column("hash", sa.String(64), nullable=False),
)
_SEALS = {
    "sqlite": [
        "CREATE TRIGGER IF NOT EXISTS rlrisk_gate_log_no_{verb} BEFORE {verb} ON rlrisk_gate_log "
        "BEGIN SELECT RAISE(ABORT, 'the rlrisk gate log is append-only'); END"
    ],
    "postgresql": [
        "CREATE OR REPLACE FUNCTION rlrisk_gate_log_seal() RETURNS trigger AS $$ BEGIN "
        "RAISE EXCEPTION 'the rlrisk gate log is append-only'; END $$ LANGUAGE plpgsql",
        "CREATE OR REPLACE TRIGGER rlrisk_gate_log_no_{verb} BEFORE {verb} ON rlrisk_gate_log "
        "FOR EACH ROW EXECUTE FUNCTION rlrisk_gate_log_seal()",
    ],
}


class AuditLog:
    """Appends to and reads the log in one database."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self.turn = turns_of(engine.url)
        """What every writer of the log holds while it writes."""

    def prepare(self) -> None:
        """Make tables, head row and seals where they are not there yet; twice does no harm."""
        with _log_errors(), self._engine.begin() as connection:
            if self._engine.dialect.name == "postgresql":  # workers of one server start together
                connection.execute(sa.text("SELECT pg_advisory_xact_lock(719031)"))
            _METADATA.create_all(connection)
            for statement in _SEALS.get(self._engine.dialect.name, []):
                for verb in ("UPDATE", "DELETE"):
                    connection.execute(sa.text(statement.format(verb=verb)))
            if connection.execute(sa.select(_HEAD)).first() is None:
                connection.execute(_HEAD.insert().values(id=1, sequence=0, hash=GENESIS))

    def append(self, entry: Entry, now: datetime) -> Recorded:
        """Write one entry; it is committed when this returns.

        Raises:
            AuditError: The database does not take it.
        """
        with self.turn(), _log_errors(), self._engine.begin() as connection:
            return self.append_within(connection, entry, now)

    def append_within(self, connection: sa.Connection, entry: Entry, now: datetime) -> Recorded:
        """Write one entry in a transaction that has not read yet; its end commits the entry too.

        Raises:
            AuditError: The database does not take it.
        """
        with _log_errors():
            # Writing first takes the lock on the head, before it is read.
            advanced = connection.execute(
                _HEAD.update().where(_HEAD.c.id == 1).values(sequence=_HEAD.c.sequence + 1)
            )
            if advanced.rowcount != 1:
                raise AuditError("the gate log has no head")
            sequence, previous = connection.execute(
                sa.select(_HEAD.c.sequence, _HEAD.c.hash).where(_HEAD.c.id == 1)
            ).one()
            recorded = _recorded(sequence, to_text(now), entry, previous)
            connection.execute(_LOG.insert().values(**recorded.to_dict()))
            connection.execute(_HEAD.update().where(_HEAD.c.id == 1).values(hash=recorded.hash))
        return recorded

    def read(self) -> list[Recorded]:
        """All entries, oldest first, after the whole chain was checked.

        Raises:
            AuditError: The chain is broken, or the log cannot be read.
        """
        with _log_errors(), self._engine.begin() as connection:
            head = connection.execute(sa.select(_HEAD.c.sequence, _HEAD.c.hash)).one_or_none()
            rows = connection.execute(sa.select(_LOG).order_by(_LOG.c.sequence)).mappings().all()
        if head is None:
            raise AuditError("the gate log has no head")
        entries = list(_checked_chain([dict(row) for row in rows]))
        # An entry may have come in between the two reads; the head is one of the chain then too.
        chain = {(0, GENESIS), *((each.sequence, each.hash) for each in entries)}
        if tuple(head) not in chain:
            raise AuditError(f"the gate log has {len(entries)} entries, its head is another")
        return entries

    def find(self, **wanted: str) -> list[Entry]:
        """Entries with these values, newest first; the chain is not checked."""
        query = sa.select(_LOG).order_by(_LOG.c.sequence.desc())
        for name, value in wanted.items():
            query = query.where(_LOG.c[name] == value)
        with _log_errors(), self._engine.begin() as connection:
            rows = connection.execute(query).mappings().all()
        return [_entry_of(dict(row)) for row in rows]


def _checked_chain(rows: list[dict[str, Any]]) -> Iterator[Recorded]:
    previous = GENESIS
    for position, row in enumerate(rows, 1):
        recorded = _recorded(position, row["recorded_at"], _entry_of(row), previous)
        if recorded.to_dict() != row:
            raise AuditError(f"the gate log is broken at entry {position}")
        previous = recorded.hash
        yield recorded


def _entry_of(row: dict[str, Any]) -> Entry:
    return Entry(**{each.name: row[each.name] for each in fields(Entry)})


def _recorded(sequence: int, recorded_at: str, entry: Entry, previous: str) -> Recorded:
    text = canonical_json([sequence, recorded_at, asdict(entry), previous])
    return Recorded(
        sequence=sequence,
        recorded_at=recorded_at,
        entry=entry,
        previous=previous,
        hash=hashlib.sha256(text.encode()).hexdigest(),
    )


class _log_errors:  # noqa: N801  (used as a context manager function)
    """Turn what the database says into an `AuditError`."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, sa.exc.SQLAlchemyError):
            text = str(getattr(error, "orig", None) or error).splitlines()[0]
            raise AuditError(f"the gate log does not answer: {text}") from error
