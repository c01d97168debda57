"""Climbing: ``climb 5 2 7 3 1 6 8 4 9 2 :`` is answered by ``2 3 6 8 9``.

The answer takes five of these numbers in the order given, each above the one before.
"""

import random
from collections.abc import Sequence
from itertools import combinations, pairwise
from typing import Any, NamedTuple

from examples.study.tasks.choices import ChoiceTask, Words

NUMBERS = tuple("123456789")
ROW = 10
STEPS = 5


class Rocks(NamedTuple):
    """What is asked: the numbers to take from."""

    heights: Words


class Climbing(ChoiceTask[Rocks]):
    """The task."""

    name = "climbing"
    answer_words = STEPS

    def draw(self, rng: random.Random, size: int) -> tuple[Rocks, Words]:
        """Numbers and five of them that rise; ``size`` has no meaning here."""
        steps = sorted(rng.sample(NUMBERS, STEPS))
        places = set(rng.sample(range(ROW), STEPS))
        rising = iter(steps)
        heights = (next(rising) if n in places else rng.choice(NUMBERS) for n in range(ROW))
        return Rocks(tuple(heights)), tuple(steps)

    def bend(self, problem: Rocks, answer: Words, rng: random.Random) -> Rocks:
        """Other numbers, which do not rise like that."""
        while True:
            bent = Rocks(tuple(rng.choices(NUMBERS, k=ROW)))
            if not self.is_right(bent, answer):
                return bent

    def right_answers(self, problem: Rocks) -> list[Words]:
        taken = dict.fromkeys(combinations(problem.heights, STEPS))
        return [steps for steps in taken if all(one < other for one, other in pairwise(steps))]

    def is_right(self, problem: Rocks, answer: Words) -> bool:
        rest = iter(problem.heights)
        return list(answer) == sorted(set(answer)) and all(step in rest for step in answer)

    def prompt(self, problem: Rocks) -> str:
        return f"climb {' '.join(problem.heights)} :"

    def parse(self, prompt: str) -> Rocks:
        words = prompt.split()
        if len(words) != ROW + 2 or (words[0], words[-1]) != ("climb", ":"):
            raise ValueError(f"prompt={prompt!r}: 'climb 1 2 ... :' with {ROW} numbers is needed")
        return Rocks(tuple(words[1:-1]))

    def words(self) -> list[str]:
        return ["climb", ":", *NUMBERS]


TASK = Climbing()


def reward(prompts: Sequence[str], completions: Sequence[str], **_columns: Any) -> list[float]:
    """1.0 for numbers that rise, else 0.0; GRPO trains with it and the assessment grades."""
    return [
        float(TASK.is_solution(prompt, completion))
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
