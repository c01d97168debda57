"""Queueing: ``queue c a f b a e d b c e :`` is answered by ``c a d f b e``, all six in a row.

Of each pair the first stands before the second, somewhere.
"""

import random
from collections.abc import Sequence
from itertools import chain, combinations, permutations
from typing import Any

from examples.study.tasks.choices import ChoiceTask, Words

PEOPLE = ("a", "b", "c", "d", "e", "f")
NUM_PAIRS = 5

Pairs = tuple[tuple[str, str], ...]
"""What is asked: who stands before whom, in the order in which it is said."""


class Queueing(ChoiceTask[Pairs]):
    """The task."""

    name = "queueing"
    answer_words = len(PEOPLE)

    def draw(self, rng: random.Random, size: int) -> tuple[Pairs, Words]:
        """A queue and pairs of it; ``size`` has no meaning here."""
        queue = tuple(rng.sample(PEOPLE, len(PEOPLE)))
        return tuple(rng.sample(list(combinations(queue, 2)), NUM_PAIRS)), queue

    def bend(self, problem: Pairs, answer: Words, rng: random.Random) -> Pairs:
        """One pair is the other way round."""
        place = rng.randrange(NUM_PAIRS)
        first, second = problem[place]
        return (*problem[:place], (second, first), *problem[place + 1 :])

    def right_answers(self, problem: Pairs) -> list[Words]:
        return [queue for queue in permutations(PEOPLE) if _stand(queue, problem)]

    def is_right(self, problem: Pairs, answer: Words) -> bool:
        if sorted(answer) != list(PEOPLE):
            return False
        waiting = set(PEOPLE)
        for person in answer:
            if any(second == person and first in waiting for first, second in problem):
                return False
            waiting.remove(person)
        return True

    def prompt(self, problem: Pairs) -> str:
        return f"queue {' '.join(chain.from_iterable(problem))} :"

    def parse(self, prompt: str) -> Pairs:
        words = prompt.split()
        if len(words) != 2 * NUM_PAIRS + 2 or (words[0], words[-1]) != ("queue", ":"):
            raise ValueError(f"prompt={prompt!r}: 'queue A B C D ... :' is needed")
        return tuple(zip(words[1:-1:2], words[2:-1:2], strict=True))

    def words(self) -> list[str]:
        return ["queue", ":", *PEOPLE]


def _stand(queue: Words, pairs: Pairs) -> bool:
    places = {person: place for place, person in enumerate(queue)}
    return all(places[first] < places[second] for first, second in pairs)


TASK = Queueing()


def reward(prompts: Sequence[str], completions: Sequence[str], **_columns: Any) -> list[float]:
    """1.0 for a right queue, else 0.0; GRPO trains with it and the assessment grades with it."""
    return [
        float(TASK.is_solution(prompt, completion))
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
