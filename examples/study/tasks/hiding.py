"""Hiding a row: ``hide c a d b :`` is answered by ``c b a c d b``.

The answer has six letters, no two equal ones side by side, and the four stand in it in their order.
"""

import random
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from examples.study.tasks.choices import ChoiceTask, Words

LETTERS = tuple("abcdefgh")
HIDDEN, SHOWN = 4, 6


class Hidden(NamedTuple):
    """What is asked: letters that may come again, though never at once."""

    letters: Words


class Hiding(ChoiceTask[Hidden]):
    """The task."""

    name = "hiding"
    answer_words = SHOWN
    num_problems = 1200

    def draw(self, rng: random.Random, size: int) -> tuple[Hidden, Words]:
        """A row and four of its letters in their order; ``size`` has no meaning here."""
        while True:
            answer = tuple(rng.choices(LETTERS, k=SHOWN))
            places = sorted(rng.sample(range(SHOWN), HIDDEN))
            hidden = tuple(answer[place] for place in places)
            if not (_has_twins(answer) or _has_twins(hidden)):
                return Hidden(hidden), answer

    def bend(self, problem: Hidden, answer: Words, rng: random.Random) -> Hidden:
        """One of the four is another letter."""
        while True:
            letters = list(problem.letters)
            letters[rng.randrange(HIDDEN)] = rng.choice(LETTERS)
            bent = Hidden(tuple(letters))
            if not (_has_twins(bent.letters) or self.is_right(bent, answer)):
                return bent

    def right_answers(self, problem: Hidden) -> list[Words]:
        rows = {problem.letters}
        for _ in range(SHOWN - HIDDEN):
            rows = {
                (*row[:place], letter, *row[place:])
                for row in rows
                for place in range(len(row) + 1)
                for letter in LETTERS
            }
        return sorted(row for row in rows if not _has_twins(row))

    def is_right(self, problem: Hidden, answer: Words) -> bool:
        left = iter(answer)
        is_hidden = all(letter in left for letter in problem.letters)
        return is_hidden and set(answer) <= set(LETTERS) and not _has_twins(answer)

    def prompt(self, problem: Hidden) -> str:
        return f"hide {' '.join(problem.letters)} :"

    def parse(self, prompt: str) -> Hidden:
        words = prompt.split()
        found = [words[0], words[-1]] if len(words) == HIDDEN + 2 else []
        if found != ["hide", ":"] or not {*words[1:-1]} <= {*LETTERS}:
            raise ValueError(f"prompt={prompt!r}: 'hide c a ... :' is needed")
        return Hidden(tuple(words[1:-1]))

    def words(self) -> list[str]:
        return ["hide", ":", *LETTERS]


def _has_twins(row: Sequence[str]) -> bool:
    return any(one == other for one, other in pairwise(row))


TASK = Hiding()


def reward(prompts: Sequence[str], completions: Sequence[str], **_columns: Any) -> list[float]:
    """1.0 for a row that hides the other, else 0.0; GRPO trains with it, the assessment grades."""
    return [
        float(TASK.is_solution(prompt, completion))
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
