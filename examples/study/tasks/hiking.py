"""Hiking: ``hike a to f by a c b c b d b f ... :`` is answered by ``a c b f``.

A path joins two huts, either way. The answer begins and ends where it is said, takes a path from
each hut to the next, and comes to no hut twice.
"""

import random
from collections.abc import Sequence
from itertools import chain, combinations, pairwise, permutations
from typing import Any, NamedTuple

from examples.study.tasks.choices import ChoiceTask, Words

HUTS = ("a", "b", "c", "d", "e", "f", "g")
NUM_STOPS = 4
NUM_PATHS = 11


class Hike(NamedTuple):
    """What is asked: first and last hut, and the paths in alphabetical order."""

    start: str
    end: str
    paths: tuple[tuple[str, ...], ...]


class Hiking(ChoiceTask[Hike]):
    """The task."""

    name = "hiking"
    answer_words = NUM_STOPS

    def draw(self, rng: random.Random, size: int) -> tuple[Hike, Words]:
        """A hike and paths that it takes; ``size`` has no meaning here."""
        stops = tuple(rng.sample(HUTS, NUM_STOPS))
        taken = {_path(one, other) for one, other in pairwise(stops)}
        others = [path for path in combinations(HUTS, 2) if path not in taken]
        paths = sorted([*taken, *rng.sample(others, NUM_PATHS - len(taken))])
        return Hike(stops[0], stops[-1], tuple(paths)), stops

    def bend(self, problem: Hike, answer: Words, rng: random.Random) -> Hike:
        """One of the paths taken is another path."""
        gone = _path(*rng.choice(list(pairwise(answer))))
        others = [path for path in combinations(HUTS, 2) if path not in problem.paths]
        kept = [path for path in problem.paths if path != gone]
        return problem._replace(paths=tuple(sorted([*kept, rng.choice(others)])))

    def right_answers(self, problem: Hike) -> list[Words]:
        between = [hut for hut in HUTS if hut not in (problem.start, problem.end)]
        every = (
            (problem.start, *stops, problem.end) for stops in permutations(between, NUM_STOPS - 2)
        )
        known = set(problem.paths)
        return [
            stops
            for stops in every
            if all(_path(one, other) in known for one, other in pairwise(stops))
        ]

    def is_right(self, problem: Hike, answer: Words) -> bool:
        if (answer[0], answer[-1]) != (problem.start, problem.end):
            return False
        near: dict[str, set[str]] = {hut: set() for hut in HUTS}
        for one, other in problem.paths:
            near[one].add(other)
            near[other].add(one)
        is_walked = all(other in near.get(one, set()) for one, other in pairwise(answer))
        return is_walked and len(set(answer)) == len(answer)

    def prompt(self, problem: Hike) -> str:
        paths = " ".join(chain.from_iterable(problem.paths))
        return f"hike {problem.start} to {problem.end} by {paths} :"

    def parse(self, prompt: str) -> Hike:
        words = prompt.split()
        found = [words[mark] for mark in (0, 2, 4, -1)] if len(words) == 2 * NUM_PATHS + 6 else []
        if found != ["hike", "to", "by", ":"]:
            raise ValueError(f"prompt={prompt!r}: 'hike A to B by ... :' is needed")
        paths = zip(words[5:-1:2], words[6:-1:2], strict=True)
        return Hike(words[1], words[3], tuple(paths))

    def words(self) -> list[str]:
        return ["hike", "to", "by", ":", *HUTS]


def _path(one: str, other: str) -> tuple[str, ...]:
    return tuple(sorted((one, other)))


TASK = Hiking()


def reward(prompts: Sequence[str], completions: Sequence[str], **_columns: Any) -> list[float]:
    """1.0 for a right hike, else 0.0; GRPO trains with it and the assessment grades with it."""
    return [
        float(TASK.is_solution(prompt, completion))
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
