"""Closing brackets: ``close ( _ [ _ _ _ _ ] _ _ :`` is answered by the whole balanced line.

Given cells stay, and every bracket is closed by its own kind in the right order.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

from examples.study.tasks.cells import CellsTask
from examples.study.tasks.choices import Words

CLOSING = {"(": ")", "[": "]"}
SYMBOLS = ("(", ")", "[", "]")
LENGTH = 10


def is_balanced(cells: Words) -> bool:
    """Whether every bracket is closed, the last opened one first."""
    awaited: list[str] = []
    for cell in cells:
        if cell in CLOSING:
            awaited.append(CLOSING[cell])
        elif not awaited or awaited.pop() != cell:
            return False
    return not awaited


@cache
def balanced(pairs: int) -> tuple[Words, ...]:
    """All balanced lines with so many pairs of brackets."""
    if pairs == 0:
        return ((),)
    return tuple(
        (opening, *inner, closing, *rest)
        for opening, closing in CLOSING.items()
        for within in range(pairs)
        for inner in balanced(within)
        for rest in balanced(pairs - 1 - within)
    )


@cache
def lines() -> tuple[Words, ...]:
    """All right lines, in alphabetical order."""
    return tuple(sorted(balanced(LENGTH // 2)))


class Brackets(CellsTask):
    """The task; a problem is its cells."""

    name = "brackets"
    answer_words = LENGTH
    verb = "close"
    symbols = SYMBOLS
    num_given = 4

    def lines(self) -> tuple[Words, ...]:
        """Those with round brackets first."""
        return lines()

    def is_line(self, cells: Words) -> bool:
        return is_balanced(cells)


TASK = Brackets()


def reward(prompts: Sequence[str], completions: Sequence[str], **_columns: Any) -> list[float]:
    """1.0 for a right line, else 0.0; GRPO trains with it and the assessment grades with it."""
    return [
        float(TASK.is_solution(prompt, completion))
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
