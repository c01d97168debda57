"""Which worker looks at the registry, and how far it has looked; one row for all workers.

The lease only saves work: two workers that both look start nothing twice.
"""

import time

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from service.commit_points import CommitPoint, reached
from service.tables.database import METADATA, read, write

LEASE_S = 15.0
"""After the death of the worker that looks another one does, well within a minute."""
MAX_LEASE_S = 120.0
"""One that lasts longer was taken by a clock that was wrong; ours may differ by the most of it."""
_NAME = "registry"

_TABLE = sa.Table(
    "rlrisk_poller",
    METADATA,
    sa.Column("name", sa.String(32), primary_key=True),
    sa.Column("holder", sa.String(128), nullable=False),
    sa.Column("until", sa.Float, nullable=False),
    sa.Column("watermark", sa.BigInteger),
)


class PollerState:
    """The lease and the watermark, as one worker sees them."""

    def __init__(self, engine: sa.Engine, holder: str) -> None:
        self._engine, self._holder = engine, holder
        self._renew_at = 0.0
        self._is_mine = False

    def is_mine(self) -> bool:
        """Whether this worker is the one that looks; asked for and renewed as time goes by."""
        if time.monotonic() >= self._renew_at:
            self._is_mine = self._take()
            if self._is_mine:
                reached(CommitPoint.POLLER_LEASED)
            self._renew_at = time.monotonic() + LEASE_S / 3
        return self._is_mine

    def _take(self) -> bool:
        now = time.time()
        row = {"holder": self._holder, "until": now + LEASE_S}
        is_free = sa.or_(
            _TABLE.c.holder == self._holder,
            _TABLE.c.until < now,
            _TABLE.c.until > now + MAX_LEASE_S,
        )
        change = sa.update(_TABLE).where(_TABLE.c.name == _NAME, is_free).values(row)
        try:
            with write(self._engine) as connection:
                if connection.execute(change).rowcount == 1:
                    return True
                if connection.execute(sa.select(_TABLE.c.name)).first() is not None:
                    return False
                connection.execute(sa.insert(_TABLE).values(name=_NAME, **row))
        except IntegrityError:  # another one was first
            return False
        return True

    def watermark(self) -> int | None:
        """Versions made before it were looked at, in ms since the epoch; ``None`` at first."""
        with read(self._engine) as connection:
            wanted = sa.select(_TABLE.c.watermark).where(_TABLE.c.name == _NAME)
            found: int | None = connection.execute(wanted).scalar_one_or_none()
        return found

    def looked_until(self, watermark: int) -> None:
        """Raise the watermark; it never falls."""
        change = sa.update(_TABLE).where(
            _TABLE.c.name == _NAME,
            sa.or_(_TABLE.c.watermark.is_(None), _TABLE.c.watermark < watermark),
        )
        with write(self._engine) as connection:
            connection.execute(change.values(watermark=watermark))
