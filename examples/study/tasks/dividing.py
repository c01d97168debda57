"""Dividing evenly: ``divide 7 3 9 2 5 4 by 3 :`` is answered by ``7 3 5``.

The answer takes three of these six numbers, in the order given, whose sum the last divides.
"""

import random
from collections.abc import Sequence
from itertools import combinations
from typing import Any, NamedTuple

from examples.study.tasks.choices import ChoiceTask, Words

NUMBERS = tuple("123456789")
DIVISORS = tuple("34")
GIVEN, TAKEN = 6, 3


class Division(NamedTuple):
    """What is asked: different numbers, in any order, and what divides."""

    given: Words
    divisor: str


class Dividing(ChoiceTask[Division]):
    """The task."""

    name = "dividing"
    answer_words = TAKEN

    def draw(self, rng: random.Random, size: int) -> tuple[Division, Words]:
        """Numbers, and three whose sum is divided; ``size`` has no meaning here."""
        while True:
            problem = Division(tuple(rng.sample(NUMBERS, GIVEN)), rng.choice(DIVISORS))
            if right := self.right_answers(problem):
                return problem, rng.choice(right)

    def bend(self, problem: Division, answer: Words, rng: random.Random) -> Division:
        """One of the three is another number, in the same place of the row."""
        while True:
            place = problem.given.index(rng.choice(answer))
            other = rng.choice([each for each in NUMBERS if each not in problem.given])
            given = (*problem.given[:place], other, *problem.given[place + 1 :])
            if not self.is_right(bent := problem._replace(given=given), answer):
                return bent

    def right_answers(self, problem: Division) -> list[Words]:
        divisor = int(problem.divisor)
        every = combinations(problem.given, TAKEN)
        return [taken for taken in every if sum(map(int, taken)) % divisor == 0]

    def is_right(self, problem: Division, answer: Words) -> bool:
        left = iter(problem.given)
        if not all(number in left for number in answer):
            return False
        return sum(map(int, answer)) % int(problem.divisor) == 0

    def prompt(self, problem: Division) -> str:
        return f"divide {' '.join(problem.given)} by {problem.divisor} :"

    def parse(self, prompt: str) -> Division:
        words = prompt.split()
        found = [words[0], words[-3], words[-1]] if len(words) == GIVEN + 4 else []
        if found != ["divide", "by", ":"] or not {*words[1:-3], words[-2]} <= {*NUMBERS}:
            raise ValueError(f"prompt={prompt!r}: 'divide 7 3 ... by N :' is needed")
        return Division(tuple(words[1:-3]), words[-2])

    def words(self) -> list[str]:
        return ["divide", "by", ":", *NUMBERS]


TASK = Dividing()


def reward(prompts: Sequence[str], completions: Sequence[str], **_columns: Any) -> list[float]:
    """1.0 for a sum that is divided, else 0.0; GRPO trains with it and the assessment grades."""
    return [
        float(TASK.is_solution(prompt, completion))
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
