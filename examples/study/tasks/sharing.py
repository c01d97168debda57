"""Sharing letters: ``share a c b d a c b d with c a d b b a c d :`` is answered by ``a d a c d``.

The answer is what is left of either row when letters are struck out.
"""

import random
from collections.abc import Sequence
from itertools import combinations
from typing import Any, NamedTuple

from examples.study.tasks.choices import ChoiceTask, Words

ALPHABET = ("a", "b", "c", "d")
ROW = 8
LENGTH = 5


class Rows(NamedTuple):
    """What is asked: the rows that both hold the answer."""

    first: Words
    second: Words


class Sharing(ChoiceTask[Rows]):
    """The task."""

    name = "sharing"
    answer_words = LENGTH

    def draw(self, rng: random.Random, size: int) -> tuple[Rows, Words]:
        """Letters and two rows that hold them; ``size`` has no meaning here."""
        shared = tuple(rng.choices(ALPHABET, k=LENGTH))
        return Rows(_fill(shared, rng), _fill(shared, rng)), shared

    def bend(self, problem: Rows, answer: Words, rng: random.Random) -> Rows:
        """The second row is another, which does not hold the answer."""
        while True:
            bent = problem._replace(second=tuple(rng.choices(ALPHABET, k=ROW)))
            if not _holds(bent.second, answer):
                return bent

    def right_answers(self, problem: Rows) -> list[Words]:
        one, other = (dict.fromkeys(combinations(row, LENGTH)) for row in problem)
        return [letters for letters in one if letters in other]

    def is_right(self, problem: Rows, answer: Words) -> bool:
        return all(_holds(row, answer) for row in problem)

    def prompt(self, problem: Rows) -> str:
        return f"share {' '.join(problem.first)} with {' '.join(problem.second)} :"

    def parse(self, prompt: str) -> Rows:
        words = prompt.split()
        if len(words) != 2 * ROW + 3 or words[:: ROW + 1] != ["share", "with", ":"]:
            raise ValueError(f"prompt={prompt!r}: 'share A B ... with C D ... :' is needed")
        return Rows(tuple(words[1 : ROW + 1]), tuple(words[ROW + 2 : -1]))

    def words(self) -> list[str]:
        return ["share", "with", ":", *ALPHABET]


def _fill(kept: Words, rng: random.Random) -> Words:
    """A row that holds these letters in this order, among others."""
    places = set(rng.sample(range(ROW), LENGTH))
    letters = iter(kept)
    return tuple(next(letters) if n in places else rng.choice(ALPHABET) for n in range(ROW))


def _holds(row: Words, letters: Words) -> bool:
    """Whether these letters are left when others of the row are struck out."""
    rest = iter(row)
    return all(letter in rest for letter in letters)


TASK = Sharing()


def reward(prompts: Sequence[str], completions: Sequence[str], **_columns: Any) -> list[float]:
    """1.0 for letters that both hold, else 0.0; GRPO trains with it and the assessment grades."""
    return [
        float(TASK.is_solution(prompt, completion))
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
