"""Tracing a way: ``trace b2 c1 d4 e3 a5 :`` is answered by ``r u u u r u r r``.

The answer leads in eight steps to the right or up from a1 to e5 and enters none of these cells.
"""

import random
from collections.abc import Sequence
from itertools import combinations
from typing import Any, NamedTuple

from examples.study.tasks.choices import ChoiceTask, Words

COLUMNS, ROWS = tuple("abcde"), tuple("12345")
FIRST, LAST = "a1", "e5"
CELLS = tuple(column + row for column in COLUMNS for row in ROWS)
STEPS = len(COLUMNS) + len(ROWS) - 2
CLOSED = 5


class Grid(NamedTuple):
    """What is asked: the cells not to enter, in any order."""

    closed: Words


class Tracing(ChoiceTask[Grid]):
    """The task."""

    name = "tracing"
    answer_words = STEPS

    def draw(self, rng: random.Random, size: int) -> tuple[Grid, Words]:
        """A way, and cells that it does not enter; ``size`` has no meaning here."""
        way = list("r" * (STEPS // 2) + "u" * (STEPS // 2))
        rng.shuffle(way)
        entered = {FIRST, *_entered(tuple(way))}
        closed = rng.sample([cell for cell in CELLS if cell not in entered], CLOSED)
        return Grid(tuple(closed)), tuple(way)

    def bend(self, problem: Grid, answer: Words, rng: random.Random) -> Grid:
        """One of the cells lies on the way."""
        place = rng.randrange(CLOSED)
        cell = rng.choice([each for each in _entered(answer) if each != LAST])
        return Grid((*problem.closed[:place], cell, *problem.closed[place + 1 :]))

    def right_answers(self, problem: Grid) -> list[Words]:
        ways = []
        for right in combinations(range(STEPS), STEPS // 2):
            way = tuple("r" if place in right else "u" for place in range(STEPS))
            if not set(_entered(way)) & set(problem.closed):
                ways.append(way)
        return ways

    def is_right(self, problem: Grid, answer: Words) -> bool:
        column, row = 0, 0
        for step in answer:
            column, row = column + (step == "r"), row + (step == "u")
            if step not in ("r", "u") or column >= len(COLUMNS) or row >= len(ROWS):
                return False
            if COLUMNS[column] + ROWS[row] in problem.closed:
                return False
        return COLUMNS[column] + ROWS[row] == LAST

    def prompt(self, problem: Grid) -> str:
        return f"trace {' '.join(problem.closed)} :"

    def parse(self, prompt: str) -> Grid:
        words = prompt.split()
        if len(words) != CLOSED + 2 or (words[0], words[-1]) != ("trace", ":"):
            raise ValueError(f"prompt={prompt!r}: 'trace b2 ... :' with {CLOSED} cells is needed")
        return Grid(tuple(words[1:-1]))

    def words(self) -> list[str]:
        return ["trace", ":", "r", "u", *CELLS]


def _entered(way: Words) -> list[str]:
    """The cells that a way of as many steps right as up enters, in order."""
    column, row, cells = 0, 0, []
    for step in way:
        column, row = column + (step == "r"), row + (step == "u")
        cells.append(COLUMNS[column] + ROWS[row])
    return cells


TASK = Tracing()


def reward(prompts: Sequence[str], completions: Sequence[str], **_columns: Any) -> list[float]:
    """1.0 for a way that is open, else 0.0; GRPO trains with it and the assessment grades."""
    return [
        float(TASK.is_solution(prompt, completion))
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
