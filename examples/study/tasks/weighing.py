"""Weighing: ``weigh 3 8 5 2 7 to 1 :`` is answered by ``+ + - + -``, a sign for each weight.

With these signs the weights add up to the total, on whichever pans they lie.
"""

import random
from collections.abc import Sequence
from itertools import product
from typing import Any, NamedTuple

from examples.study.tasks.choices import ChoiceTask, Words

WEIGHTS = range(1, 10)
NUM_WEIGHTS = 5
SIGNS = {"+": 1, "-": -1}


class Balance(NamedTuple):
    """What is asked: the weights, and the total, which is not negative."""

    weights: tuple[int, ...]
    total: int


class Weighing(ChoiceTask[Balance]):
    """The task."""

    name = "weighing"
    answer_words = NUM_WEIGHTS

    def draw(self, rng: random.Random, size: int) -> tuple[Balance, Words]:
        """Weights and what some signs make of them; ``size`` has no meaning here."""
        weights = tuple(rng.choices(WEIGHTS, k=NUM_WEIGHTS))
        while True:
            signs = tuple(rng.choices(list(SIGNS), k=NUM_WEIGHTS))
            if (total := _weighed(weights, signs)) >= 0:
                return Balance(weights, total), signs

    def bend(self, problem: Balance, answer: Words, rng: random.Random) -> Balance:
        """Another total is asked, two away, for half of all totals no signs make."""
        away = rng.choice((-2, 2)) if problem.total >= 2 else 2
        return problem._replace(total=problem.total + away)

    def right_answers(self, problem: Balance) -> list[Words]:
        every = product(SIGNS, repeat=NUM_WEIGHTS)
        return [signs for signs in every if _weighed(problem.weights, signs) == problem.total]

    def is_right(self, problem: Balance, answer: Words) -> bool:
        if not set(answer) <= set(SIGNS):
            return False
        left, right = (
            sum(weight for weight, sign in zip(problem.weights, answer, strict=True) if sign == own)
            for own in SIGNS
        )
        return left == right + problem.total

    def prompt(self, problem: Balance) -> str:
        return f"weigh {' '.join(map(str, problem.weights))} to {problem.total} :"

    def parse(self, prompt: str) -> Balance:
        words = prompt.split()
        found = [words[mark] for mark in (0, -3, -1)] if len(words) == NUM_WEIGHTS + 4 else []
        if found != ["weigh", "to", ":"]:
            raise ValueError(f"prompt={prompt!r}: 'weigh ... to TOTAL :' is needed")
        return Balance(tuple(int(word) for word in words[1:-3]), int(words[-2]))

    def words(self) -> list[str]:
        totals = range(NUM_WEIGHTS * max(WEIGHTS) + 3)
        return ["weigh", "to", ":", *SIGNS, *map(str, totals)]


def _weighed(weights: Sequence[int], signs: Sequence[str]) -> int:
    return sum(SIGNS[sign] * weight for sign, weight in zip(signs, weights, strict=True))


TASK = Weighing()


def reward(prompts: Sequence[str], completions: Sequence[str], **_columns: Any) -> list[float]:
    """1.0 for right signs, else 0.0; GRPO trains with it and the assessment grades with it."""
    return [
        float(TASK.is_solution(prompt, completion))
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
