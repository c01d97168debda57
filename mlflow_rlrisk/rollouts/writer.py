"""Appends groups as they come, in few shards."""

import time
from types import TracebackType
from typing import Self

from mlflow_rlrisk.records import GradedGroup, RolloutGroup
from mlflow_rlrisk.rollouts.store import RolloutStore


class RolloutWriter:
    """Appends groups one by one, in shards of what came within ``flush_s`` seconds.

    A single append costs two synced files, too much for a group of a few milliseconds. Leaving
    the ``with`` block stores the rest, also on Ctrl-C; a kill loses at most ``flush_s`` seconds.
    """

    def __init__(self, store: RolloutStore, flush_s: float = 1.0) -> None:
        self._store = store
        self._flush_s = flush_s
        self._waiting: list[RolloutGroup | GradedGroup] = []
        self._flushed_at = time.monotonic()

    def __enter__(self) -> Self:
        """Start waiting for groups."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Store what waits, whatever ended the block."""
        self.flush()

    def add(self, group: RolloutGroup | GradedGroup) -> None:
        """Take a complete group."""
        self._waiting.append(group)
        if time.monotonic() - self._flushed_at >= self._flush_s:
            self.flush()

    def flush(self) -> None:
        """Store what waits."""
        waiting, self._waiting = self._waiting, []
        self._store.append(waiting)
        self._flushed_at = time.monotonic()
