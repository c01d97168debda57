"""What a source gives, and single measurements put back into the rows they were logged as."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from mlflow_rlrisk.errors import HistoryError
from mlflow_rlrisk.monitor.history import LogRow
from mlflow_rlrisk.monitor.tracks import RunFacts


class NothingLoggedError(HistoryError):
    """The log can be read and holds no row: whoever watches it waits for the first."""


class Point(NamedTuple):
    """One value of one metric, ordered by when it was written."""

    time: float
    step: int
    name: str
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredLog:
    """A log as it is now.

    Attributes:
        rows: In the order of writing.
        notes: What could not be read.
        facts: What the source knows of the run beside its metrics.
        is_finished: Whether nothing will be added; ``None`` where the source does not say.
    """

    rows: list[LogRow]
    notes: tuple[str, ...] = ()
    facts: RunFacts = field(default_factory=RunFacts)
    is_finished: bool | None = None


class HistorySource(Protocol):
    """Reads a run's log; called again and again while a run is followed."""

    @property
    def title(self) -> str:
        """What is read, for people."""

    def read(self) -> StoredLog:
        """The whole log as it is now.

        Raises:
            HistoryError: It cannot be read, or nothing in it has a step.
        """


def rows_from_points(points: Iterable[Point]) -> list[LogRow]:
    """Rows in the order of writing: neighbours of one step are one row."""
    rows: list[LogRow] = []
    metrics: dict[str, float] = {}
    for point in sorted(points):
        if not rows or rows[-1].step != point.step or point.name in metrics:
            metrics = {}
            rows.append(LogRow(point.step, metrics))
        metrics[point.name] = point.value
    return rows
