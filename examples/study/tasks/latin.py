"""Latin squares: a grid with a few given cells is completed, ``fill _ 2 _ _ 4 _ ... :``.

The answer is the whole grid, row by row: given cells stay, and no row and no column holds a
symbol twice.
"""

from collections.abc import Sequence
from functools import cache
from itertools import permutations
from typing import Any

from examples.study.tasks.cells import CellsTask
from examples.study.tasks.choices import Words

ORDER = 4
SYMBOLS = tuple(str(number) for number in range(1, ORDER + 1))


def is_square(cells: Words) -> bool:
    """Whether every row and every column holds each symbol once."""
    rows = [cells[first : first + ORDER] for first in range(0, ORDER * ORDER, ORDER)]
    lines = [*rows, *zip(*rows, strict=True)]
    return all(sorted(line) == list(SYMBOLS) for line in lines)


@cache
def squares() -> tuple[Words, ...]:
    """All Latin squares, those with early symbols first."""
    found: list[tuple[Words, ...]] = [()]
    for _ in range(ORDER):
        found = [
            (*rows, line)
            for rows in found
            for line in permutations(SYMBOLS)
            if all(line[place] != row[place] for row in rows for place in range(ORDER))
        ]
    return tuple(tuple(cell for row in rows for cell in row) for rows in found)


class Latin(CellsTask):
    """The task; a problem is its cells."""

    name = "latin"
    answer_words = ORDER * ORDER
    verb = "fill"
    symbols = SYMBOLS
    num_given = 5

    def lines(self) -> tuple[Words, ...]:
        """Those with early symbols first."""
        return squares()

    def is_line(self, cells: Words) -> bool:
        return is_square(cells)


TASK = Latin()


def reward(prompts: Sequence[str], completions: Sequence[str], **_columns: Any) -> list[float]:
    """1.0 for a right grid, else 0.0; GRPO trains with it and the assessment grades with it."""
    return [
        float(TASK.is_solution(prompt, completion))
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
