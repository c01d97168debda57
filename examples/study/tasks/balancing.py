"""Balancing: ``balance 7 3 9 2 5 4 :`` is answered by ``l r r l l r``, a side for each weight.

What lies on either side differs by at most three.
"""

import random
from collections.abc import Sequence
from itertools import product
from typing import Any, NamedTuple

from examples.study.tasks.choices import ChoiceTask, Words

SIDES = ("l", "r")
WEIGHTS = tuple("123456789")
NUM_WEIGHTS = 6
MOST = 3
"""By how much the sides may differ."""


class Weights(NamedTuple):
    """What is asked: different weights, in any order."""

    given: Words


class Balancing(ChoiceTask[Weights]):
    """The task."""

    name = "balancing"
    answer_words = NUM_WEIGHTS

    def draw(self, rng: random.Random, size: int) -> tuple[Weights, Words]:
        """Weights and their sides; ``size`` has no meaning here."""
        while True:
            problem = Weights(tuple(rng.sample(WEIGHTS, NUM_WEIGHTS)))
            if right := self.right_answers(problem):
                return problem, rng.choice(right)

    def bend(self, problem: Weights, answer: Words, rng: random.Random) -> Weights:
        """One weight is another, so that the sides differ by more, or two change their places."""
        while True:
            given = list(problem.given)
            one, other = rng.sample(range(NUM_WEIGHTS), 2)
            given[one], given[other] = given[other], given[one]
            given[one] = rng.choice([each for each in WEIGHTS if each not in given])
            if not self.is_right(bent := Weights(tuple(given)), answer):
                return bent

    def right_answers(self, problem: Weights) -> list[Words]:
        every = product(SIDES, repeat=NUM_WEIGHTS)
        return [sides for sides in every if self.is_right(problem, sides)]

    def is_right(self, problem: Weights, answer: Words) -> bool:
        if not set(answer) <= set(SIDES):
            return False
        signed = [
            int(weight) if side == "l" else -int(weight)
            for weight, side in zip(problem.given, answer, strict=True)
        ]
        return abs(sum(signed)) <= MOST

    def prompt(self, problem: Weights) -> str:
        return f"balance {' '.join(problem.given)} :"

    def parse(self, prompt: str) -> Weights:
        words = prompt.split()
        found = [words[0], words[-1]] if len(words) == NUM_WEIGHTS + 2 else []
        if found != ["balance", ":"] or not {*words[1:-1]} <= {*WEIGHTS}:
            raise ValueError(f"prompt={prompt!r}: 'balance 7 3 ... :' is needed")
        return Weights(tuple(words[1:-1]))

    def words(self) -> list[str]:
        return ["balance", ":", *SIDES, *WEIGHTS]


TASK = Balancing()


def reward(prompts: Sequence[str], completions: Sequence[str], **_columns: Any) -> list[float]:
    """1.0 for sides in balance, else 0.0; GRPO trains with it and the assessment grades."""
    return [
        float(TASK.is_solution(prompt, completion))
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
