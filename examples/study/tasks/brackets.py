"""Closing brackets: ``close ( _ [ _ _ _ _ ] _ _ :`` is answered by the whole balanced line.

Given cells stay, and every bracket is closed by its own kind in the right order.
"""

import random
from collections.abc import Sequence
from functools import cache
from typing import Any

from examples.study.tasks.choices import ChoiceTask, Words

CLOSING = {"(": ")", "[": "]"}
SYMBOLS = ("(", ")", "[", "]")
BLANK = "_"
LENGTH = 10
NUM_GIVEN = 4
NUM_PROBLEMS = 2000
MIN_ANSWERS = 3


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


@cache
def _holding(place: int, cell: str) -> frozenset[int]:
    """Numbers of the lines with ``cell`` in ``place``."""
    return frozenset(n for n, line in enumerate(lines()) if line[place] == cell)


class Brackets(ChoiceTask[Words]):
    """The task; a problem is its cells."""

    name = "brackets"
    answer_words = LENGTH

    def problems(self) -> list[Words]:
        """Different lines with `NUM_GIVEN` cells and `MIN_ANSWERS` right answers or more."""
        rng = random.Random(0)
        found: dict[Words, None] = {}
        while len(found) < NUM_PROBLEMS:
            cells, _ = self.draw(rng, 0)
            if cells not in found and len(self.right_answers(cells)) >= MIN_ANSWERS:
                found[cells] = None
        return list(found)

    def draw(self, rng: random.Random, size: int) -> tuple[Words, Words]:
        """A line with some of its cells; ``size`` more are given than in a prompt."""
        line = rng.choice(lines())
        given = set(rng.sample(range(LENGTH), NUM_GIVEN + size))
        return tuple(c if place in given else BLANK for place, c in enumerate(line)), line

    def bend(self, problem: Words, answer: Words, rng: random.Random) -> Words:
        """One given cell says something else."""
        place = rng.choice([place for place, cell in enumerate(problem) if cell != BLANK])
        other = rng.choice([symbol for symbol in SYMBOLS if symbol != problem[place]])
        return (*problem[:place], other, *problem[place + 1 :])

    def right_answers(self, problem: Words) -> list[Words]:
        given = [_holding(place, cell) for place, cell in enumerate(problem) if cell != BLANK]
        return [lines()[number] for number in sorted(frozenset.intersection(*given))]

    def is_right(self, problem: Words, answer: Words) -> bool:
        kept = all(cell in (BLANK, own) for cell, own in zip(problem, answer, strict=True))
        return kept and is_balanced(answer)

    def prompt(self, problem: Words) -> str:
        return f"close {' '.join(problem)} :"

    def parse(self, prompt: str) -> Words:
        words = prompt.split()
        if len(words) != LENGTH + 2 or (words[0], words[-1]) != ("close", ":"):
            raise ValueError(f"prompt={prompt!r}: 'close' and {LENGTH} cells and ':' is needed")
        return tuple(words[1:-1])

    def words(self) -> list[str]:
        return ["close", ":", BLANK, *SYMBOLS]


TASK = Brackets()


def reward(prompts: Sequence[str], completions: Sequence[str], **_columns: Any) -> list[float]:
    """1.0 for a right line, else 0.0; GRPO trains with it and the assessment grades with it."""
    return [
        float(TASK.is_solution(prompt, completion))
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
