"""Counting how often intervals hold a truth."""

import argparse
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tests.coverage_populations import standard_error


class Held:
    """How often the interval of each figure held its truth in one cell of a simulation.

    Args:
        truths: What each figure estimates, by name.
    """

    def __init__(self, truths: dict[str, float]) -> None:
        self.truths = truths
        self._runs = dict.fromkeys(truths, 0)
        self._below = dict.fromkeys(truths, 0)
        self._above = dict.fromkeys(truths, 0)

    def add(self, name: str, low: float, high: float) -> None:
        """Count one interval."""
        truth = self.truths[name]
        slack = 1e-9 * max(abs(truth), 1.0)  # the truth is a sum that rounds
        self._runs[name] += 1
        self._below[name] += high < truth - slack
        self._above[name] += low > truth + slack

    def rows(self, **cell: Any) -> list[dict[str, Any]]:
        """One row a figure that was ever defined."""
        return [
            {
                "figure": name,
                **cell,
                "truth": round(truth, 6),
                "coverage": round(1.0 - (self._below[name] + self._above[name]) / runs, 4),
                "interval_below_truth": round(self._below[name] / runs, 4),
                "interval_above_truth": round(self._above[name] / runs, 4),
                "runs": runs,
            }
            for name, truth in self.truths.items()
            if (runs := self._runs[name])
        ]


def run(
    cells: Callable[[int], Iterable[list[dict[str, Any]]]], description: str | None, *, reps: int
) -> None:
    """Print the rows as they come and how many lie within 93 to 97 %; write them, if asked to.

    Args:
        cells: Gives the rows of each cell, of so many simulations.
        description: Of the command.
        reps: Simulations, where ``--reps`` does not say.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--reps", type=int, default=reps)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    rows = []
    for cell in cells(given.reps):
        rows += cell
        for row in cell:
            print(json.dumps(row), flush=True)
    shares = [row["coverage"] for row in rows]
    near = [
        max(0.93 - s, s - 0.97) <= 2 * standard_error(s, row["runs"])
        for s, row in zip(shares, rows, strict=True)
    ]
    within = sum(0.93 <= share <= 0.97 for share in shares)
    print(
        f"{len(rows)} cells: {within} within 93 to 97 %, {sum(near) - within} more within two "
        f"Monte Carlo errors of it; from {min(shares):.1%} to {max(shares):.1%}, "
        f"mean {sum(shares) / len(shares):.1%}"
    )
    if given.json is not None:
        given.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
