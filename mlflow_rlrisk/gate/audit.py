"""The append-only log of every decision, in the registry's database.

Each entry holds the hash of the one before it, so that an entry that was changed, removed or put
in between is found by `read`. The database itself refuses to change or delete an entry where it
knows triggers (SQLite, PostgreSQL).
"""

from datetime import datetime

import sqlalchemy as sa

from mlflow_rlrisk.attestation.keys import to_text
from mlflow_rlrisk.errors import AuditError
from mlflow_rlrisk.gate.audit_entries import GENESIS, Entry, Recorded, checked_chain
from mlflow_rlrisk.gate.audit_tables import HEAD, LOG, append_last, prepare
from mlflow_rlrisk.gate.turns import turns_of
from mlflow_rlrisk.plurals import counted

__all__ = ["GENESIS", "AuditLog", "Entry", "Recorded"]


class AuditLog:
    """Appends to and reads the log in one database."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self.turn = turns_of(engine.url)
        """What every writer of the log holds while it writes."""

    def prepare(self) -> None:
        """Make what the log needs in the database; twice does no harm."""
        with _log_errors(), self._engine.begin() as connection:
            prepare(connection)

    def append(self, entry: Entry, now: datetime) -> None:
        """Write one entry; it is committed when this returns.

        Raises:
            AuditError: The database does not take it.
        """
        with self.turn(), _log_errors(), self._engine.begin() as connection:
            append_last(connection, entry, to_text(now))

    def append_last(self, connection: sa.Connection, entry: Entry, now: datetime) -> None:
        """Write one entry as the last thing in a transaction; they are committed together.

        Raises:
            AuditError: The database does not take it.
        """
        with _log_errors():
            append_last(connection, entry, to_text(now))

    def read(self) -> list[Recorded]:
        """All entries, oldest first, after the whole chain was checked.

        Raises:
            AuditError: The chain is broken, or the log cannot be read.
        """
        with _log_errors(), self._engine.begin() as connection:
            head = connection.execute(sa.select(HEAD.c.sequence, HEAD.c.hash)).one_or_none()
            rows = connection.execute(sa.select(LOG).order_by(LOG.c.sequence)).mappings().all()
        if head is None:
            raise AuditError("the gate log has no head")
        entries = list(checked_chain([dict(row) for row in rows]))
        # An entry may have come in between the two reads; the head is one of the chain then too.
        chain = {(0, GENESIS), *((each.sequence, each.hash) for each in entries)}
        if tuple(head) not in chain:
            raise AuditError(
                f"the gate log has {counted(len(entries), 'entry', 'entries')}, its head is another"
            )
        return entries

    def find(self, **wanted: str) -> list[Entry]:
        """Entries with these values, newest first; the chain is not checked."""
        return [each.entry for each in self.find_recorded(**wanted)]

    def find_recorded(self, **wanted: str) -> list[Recorded]:
        """The same entries with their places in the log."""
        query = sa.select(LOG).order_by(LOG.c.sequence.desc())
        for name, value in wanted.items():
            query = query.where(LOG.c[name] == value)
        with _log_errors(), self._engine.begin() as connection:
            rows = connection.execute(query).mappings().all()
        return [Recorded.of(dict(row)) for row in rows]


class _log_errors:  # noqa: N801  (used as a context manager function)
    """Turn what the database says into an `AuditError`."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, sa.exc.SQLAlchemyError):
            text = str(getattr(error, "orig", None) or error).splitlines()[0]
            raise AuditError(f"the gate log does not answer: {text}") from error
