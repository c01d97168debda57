"""Tiling a row: ``tile 17 with 2 3 5 7 :`` is answered by ``5 2 7 3``.

The answer takes four tiles of these lengths that fill the row, no two equal ones side by side.
"""

import random
from collections.abc import Sequence
from itertools import pairwise, product
from typing import Any, NamedTuple

from examples.study.tasks.choices import ChoiceTask, Words

LENGTHS = tuple("123456789")
KINDS = 4
TILES = 4
LONGEST = 34
"""A row of nine and eight in turn."""


class Row(NamedTuple):
    """What is asked: the length of the row and of its tiles, ascending."""

    length: int
    tiles: Words


class Tiling(ChoiceTask[Row]):
    """The task."""

    name = "tiling"
    answer_words = TILES
    num_problems = 1200

    def draw(self, rng: random.Random, size: int) -> tuple[Row, Words]:
        """Tiles and the row that they fill; ``size`` has no meaning here."""
        kinds = tuple(sorted(rng.sample(LENGTHS, KINDS)))
        laid = [rng.choice(kinds)]
        while len(laid) < TILES:
            laid.append(rng.choice([tile for tile in kinds if tile != laid[-1]]))
        return Row(sum(map(int, laid)), kinds), tuple(laid)

    def bend(self, problem: Row, answer: Words, rng: random.Random) -> Row:
        """A row that is longer or shorter by up to three."""
        longer = [problem.length + more for more in (-3, -2, -1, 1, 2, 3)]
        return problem._replace(length=rng.choice([n for n in longer if 0 < n <= LONGEST]))

    def right_answers(self, problem: Row) -> list[Words]:
        return [
            laid
            for laid in product(problem.tiles, repeat=TILES)
            if sum(map(int, laid)) == problem.length
            and all(one != other for one, other in pairwise(laid))
        ]

    def is_right(self, problem: Row, answer: Words) -> bool:
        left, last = problem.length, ""
        for tile in answer:
            if tile not in problem.tiles or tile == last:
                return False
            left, last = left - int(tile), tile
        return left == 0

    def prompt(self, problem: Row) -> str:
        return f"tile {problem.length} with {' '.join(problem.tiles)} :"

    def parse(self, prompt: str) -> Row:
        words = prompt.split()
        found = [words[mark] for mark in (0, 2, -1)] if len(words) == KINDS + 4 else []
        if found != ["tile", "with", ":"] or not words[1].isdigit():
            raise ValueError(f"prompt={prompt!r}: 'tile N with A B C D :' is needed")
        return Row(int(words[1]), tuple(words[3:-1]))

    def words(self) -> list[str]:
        return ["tile", "with", ":", *(str(n) for n in range(1, LONGEST + 1))]


TASK = Tiling()


def reward(prompts: Sequence[str], completions: Sequence[str], **_columns: Any) -> list[float]:
    """1.0 for a row that is filled, else 0.0; GRPO trains with it and the assessment grades."""
    return [
        float(TASK.is_solution(prompt, completion))
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
