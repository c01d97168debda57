"""Sorting by swaps: ``swap d b h a f :`` is answered by ``1 3 2 1``.

Each of the four numbers swaps the letter at that place with the one after it; in the end the row is
in alphabetical order.
"""

import random
from collections.abc import Sequence
from itertools import product
from typing import Any, NamedTuple

from examples.study.tasks.choices import ChoiceTask, Words

LETTERS = tuple("abcdefghi")
ROW = 5
SWAPS = 4
PLACES = tuple(str(place) for place in range(1, ROW))


class Row(NamedTuple):
    """What is asked: different letters, to be sorted."""

    letters: Words

    def after(self, swaps: Words) -> Words:
        """The letters once neighbours were swapped at each of these places."""
        letters = list(self.letters)
        for swap in swaps:
            place = int(swap)
            letters[place - 1 : place + 1] = letters[place], letters[place - 1]
        return tuple(letters)


class Swapping(ChoiceTask[Row]):
    """The task."""

    name = "swapping"
    answer_words = SWAPS
    num_problems = 1200

    def draw(self, rng: random.Random, size: int) -> tuple[Row, Words]:
        """A sorted row, swapped backwards; ``size`` has no meaning here."""
        letters = tuple(sorted(rng.sample(LETTERS, ROW)))
        swaps = tuple(rng.choices(PLACES, k=SWAPS))
        return Row(Row(letters).after(swaps[::-1])), swaps

    def bend(self, problem: Row, answer: Words, rng: random.Random) -> Row:
        """A row with one swap more or less to make."""
        return Row(problem.after((rng.choice(PLACES),)))

    def right_answers(self, problem: Row) -> list[Words]:
        wanted = tuple(sorted(problem.letters))
        return [swaps for swaps in product(PLACES, repeat=SWAPS) if problem.after(swaps) == wanted]

    def is_right(self, problem: Row, answer: Words) -> bool:
        if not set(answer) <= set(PLACES):
            return False
        return list(problem.after(answer)) == sorted(problem.letters)

    def prompt(self, problem: Row) -> str:
        return f"swap {' '.join(problem.letters)} :"

    def parse(self, prompt: str) -> Row:
        words = prompt.split()
        if len(words) != ROW + 2 or (words[0], words[-1]) != ("swap", ":"):
            raise ValueError(f"prompt={prompt!r}: 'swap A B C D E :' is needed")
        return Row(tuple(words[1:-1]))

    def words(self) -> list[str]:
        return ["swap", ":", *PLACES, *LETTERS]


TASK = Swapping()


def reward(prompts: Sequence[str], completions: Sequence[str], **_columns: Any) -> list[float]:
    """1.0 for swaps that sort the row, else 0.0; GRPO trains with it, the assessment grades."""
    return [
        float(TASK.is_solution(prompt, completion))
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
