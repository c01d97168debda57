"""Packing boxes: ``pack 3 5 2 4 6 1 into 9 13 :`` is answered by ``a b a a b b``.

The answer names the box of each of six things, so that neither box holds more than it can.
"""

import random
from collections.abc import Sequence
from itertools import product
from typing import Any, NamedTuple

from examples.study.tasks.choices import ChoiceTask, Words

BOXES = ("a", "b")
SIZES = tuple("123456789")
THINGS = 6
SPARE = 2
"""Room that a box has at most beyond what one packing puts into it."""
LARGEST = 9 * THINGS + SPARE


class Load(NamedTuple):
    """What is asked: sizes of the things, and what each box can hold."""

    things: Words
    holds: tuple[int, int]


class Packing(ChoiceTask[Load]):
    """The task."""

    name = "packing"
    answer_words = THINGS
    num_problems = 1200

    def draw(self, rng: random.Random, size: int) -> tuple[Load, Words]:
        """Things, their boxes, and boxes that they fit into; ``size`` has no meaning here."""
        things, boxes = tuple(rng.choices(SIZES, k=THINGS)), tuple(rng.choices(BOXES, k=THINGS))
        holds = [used + rng.randint(0, SPARE) for used in _used(things, boxes)]
        return Load(things, (holds[0], holds[1])), boxes

    def bend(self, problem: Load, answer: Words, rng: random.Random) -> Load:
        """One box holds less than the answer puts into it; where that is nothing, other things."""
        used = _used(problem.things, answer)
        place = rng.randrange(len(BOXES))
        if used[place] == 0:
            place = 1 - place
        holds = list(problem.holds)
        holds[place] = max(0, used[place] - rng.randint(1, 3))
        return problem._replace(holds=(holds[0], holds[1]))

    def right_answers(self, problem: Load) -> list[Words]:
        every = product(BOXES, repeat=THINGS)
        return [boxes for boxes in every if self.is_right(problem, boxes)]

    def is_right(self, problem: Load, answer: Words) -> bool:
        used = _used(problem.things, answer)
        fits = all(own <= most for own, most in zip(used, problem.holds, strict=True))
        return set(answer) <= set(BOXES) and fits

    def prompt(self, problem: Load) -> str:
        first, second = problem.holds
        return f"pack {' '.join(problem.things)} into {first} {second} :"

    def parse(self, prompt: str) -> Load:
        words = prompt.split()
        found = [words[0], words[-4], words[-1]] if len(words) == THINGS + 5 else []
        if found != ["pack", "into", ":"] or not all(map(str.isdigit, words[1:-4] + words[-3:-1])):
            raise ValueError(f"prompt={prompt!r}: 'pack 1 2 ... into M N :' is needed")
        return Load(tuple(words[1:-4]), (int(words[-3]), int(words[-2])))

    def words(self) -> list[str]:
        return ["pack", "into", ":", *BOXES, *(str(n) for n in range(LARGEST + 1))]


def _used(things: Words, boxes: Words) -> list[int]:
    """What is put into each box."""
    return [
        sum(int(thing) for thing, own in zip(things, boxes, strict=True) if own == box)
        for box in BOXES
    ]


TASK = Packing()


def reward(prompts: Sequence[str], completions: Sequence[str], **_columns: Any) -> list[float]:
    """1.0 for boxes that hold all, else 0.0; GRPO trains with it and the assessment grades."""
    return [
        float(TASK.is_solution(prompt, completion))
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
