"""What was read of a SQLite file, kept until anybody commits to it.

SQLite counts the commits of other connections (``PRAGMA data_version``), which costs microseconds
where a query costs hundreds. A value is given out only if nobody has committed since before it was
read, so a revoked token and a new report count at once. Other databases are asked every time.
"""

import sqlite3
import threading
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import sqlalchemy as sa

MAX_KEPT = 4096

_T = TypeVar("_T")


class Unchanged:
    """Values by key, of one database."""

    def __init__(self, url: sa.URL) -> None:
        is_file = url.get_backend_name() == "sqlite" and url.database not in (None, "", ":memory:")
        self._file = str(url.database) if is_file else None
        self._watch: sqlite3.Connection | None = None
        self._lock = threading.Lock()
        self._kept: dict[Hashable, Any] = {}
        self._at: int | None = None

    @property
    def is_watched(self) -> bool:
        """Whether it is a file whose commits can be counted."""
        return self._file is not None

    def get(self, key: Hashable, read: Callable[[], _T]) -> _T:
        """The value of `read`, asked for anew where the database may have changed."""
        with self._lock:
            at = self._commits()
            if at is None or at != self._at or len(self._kept) >= MAX_KEPT:
                self._kept.clear()
                self._at = at
            elif key in self._kept:
                found: _T = self._kept[key]
                return found
        value = read()
        with self._lock:
            # A commit during `read` has another count, and whoever comes next sees it.
            if at is not None and at == self._at:
                self._kept[key] = value
        return value

    def _commits(self) -> int | None:
        """SQLite's count; ``None`` where it cannot be had, and nothing may be kept."""
        if self._file is None:
            return None
        try:
            if self._watch is None:
                self._watch = sqlite3.connect(
                    self._file, timeout=0, isolation_level=None, check_same_thread=False
                )
            return int(self._watch.execute("PRAGMA data_version").fetchone()[0])
        except sqlite3.Error:  # `read` meets the same and says what it is
            self._watch = None
            return None
