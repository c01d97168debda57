"""Sorting with one more: ``sort 7 2 11 4 :`` is answered by ``2 4 5 7 11``.

The answer has five of the numbers to twelve, each larger than the one before, the four among them.
"""

import random
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from examples.study.tasks.choices import ChoiceTask, Words

NUMBERS = tuple(str(number) for number in range(1, 13))
GIVEN, SORTED = 4, 5


class Unsorted(NamedTuple):
    """What is asked: different numbers, in any order."""

    given: Words


class Sorting(ChoiceTask[Unsorted]):
    """The task."""

    name = "sorting"
    answer_words = SORTED

    def draw(self, rng: random.Random, size: int) -> tuple[Unsorted, Words]:
        """Numbers, and one of the rows that hold them; ``size`` has no meaning here."""
        problem = Unsorted(tuple(rng.sample(NUMBERS, GIVEN)))
        return problem, rng.choice(self.right_answers(problem))

    def bend(self, problem: Unsorted, answer: Words, rng: random.Random) -> Unsorted:
        """One of the four is a number that is not in the answer."""
        given = list(problem.given)
        given[rng.randrange(GIVEN)] = rng.choice([n for n in NUMBERS if n not in answer])
        return Unsorted(tuple(given))

    def right_answers(self, problem: Unsorted) -> list[Words]:
        others = [number for number in NUMBERS if number not in problem.given]
        return [tuple(sorted((*problem.given, other), key=int)) for other in others]

    def is_right(self, problem: Unsorted, answer: Words) -> bool:
        if not set(problem.given) <= set(answer) <= set(NUMBERS):
            return False
        return all(int(one) < int(other) for one, other in pairwise(answer))

    def prompt(self, problem: Unsorted) -> str:
        return f"sort {' '.join(problem.given)} :"

    def parse(self, prompt: str) -> Unsorted:
        words = prompt.split()
        found = [words[0], words[-1]] if len(words) == GIVEN + 2 else []
        if found != ["sort", ":"] or not {*words[1:-1]} <= {*NUMBERS}:
            raise ValueError(f"prompt={prompt!r}: 'sort 7 2 ... :' is needed")
        return Unsorted(tuple(words[1:-1]))

    def words(self) -> list[str]:
        return ["sort", ":", *NUMBERS]


TASK = Sorting()


def reward(prompts: Sequence[str], completions: Sequence[str], **_columns: Any) -> list[float]:
    """1.0 for a sorted row that holds all, else 0.0; GRPO trains with it, the assessment grades."""
    return [
        float(TASK.is_solution(prompt, completion))
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
