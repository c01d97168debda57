"""What a run logged, in order and without its accidents.

A log has duplicates, lines that come late, values that are not finite and, where a run was
restarted from a checkpoint, stretches that were written twice. `History` keeps one row a step, the
last one written, and counts what it had to mend; the counts are printed with every judgement.
"""

import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple


class LogRow(NamedTuple):
    """What a trainer logged at one step, under its own metric names."""

    step: int
    metrics: Mapping[str, float]


@dataclass(slots=True)
class History:
    """One row a step, ascending.

    Attributes:
        rows: The rows that count.
        num_duplicates: Rows that added nothing to a step or rewrote the newest one.
        num_late: Rows that came after a later step.
        restarts: ``(step, last step given up)`` of every restart from a checkpoint.
        not_finite: Values that were NaN or infinite, by metric name.
    """

    rows: list[LogRow] = field(default_factory=list)
    num_duplicates: int = 0
    num_late: int = 0
    restarts: list[tuple[int, int]] = field(default_factory=list)
    not_finite: dict[str, int] = field(default_factory=dict)

    def add(self, row: LogRow) -> int:
        """Take one row in the order of writing.

        A step that was logged before with other values and is not the newest one means that the
        run was restarted: it and all later steps are given up.

        Returns:
            Index of the first row that changed; ``len(rows)`` where none did.
        """
        metrics = self._finite(row.metrics)
        index = bisect_left(self.rows, row.step, key=lambda known: known.step)
        if index == len(self.rows):
            self.rows.append(LogRow(row.step, metrics))
            return index
        known = self.rows[index]
        if known.step != row.step:
            self.num_late += 1
            self.rows.insert(index, LogRow(row.step, metrics))
            return index
        shared = known.metrics.keys() & metrics.keys()
        differs = any(known.metrics[name] != metrics[name] for name in shared)
        if differs and index < len(self.rows) - 1:
            self.restarts.append((row.step, self.rows[-1].step))
            self.rows[index:] = [LogRow(row.step, metrics)]
            return index
        merged = {**known.metrics, **metrics}
        if differs or merged == known.metrics:
            self.num_duplicates += 1
        if merged == known.metrics:
            return len(self.rows)
        self.rows[index] = LogRow(row.step, merged)
        return index

    def names(self) -> set[str]:
        """Every metric name of the rows that count."""
        return set().union(*(row.metrics for row in self.rows))

    def notes(self) -> list[str]:
        """What was mended, in words; nothing where the log was in order."""
        notes = []
        for step, last in self.restarts:
            notes.append(
                f"restart: step {step} was written again after step {last}; what was logged from "
                "there on before does not count, nor does an alarm it raised"
            )
        if self.num_duplicates:
            notes.append(f"duplicates: {self.num_duplicates} rows repeat a step; the last counts")
        if self.num_late:
            notes.append(f"late: {self.num_late} rows came after a later step and were sorted in")
        for name, count in sorted(self.not_finite.items()):
            notes.append(f"not finite: {count} values of {name} are NaN or infinite and left out")
        notes += [
            f"gap: nothing is logged between steps {before} and {after}"
            for before, after in self._gaps()
        ]
        return notes

    def _finite(self, metrics: Mapping[str, float]) -> dict[str, float]:
        for name, value in metrics.items():
            if not math.isfinite(value):
                self.not_finite[name] = self.not_finite.get(name, 0) + 1
        return {name: value for name, value in metrics.items() if math.isfinite(value)}

    def _gaps(self) -> list[tuple[int, int]]:
        """Distances of more than three times the usual one."""
        steps = [row.step for row in self.rows]
        widths = sorted(after - before for before, after in pairwise(steps))
        if not widths:
            return []
        usual = widths[len(widths) // 2]
        return [(before, after) for before, after in pairwise(steps) if after - before > 3 * usual]
