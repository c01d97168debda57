"""Turning a dial: ``turn 2 3 5 7 from 1 to 4 :`` is answered by ``3 3 7``, three of the steps.

The dial has five places, 0 to 4, and goes round. A step may be taken more than once.
"""

import random
from collections.abc import Sequence
from itertools import product
from typing import Any, NamedTuple

from examples.study.tasks.choices import ChoiceTask, Words

PLACES = 5
STEPS = range(1, 10)
NUM_STEPS = 4
NUM_TURNS = 3


class Dial(NamedTuple):
    """What is asked: the steps in rising order, where the dial stands, and where it has to."""

    steps: tuple[int, ...]
    start: int
    end: int


class Turning(ChoiceTask[Dial]):
    """The task."""

    name = "turning"
    answer_words = NUM_TURNS
    num_problems = 1600

    def draw(self, rng: random.Random, size: int) -> tuple[Dial, Words]:
        """A dial and where some turns take it; ``size`` has no meaning here."""
        steps = tuple(sorted(rng.sample(STEPS, NUM_STEPS)))
        start, turns = rng.randrange(PLACES), rng.choices(steps, k=NUM_TURNS)
        return Dial(steps, start, _turned(start, turns)), tuple(map(str, turns))

    def bend(self, problem: Dial, answer: Words, rng: random.Random) -> Dial:
        """The dial has to stand one or two places off."""
        away = rng.choice((-2, -1, 1, 2))
        return problem._replace(end=(problem.end + away) % PLACES)

    def right_answers(self, problem: Dial) -> list[Words]:
        return [
            tuple(map(str, turns))
            for turns in product(problem.steps, repeat=NUM_TURNS)
            if _turned(problem.start, turns) == problem.end
        ]

    def is_right(self, problem: Dial, answer: Words) -> bool:
        known = {str(step): step for step in problem.steps}
        if not all(word in known for word in answer):
            return False
        place = problem.start
        for word in answer:
            for _ in range(known[word]):
                place = 0 if place == PLACES - 1 else place + 1
        return place == problem.end

    def prompt(self, problem: Dial) -> str:
        steps = " ".join(map(str, problem.steps))
        return f"turn {steps} from {problem.start} to {problem.end} :"

    def parse(self, prompt: str) -> Dial:
        words = prompt.split()
        marks = (0, -5, -3, -1)
        found = [words[mark] for mark in marks] if len(words) == NUM_STEPS + 6 else []
        if found != ["turn", "from", "to", ":"]:
            raise ValueError(f"prompt={prompt!r}: 'turn ... from START to END :' is needed")
        steps = tuple(int(word) for word in words[1:-5])
        return Dial(steps, int(words[-4]), int(words[-2]))

    def words(self) -> list[str]:
        return ["turn", "from", "to", ":", "0", *map(str, STEPS)]


def _turned(start: int, turns: Sequence[int]) -> int:
    return (start + sum(turns)) % PLACES


TASK = Turning()


def reward(prompts: Sequence[str], completions: Sequence[str], **_columns: Any) -> list[float]:
    """1.0 for right turns, else 0.0; GRPO trains with it and the assessment grades with it."""
    return [
        float(TASK.is_solution(prompt, completion))
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
