"""Overrides that were asked for: who asked, who approved, and what became of them.

A row is a request of authenticated people and nothing more; whoever holds the keys reads it here,
checks it again and makes the statement that is signed. Rows are never deleted.
"""

import time
import uuid
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from service.tables.database import METADATA, read, storable, write


class OverrideState(StrEnum):
    """Where a request is; only ``signed`` lets anything pass."""

    PENDING = "pending"
    APPROVED = "approved"
    SIGNED = "signed"
    FAILED = "failed"


_TABLE = sa.Table(
    "rlrisk_overrides",
    METADATA,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("number", sa.Float, nullable=False, index=True),
    sa.Column("model", sa.String(256), nullable=False),
    sa.Column("version", sa.String(32), nullable=False),
    sa.Column("target_kind", sa.String(16), nullable=False),
    sa.Column("target_name", sa.String(256), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("expires", sa.String(16), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("requested_by", sa.String(64), nullable=False),
    sa.Column("requested_name", sa.String(128), nullable=False),
    sa.Column("approved_by", sa.String(64)),
    sa.Column("approved_name", sa.String(128)),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("settled_at", sa.Float),
    sa.Column("expires_at", sa.String(32)),
    sa.Column("key_ids", sa.Text),
    sa.Column("error", sa.Text),
)

_ENVELOPES = sa.Table(
    "rlrisk_override_envelopes",
    METADATA,
    sa.Column("override_id", sa.String(36), primary_key=True),
    sa.Column("envelope", sa.Text, nullable=False),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class OverrideRow:
    """One request; times are seconds since the epoch, ``expires_at`` is as it was signed.

    Attributes:
        number: Its place in the order of asking.
        target_kind: ``alias`` or ``stage``.
        expires: How long it shall last from its signature, such as ``24h``.
        requested_by: Id of the token that asked; its name beside it.
        approved_by: Id of the second token; ``None`` where none was needed or none came yet.
        settled_at: When it was signed or failed.
        key_ids: Keys that signed, separated by spaces.
        error: Why it failed.
    """

    id: str
    number: float
    model: str
    version: str
    target_kind: str
    target_name: str
    reason: str
    expires: str
    state: OverrideState
    requested_by: str
    requested_name: str
    approved_by: str | None
    approved_name: str | None
    created_at: float
    settled_at: float | None
    expires_at: str | None
    key_ids: str | None
    error: str | None

    @property
    def people(self) -> tuple[tuple[str, str], ...]:
        """Id and name of every token that stands behind it."""
        asked = (self.requested_by, self.requested_name)
        if self.approved_by is None:
            return (asked,)
        return (asked, (self.approved_by, self.approved_name or ""))


class OverrideTable:
    """The requests of a service."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def ask(
        self,
        *,
        model: str,
        version: str,
        target: tuple[str, str],
        reason: str,
        expires: str,
        person: tuple[str, str],
        needs_approval: bool,
    ) -> OverrideRow:
        """Keep a request.

        Args:
            model: Registered model.
            version: Its version.
            target: Kind and name of the place.
            reason: Why.
            expires: Duration.
            person: Id and name of the token.
            needs_approval: Whether a second token must approve before it is signed.
        """
        now = time.time()
        row = {
            "id": str(uuid.uuid4()),
            "number": now,
            "model": model,
            "version": version,
            "target_kind": target[0],
            "target_name": target[1],
            "reason": reason,
            "expires": expires,
            "state": OverrideState.PENDING if needs_approval else OverrideState.APPROVED,
            "requested_by": person[0],
            "requested_name": person[1],
            "created_at": now,
        }
        with write(self._engine) as connection:
            connection.execute(sa.insert(_TABLE).values(row))
        found = self.find(str(row["id"]))
        assert found is not None  # rows are never deleted
        return found

    def approve(self, override_id: str, person: tuple[str, str]) -> bool:
        """Note the second person; false where it does not wait for one or they asked themselves.

        True again for that person until it is settled: what signs may have died in between.
        """
        is_theirs = sa.and_(
            _TABLE.c.state == OverrideState.APPROVED, _TABLE.c.approved_by == person[0]
        )
        change = (
            sa.update(_TABLE)
            .where(
                _TABLE.c.id == override_id,
                sa.or_(_TABLE.c.state == OverrideState.PENDING, is_theirs),
                _TABLE.c.requested_by != person[0],
            )
            .values(state=OverrideState.APPROVED, approved_by=person[0], approved_name=person[1])
        )
        with write(self._engine) as connection:
            return connection.execute(change).rowcount == 1

    def signed(self, override_id: str, *, expires_at: str, key_ids: str) -> None:
        """Note that the version carries it, also where another try at the same time failed."""
        unsigned = (OverrideState.APPROVED, OverrideState.FAILED)
        values = {"expires_at": expires_at, "key_ids": key_ids, "error": None}
        self._settle(override_id, OverrideState.SIGNED, *unsigned, **values)

    def failed(self, override_id: str, error: str) -> None:
        """Note why it was not signed."""
        self._settle(
            override_id, OverrideState.FAILED, OverrideState.APPROVED, error=storable(error)
        )

    def envelope(self, override_id: str) -> str | None:
        """What was signed for it, whether or not it reached the version."""
        wanted = sa.select(_ENVELOPES.c.envelope).where(_ENVELOPES.c.override_id == override_id)
        with read(self._engine) as connection:
            found: str | None = connection.execute(wanted).scalar_one_or_none()
        return found

    def keep(self, override_id: str, envelope: str) -> str:
        """Keep what was signed unless something is kept; returns what is."""
        values = {"override_id": override_id, "envelope": envelope}
        try:
            with write(self._engine) as connection:
                connection.execute(sa.insert(_ENVELOPES).values(values))
        except IntegrityError:  # another try at the same time was faster
            return str(self.envelope(override_id))
        return envelope

    def find(self, override_id: str) -> OverrideRow | None:
        """The request of that id."""
        with read(self._engine) as connection:
            wanted = sa.select(_TABLE).where(_TABLE.c.id == override_id)
            row = connection.execute(wanted).mappings().one_or_none()
        return None if row is None else _row(row)

    def page(
        self, *, limit: int, before: float | None = None, before_id: str = ""
    ) -> list[OverrideRow]:
        """The newest first; arguments as of `AssessmentTable.page`."""
        wanted = sa.select(_TABLE).order_by(_TABLE.c.number.desc(), _TABLE.c.id.desc()).limit(limit)
        if before is not None:
            is_same = sa.and_(_TABLE.c.number == before, _TABLE.c.id < before_id)
            wanted = wanted.where(sa.or_(_TABLE.c.number < before, is_same))
        with read(self._engine) as connection:
            return [_row(row) for row in connection.execute(wanted).mappings()]

    def _settle(
        self, override_id: str, state: OverrideState, *before: OverrideState, **values: Any
    ) -> None:
        change = (
            sa.update(_TABLE)
            .where(_TABLE.c.id == override_id, _TABLE.c.state.in_(before))
            .values(state=state, settled_at=time.time(), **values)
        )
        with write(self._engine) as connection:
            connection.execute(change)


def _row(row: sa.RowMapping) -> OverrideRow:
    values: dict[str, Any] = {name: row[name] for name in OverrideRow.__slots__}
    return OverrideRow(**values | {"state": OverrideState(values["state"])})
