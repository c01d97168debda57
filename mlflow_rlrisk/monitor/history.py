"""What a run logged, in order and without its accidents.

A log has duplicates, lines that come late, values that are not finite and, where a run was
restarted from a checkpoint, stretches that were written twice. `History` keeps one row a step, the
last one written, and counts what it had to mend; the counts are printed with every judgement.
"""

import hashlib
import json
import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from mlflow_rlrisk.monitor.trainers import KNOWN
from mlflow_rlrisk.plurals import counted

LARGEST = 1e100
"""No metric is as large; MLflow's SQL stores give 1.8e308 for an infinity."""
FEWEST_WIDTHS = 3
"""Distances of neighbouring rows from which it is known how far apart rows are."""
IDENTIFYING_ROWS = 10
"""A log is known by so many first rows, and by twice, four times, ... as many where it has them."""


class LogRow(NamedTuple):
    """What a trainer logged at one step, under its own metric names."""

    step: int
    metrics: Mapping[str, float]


@dataclass(slots=True)
class History:
    """One row a step, ascending.

    Attributes:
        rows: The rows that count. A value that is not finite stands there as NaN, so that its name
            is known and that it is missing.
        num_duplicates: Rows that added nothing to a step or rewrote the newest one.
        num_late: Rows that came after a later step.
        restarts: ``(step, last step given up)`` of every restart from a checkpoint.
        not_finite: Values that were NaN, infinite or beyond `LARGEST`, by metric name.
        read: Metrics that a rule may read.
    """

    rows: list[LogRow] = field(default_factory=list)
    num_duplicates: int = 0
    num_late: int = 0
    restarts: list[tuple[int, int]] = field(default_factory=list)
    not_finite: dict[str, int] = field(default_factory=dict)
    read: frozenset[str] = KNOWN

    def add(self, row: LogRow) -> int:
        """Take one row in the order of writing.

        A step that was logged before with other values and is not the newest one means that the
        run was restarted: it and all later steps are given up. So does a step between others where
        none is missing: that of other logging steps. NaN says nothing of another value, nor does a
        metric that no rule reads: two processes of a run log beside each other.

        Returns:
            Index of the first row that changed; ``len(rows)`` where none did.
        """
        metrics = self._taken(row.metrics)
        index = bisect_left(self.rows, row.step, key=lambda known: known.step)
        if index == len(self.rows):
            self.rows.append(LogRow(row.step, metrics))
            return index
        known = self.rows[index]
        if known.step != row.step:
            if self._is_restart(index, row):
                return self._restarted(index, LogRow(row.step, metrics))
            self.num_late += 1
            self.rows.insert(index, LogRow(row.step, metrics))
            return index
        finite = {name: value for name, value in metrics.items() if not math.isnan(value)}
        differs = any(
            not math.isnan(old := known.metrics.get(name, value)) and old != value
            for name, value in finite.items()
            if name in self.read
        )
        if differs and index < len(self.rows) - 1:
            return self._restarted(index, LogRow(row.step, metrics))
        merged = {**metrics, **known.metrics, **finite}
        if differs or merged == known.metrics:
            self.num_duplicates += 1
        if merged == known.metrics:
            return len(self.rows)
        self.rows[index] = LogRow(row.step, merged)
        return index

    def _restarted(self, index: int, row: LogRow) -> int:
        self.restarts.append((row.step, self.rows[-1].step))
        self.rows[index:] = [row]
        return index

    def _is_restart(self, index: int, row: LogRow) -> bool:
        """Whether a step that comes late lies where no row of its kind is missing."""
        after = self.rows[index]
        before = self.rows[index - 1].step if index else min(0, row.step - 1)
        near = pairwise(self.rows[max(index - 4, 0) : index + 4])
        widths = sorted(right.step - left.step for left, right in near if right is not after)
        return (
            not self.read.isdisjoint(row.metrics.keys() & after.metrics.keys())
            and len(widths) >= FEWEST_WIDTHS
            and after.step - before <= widths[len(widths) // 2]
        )

    def names(self) -> set[str]:
        """Every metric name of the rows that count."""
        return set().union(*(row.metrics for row in self.rows))

    def notes(self) -> list[str]:
        """What was mended, in words; nothing where the log was in order."""
        notes = []
        for step, last in self.restarts:
            notes.append(
                f"restart: step {step} was written after step {last}; what was logged from "
                "there on before does not count, nor does an alarm it raised"
            )
        if self.num_duplicates:
            repeat = counted(self.num_duplicates, "row repeats", "rows repeat")
            notes.append(f"duplicates: {repeat} a step; the last counts")
        if self.num_late:
            were = "was" if self.num_late == 1 else "were"
            late = f"{counted(self.num_late, 'row')} came after a later step"
            notes.append(f"late: {late} and {were} sorted in")
        for name, count in sorted(self.not_finite.items()):
            some = counted(count, f"value of {name} is", f"values of {name} are")
            notes.append(f"not finite: {some} NaN, infinite or beyond {LARGEST:g} and left out")
        notes += [
            f"gap: nothing is logged between steps {before} and {after}"
            for before, after in self._gaps()
        ]
        return notes

    def identity(self) -> str:
        """What the run is known by where no tracking server gave it an id.

        Digests of its first rows, more of them the longer it is: the same wherever the log lies,
        and what is known of a run while it goes on begins what is known of it later.
        """
        rows = [(row.step, sorted(row.metrics.items())) for row in self.rows]
        counts = [IDENTIFYING_ROWS]
        while 2 * counts[-1] <= len(rows):
            counts.append(2 * counts[-1])
        digests = [hashlib.sha256(json.dumps(rows[:n]).encode()).hexdigest()[:16] for n in counts]
        return f"log {'.'.join(digests)}"

    def _taken(self, metrics: Mapping[str, float]) -> dict[str, float]:
        taken = {}
        for name, value in metrics.items():
            size = abs(value)
            if not size < LARGEST:  # written so that NaN is none either
                self.not_finite[name] = self.not_finite.get(name, 0) + 1
            # One NaN object for all: rows that hold it compare equal.
            taken[name] = math.nan if not size < LARGEST else value if size > 1 / LARGEST else 0.0
        return taken

    def _gaps(self) -> list[tuple[int, int]]:
        """Distances of more than three times the usual one."""
        steps = [row.step for row in self.rows]
        widths = sorted(after - before for before, after in pairwise(steps))
        if not widths:
            return []
        usual = widths[len(widths) // 2]
        return [(before, after) for before, after in pairwise(steps) if after - before > 3 * usual]
