"""Parking: ``park 2 3 1 between 5 9 10 :`` is answered by ``3 6 2``, the first place of each car.

The street has ten places. A car of length 3 at 6 stands on 6, 7 and 8. No two cars share a
place, none stands on the three that are named, and none reaches beyond the end.
"""

import random
from collections.abc import Sequence, Set
from typing import Any, NamedTuple

from examples.study.tasks.choices import ChoiceTask, Words

LENGTHS = tuple("123")
PLACES = tuple(str(n) for n in range(1, 11))
CARS, TAKEN = 3, 3


class Street(NamedTuple):
    """What is asked: lengths of the cars, and the places that are taken, in rising order."""

    cars: Words
    taken: tuple[int, ...]


class Parking(ChoiceTask[Street]):
    """The task."""

    name = "parking"
    answer_words = CARS
    num_problems = 1200

    def draw(self, rng: random.Random, size: int) -> tuple[Street, Words]:
        """A street and where its cars may stand; ``size`` has no meaning here."""
        while True:
            cars = tuple(rng.choices(LENGTHS, k=CARS))
            taken = tuple(sorted(rng.sample(range(1, len(PLACES) + 1), TAKEN)))
            problem, answer = Street(cars, taken), tuple(rng.choices(PLACES, k=CARS))
            if self.is_right(problem, answer):
                return problem, answer

    def bend(self, problem: Street, answer: Words, rng: random.Random) -> Street:
        """A place is taken on which a car stands."""
        others = rng.sample(problem.taken, TAKEN - 1)
        place = rng.choice(_covered(problem.cars, answer))
        return problem._replace(taken=tuple(sorted((place, *others))))

    def right_answers(self, problem: Street) -> list[Words]:
        return _parked(problem.cars, {*problem.taken})

    def is_right(self, problem: Street, answer: Words) -> bool:
        if not set(answer) <= set(PLACES):
            return False
        covered = [*_covered(problem.cars, answer), *problem.taken]
        return len(covered) == len({*covered}) and max(covered) <= len(PLACES)

    def prompt(self, problem: Street) -> str:
        cars, taken = " ".join(problem.cars), " ".join(map(str, problem.taken))
        return f"park {cars} between {taken} :"

    def parse(self, prompt: str) -> Street:
        words = prompt.split()
        found = words[:: CARS + 1] if len(words) == CARS + TAKEN + 3 else []
        is_known = {*words[1 : CARS + 1]} <= {*LENGTHS} and {*words[CARS + 2 : -1]} <= {*PLACES}
        if found != ["park", "between", ":"] or not is_known:
            raise ValueError(f"prompt={prompt!r}: 'park 2 3 1 between ... :' is needed")
        return Street(tuple(words[1 : CARS + 1]), tuple(map(int, words[CARS + 2 : -1])))

    def words(self) -> list[str]:
        return ["park", "between", ":", *PLACES]


def _covered(cars: Words, firsts: Words) -> list[int]:
    """Every place that a car stands on, as often as one does."""
    return [
        place
        for car, first in zip(cars, firsts, strict=True)
        for place in range(int(first), int(first) + int(car))
    ]


def _parked(cars: Words, taken: Set[int]) -> list[Words]:
    """Every way to park the cars where nothing is taken, by the first places."""
    if not cars:
        return [()]
    ways = []
    for first in PLACES:
        covered = {*range(int(first), int(first) + int(cars[0]))}
        if not covered & taken and max(covered) <= len(PLACES):
            ways += [(first, *rest) for rest in _parked(cars[1:], covered | taken)]
    return ways


TASK = Parking()


def reward(prompts: Sequence[str], completions: Sequence[str], **_columns: Any) -> list[float]:
    """1.0 for cars that all fit, else 0.0; GRPO trains with it and the assessment grades."""
    return [
        float(TASK.is_solution(prompt, completion))
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
