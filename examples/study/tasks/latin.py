"""Latin squares: a grid with a few given cells is completed, ``fill _ 2 _ _ 4 _ ... :``.

The answer is the whole grid, row by row: given cells stay, and no row and no column holds a
symbol twice.
"""

import random
from collections.abc import Sequence
from functools import cache
from itertools import permutations
from typing import Any

from examples.study.tasks.choices import ChoiceTask, Words

ORDER = 4
SYMBOLS = tuple(str(number) for number in range(1, ORDER + 1))
BLANK = "_"
NUM_GIVEN = 5
NUM_PROBLEMS = 2000
MIN_ANSWERS = 3


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


@cache
def _holding(place: int, cell: str) -> frozenset[int]:
    """Numbers of the squares with ``cell`` in ``place``."""
    return frozenset(n for n, square in enumerate(squares()) if square[place] == cell)


class Latin(ChoiceTask[Words]):
    """The task; a problem is its cells."""

    name = "latin"
    answer_words = ORDER * ORDER

    def problems(self) -> list[Words]:
        """Different grids with `NUM_GIVEN` cells and `MIN_ANSWERS` right answers or more."""
        rng = random.Random(0)
        found: dict[Words, None] = {}
        while len(found) < NUM_PROBLEMS:
            cells, _ = self.draw(rng, 0)
            if cells not in found and len(self.right_answers(cells)) >= MIN_ANSWERS:
                found[cells] = None
        return list(found)

    def draw(self, rng: random.Random, size: int) -> tuple[Words, Words]:
        """A square with some of its cells; ``size`` more are given than in a prompt."""
        square = rng.choice(squares())
        given = set(rng.sample(range(len(square)), NUM_GIVEN + size))
        return tuple(c if place in given else BLANK for place, c in enumerate(square)), square

    def bend(self, problem: Words, answer: Words, rng: random.Random) -> Words:
        """One given cell says something else."""
        place = rng.choice([place for place, cell in enumerate(problem) if cell != BLANK])
        other = rng.choice([symbol for symbol in SYMBOLS if symbol != problem[place]])
        return (*problem[:place], other, *problem[place + 1 :])

    def right_answers(self, problem: Words) -> list[Words]:
        given = [_holding(place, cell) for place, cell in enumerate(problem) if cell != BLANK]
        return [squares()[number] for number in sorted(frozenset.intersection(*given))]

    def is_right(self, problem: Words, answer: Words) -> bool:
        kept = all(cell in (BLANK, own) for cell, own in zip(problem, answer, strict=True))
        return kept and is_square(answer)

    def prompt(self, problem: Words) -> str:
        return f"fill {' '.join(problem)} :"

    def parse(self, prompt: str) -> Words:
        words = prompt.split()
        if len(words) != ORDER * ORDER + 2 or (words[0], words[-1]) != ("fill", ":"):
            raise ValueError(f"prompt={prompt!r}: 'fill' and 16 cells and ':' is needed")
        return tuple(words[1:-1])

    def words(self) -> list[str]:
        return ["fill", ":", BLANK, *SYMBOLS]


TASK = Latin()


def reward(prompts: Sequence[str], completions: Sequence[str], **_columns: Any) -> list[float]:
    """1.0 for a right grid, else 0.0; GRPO trains with it and the assessment grades with it."""
    return [
        float(TASK.is_solution(prompt, completion))
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
