"""Seating guests: ``seat 1 a c e 2 b c d 3 a b f 4 c e f 5 a d e :`` is answered by ``c b a f d``.

The answer names a place for each guest in turn: one of the three that the guest would take, and
no place twice.
"""

import random
from collections.abc import Sequence
from typing import Any

from examples.study.tasks.choices import ChoiceTask, Words

GUESTS = ("1", "2", "3", "4", "5")
PLACES = ("a", "b", "c", "d", "e", "f")
NUM_LIKED = 3

Wishes = tuple[Words, ...]
"""What is asked: the places that each guest would take, in alphabetical order."""


class Seating(ChoiceTask[Wishes]):
    """The task."""

    name = "seating"
    answer_words = len(GUESTS)

    def draw(self, rng: random.Random, size: int) -> tuple[Wishes, Words]:
        """Places for all and wishes that allow them; ``size`` has no meaning here."""
        seats = tuple(rng.sample(PLACES, len(GUESTS)))
        return tuple(_wish(rng, seat) for seat in seats), seats

    def bend(self, problem: Wishes, answer: Words, rng: random.Random) -> Wishes:
        """One guest likes another place instead of that in the answer."""
        guest = rng.randrange(len(GUESTS))
        seat = answer[guest]
        kept = [place for place in problem[guest] if place != seat]
        other = rng.choice([place for place in PLACES if place not in problem[guest]])
        return (*problem[:guest], tuple(sorted([*kept, other])), *problem[guest + 1 :])

    def right_answers(self, problem: Wishes) -> list[Words]:
        found: list[Words] = [()]
        for liked in problem:
            found = [(*taken, place) for taken in found for place in liked if place not in taken]
        return found

    def is_right(self, problem: Wishes, answer: Words) -> bool:
        liked = all(place in own for place, own in zip(answer, problem, strict=True))
        return liked and len(set(answer)) == len(answer)

    def prompt(self, problem: Wishes) -> str:
        wishes = zip(GUESTS, problem, strict=True)
        return f"seat {' '.join(' '.join((guest, *liked)) for guest, liked in wishes)} :"

    def parse(self, prompt: str) -> Wishes:
        words, width = prompt.split(), NUM_LIKED + 1
        marks = words[1:-1:width] if len(words) == len(GUESTS) * width + 2 else []
        if (words[:1], tuple(marks), words[-1:]) != (["seat"], GUESTS, [":"]):
            raise ValueError(f"prompt={prompt!r}: 'seat 1 A B C 2 ... :' is needed")
        return tuple(tuple(words[n : n + NUM_LIKED]) for n in range(2, len(words) - 1, width))

    def words(self) -> list[str]:
        return ["seat", ":", *GUESTS, *PLACES]


def _wish(rng: random.Random, seat: str) -> Words:
    others = rng.sample([place for place in PLACES if place != seat], NUM_LIKED - 1)
    return tuple(sorted([seat, *others]))


TASK = Seating()


def reward(prompts: Sequence[str], completions: Sequence[str], **_columns: Any) -> list[float]:
    """1.0 for right seats, else 0.0; GRPO trains with it and the assessment grades with it."""
    return [
        float(TASK.is_solution(prompt, completion))
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
