"""What each worker found of its sandbox, for each verifier that judges programs."""

import time
from collections.abc import Sequence

import sqlalchemy as sa

from service.tables.database import METADATA, read, write

_TABLE = sa.Table(
    "rlrisk_sandboxes",
    METADATA,
    sa.Column("worker", sa.String(128), primary_key=True),
    sa.Column("verifier", sa.String(128), primary_key=True),
    sa.Column("fault", sa.Text),
    sa.Column("checked_at", sa.Float, nullable=False),
)


def noted(engine: sa.Engine, verifier: str, workers: Sequence[str]) -> list[str | None]:
    """Why each of the workers that has said so cannot judge with it; ``None`` where one can."""
    with read(engine) as connection:
        wanted = sa.select(_TABLE.c.fault).where(
            _TABLE.c.verifier == verifier, _TABLE.c.worker.in_(workers)
        )
        return [fault for (fault,) in connection.execute(wanted)]


def note(engine: sa.Engine, worker: str, verifier: str, fault: str | None) -> None:
    """Keep what a worker found; it takes the place of what it found before."""
    values = {"fault": fault, "checked_at": time.time()}
    key = (_TABLE.c.worker == worker) & (_TABLE.c.verifier == verifier)
    with write(engine) as connection:
        if connection.execute(sa.update(_TABLE).where(key).values(**values)).rowcount == 0:
            new = sa.insert(_TABLE).values(worker=worker, verifier=verifier, **values)
            connection.execute(new)
