"""Which workers are alive: each says so every now and then, the others notice when it stops."""

import time

import sqlalchemy as sa

from service.tables.database import METADATA, read, write

_TABLE = sa.Table(
    "rlrisk_workers",
    METADATA,
    sa.Column("name", sa.String(128), primary_key=True),
    sa.Column("seen_at", sa.Float, nullable=False),
)


def say_alive(engine: sa.Engine, name: str) -> None:
    """Note that the worker lives."""
    seen_at = time.time()
    with write(engine) as connection:
        change = sa.update(_TABLE).where(_TABLE.c.name == name).values(seen_at=seen_at)
        if connection.execute(change).rowcount == 0:
            connection.execute(sa.insert(_TABLE).values(name=name, seen_at=seen_at))


def living(engine: sa.Engine, life_s: float) -> list[str]:
    """Workers that have said something within ``life_s``."""
    with read(engine) as connection:
        wanted = sa.select(_TABLE.c.name).where(_TABLE.c.seen_at >= time.time() - life_s)
        return [str(name) for (name,) in connection.execute(wanted)]


def gone(engine: sa.Engine, life_s: float) -> list[str]:
    """Workers that have said nothing for ``life_s``; their clocks may differ by a part of it."""
    with read(engine) as connection:
        wanted = sa.select(_TABLE.c.name).where(_TABLE.c.seen_at < time.time() - life_s)
        return [str(name) for (name,) in connection.execute(wanted)]
