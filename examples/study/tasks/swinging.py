"""Swinging: ``swing 5 2 7 3 1 6 :`` is answered by ``2 7 3 6 1``.

The answer takes five of these six numbers, none twice, that go up and down in turn.
"""

import random
from collections.abc import Sequence
from itertools import pairwise, permutations
from typing import Any, NamedTuple

from examples.study.tasks.choices import ChoiceTask, Words

NUMBERS = tuple("123456789")
GIVEN = 6
TAKEN = 5


class Numbers(NamedTuple):
    """What is asked: different numbers to take from."""

    given: Words


class Swinging(ChoiceTask[Numbers]):
    """The task."""

    name = "swinging"
    answer_words = TAKEN

    def draw(self, rng: random.Random, size: int) -> tuple[Numbers, Words]:
        """Numbers and five of them that swing; ``size`` has no meaning here."""
        numbers = Numbers(tuple(rng.sample(NUMBERS, GIVEN)))
        while not _swings(taken := tuple(rng.sample(numbers.given, TAKEN))):
            pass
        return numbers, taken

    def bend(self, problem: Numbers, answer: Words, rng: random.Random) -> Numbers:
        """Numbers of which one that was taken is not given."""
        others = [number for number in NUMBERS if number not in problem.given]
        place = problem.given.index(rng.choice([word for word in answer if word in problem.given]))
        bent = (*problem.given[:place], rng.choice(others), *problem.given[place + 1 :])
        return Numbers(bent)

    def right_answers(self, problem: Numbers) -> list[Words]:
        return [taken for taken in permutations(problem.given, TAKEN) if _swings(taken)]

    def is_right(self, problem: Numbers, answer: Words) -> bool:
        is_given = len(set(answer)) == TAKEN and set(answer) <= set(problem.given)
        return is_given and _swings(answer)

    def prompt(self, problem: Numbers) -> str:
        return f"swing {' '.join(problem.given)} :"

    def parse(self, prompt: str) -> Numbers:
        words = prompt.split()
        if len(words) != GIVEN + 2 or (words[0], words[-1]) != ("swing", ":"):
            raise ValueError(f"prompt={prompt!r}: 'swing 1 2 ... :' with {GIVEN} numbers is needed")
        return Numbers(tuple(words[1:-1]))

    def words(self) -> list[str]:
        return ["swing", ":", *NUMBERS]


def _swings(taken: Words) -> bool:
    """Whether the numbers go up first, then down, and so on; one digit compares as its text."""
    return all(
        (one < other) == (place % 2 == 0) for place, (one, other) in enumerate(pairwise(taken))
    )


TASK = Swinging()


def reward(prompts: Sequence[str], completions: Sequence[str], **_columns: Any) -> list[float]:
    """1.0 for numbers that swing, else 0.0; GRPO trains with it and the assessment grades."""
    return [
        float(TASK.is_solution(prompt, completion))
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
