"""Guarding roads: ``guard a b a d a g b d b e c d c f d g e f :`` is answered by ``a d e f``.

A road joins two towns and is guarded where a guard stands in either; every road has to be. The
four towns are different ones, in any order.
"""

import random
from collections.abc import Sequence
from itertools import chain, combinations, permutations
from typing import Any

from examples.study.tasks.choices import ChoiceTask, Words

TOWNS = ("a", "b", "c", "d", "e", "f", "g")
NUM_ROADS = 9
NUM_GUARDS = 4

Roads = tuple[tuple[str, str], ...]
"""What is asked: different roads in alphabetical order, as are the towns of each."""


class Guarding(ChoiceTask[Roads]):
    """The task."""

    name = "guarding"
    answer_words = NUM_GUARDS

    def draw(self, rng: random.Random, size: int) -> tuple[Roads, Words]:
        """Guards and roads that they guard; ``size`` has no meaning here."""
        guards = tuple(rng.sample(TOWNS, NUM_GUARDS))
        guarded = [road for road in combinations(TOWNS, 2) if set(road) & set(guards)]
        return tuple(sorted(rng.sample(guarded, NUM_ROADS))), guards

    def bend(self, problem: Roads, answer: Words, rng: random.Random) -> Roads:
        """One road is instead between two towns without a guard."""
        free = [road for road in combinations(TOWNS, 2) if not set(road) & set(answer)]
        kept = rng.sample(problem, NUM_ROADS - 1)
        return tuple(sorted([*kept, rng.choice(free)]))

    def right_answers(self, problem: Roads) -> list[Words]:
        return [guards for guards in permutations(TOWNS, NUM_GUARDS) if _guard(guards, problem)]

    def is_right(self, problem: Roads, answer: Words) -> bool:
        is_different = len(set(answer)) == NUM_GUARDS and set(answer) <= set(TOWNS)
        return is_different and all(one in answer or other in answer for one, other in problem)

    def prompt(self, problem: Roads) -> str:
        return f"guard {' '.join(chain.from_iterable(problem))} :"

    def parse(self, prompt: str) -> Roads:
        words = prompt.split()
        if len(words) != 2 * NUM_ROADS + 2 or (words[0], words[-1]) != ("guard", ":"):
            raise ValueError(f"prompt={prompt!r}: 'guard A B C D ... :' is needed")
        return tuple(zip(words[1:-1:2], words[2:-1:2], strict=True))

    def words(self) -> list[str]:
        return ["guard", ":", *TOWNS]


def _guard(guards: Words, roads: Roads) -> bool:
    return not any({*road}.isdisjoint(guards) for road in roads)


TASK = Guarding()


def reward(prompts: Sequence[str], completions: Sequence[str], **_columns: Any) -> list[float]:
    """1.0 for right guards, else 0.0; GRPO trains with it and the assessment grades with it."""
    return [
        float(TASK.is_solution(prompt, completion))
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
