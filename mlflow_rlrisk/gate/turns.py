"""Writers of one SQLite file, one after the other.

SQLite lets a second writer ask again after pauses of up to 100 ms, and whoever asks at the right
moment goes first; at eight clients most of the time is spent in such pauses. A lock of the
operating system beside the database lets writers of all threads and workers queue instead. It
makes nothing safer: who does not take part still meets SQLite's own lock.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import sqlalchemy as sa

Turn = Callable[[], AbstractContextManager[None]]
"""Gives the block in which one may write."""

LOCK_SUFFIX = ".rlrisk-lock"


def turns_of(url: sa.URL) -> Turn:
    """How writers of this database take turns; other databases than SQLite files queue by rows."""
    path = url.database
    if url.get_backend_name() != "sqlite" or not path or path == ":memory:":
        return nullcontext
    return lambda: _queued(Path(f"{path}{LOCK_SUFFIX}"))


@contextmanager
def _queued(path: Path) -> Iterator[None]:
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
