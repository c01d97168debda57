"""Deliveries that were taken: each id once, and what is still to be looked at.

The id and the hint are one row in one transaction. A delivery that could not be stored was not
taken, so MLflow's retry of it, which has the same id, is; one that was is a replay.
"""

import time
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from service.commit_points import CommitPoint, reached
from service.tables.database import METADATA, read, write

KEPT_S = 24 * 3600.0
"""Far beyond the age at which a signature counts."""

_TABLE = sa.Table(
    "rlrisk_deliveries",
    METADATA,
    sa.Column("id", sa.String(128), primary_key=True),
    sa.Column("received_at", sa.Float, nullable=False, index=True),
    sa.Column("event", sa.String(160), nullable=False),
    sa.Column("model", sa.String(256), nullable=False),
    sa.Column("version", sa.String(32), nullable=False),
    sa.Column("handled_at", sa.Float, index=True),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hint:
    """A version of which MLflow told something."""

    id: str
    event: str
    model: str
    version: str


class DeliveryTable:
    """The deliveries of a service."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def take(self, hint: Hint, *, is_wanted: bool) -> bool:
        """Keep a delivery; false where its id was taken before.

        Args:
            hint: What it told.
            is_wanted: Whether a trigger may fit, so that somebody has to look.
        """
        now = time.time()
        row = {name: getattr(hint, name) for name in hint.__slots__}
        row |= {"received_at": now, "handled_at": None if is_wanted else now}
        try:
            with write(self._engine) as connection:
                connection.execute(sa.insert(_TABLE).values(row))
                reached(CommitPoint.DELIVERY_UNCOMMITTED)
        except IntegrityError:
            return False
        reached(CommitPoint.DELIVERY_COMMITTED)
        return True

    def waiting(self, limit: int) -> list[Hint]:
        """Hints that nobody looked at yet, the oldest first."""
        wanted = (
            sa.select(*(_TABLE.c[name] for name in Hint.__slots__))
            .where(_TABLE.c.handled_at.is_(None))
            .order_by(_TABLE.c.received_at)
            .limit(limit)
        )
        with read(self._engine) as connection:
            return [Hint(**row) for row in connection.execute(wanted).mappings()]

    def handled(self, delivery_id: str) -> None:
        """Note that it was looked at."""
        change = sa.update(_TABLE).where(_TABLE.c.id == delivery_id)
        with write(self._engine) as connection:
            connection.execute(change.values(handled_at=time.time()))

    def forget_old(self) -> None:
        """Delete ids whose signatures count no more."""
        old = sa.and_(_TABLE.c.received_at < time.time() - KEPT_S, _TABLE.c.handled_at.is_not(None))
        with write(self._engine) as connection:
            connection.execute(sa.delete(_TABLE).where(old))
