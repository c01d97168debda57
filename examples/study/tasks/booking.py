"""Booking a room: ``book 1 3 2 5 3 4 4 8 5 7 7 9 :`` is answered by ``1 3 3 4 5 7``.

The prompt lists six requests by begin and end. The answer grants three of them, from morning to
evening; none begins before the one ahead of it ends.
"""

import random
from collections.abc import Sequence
from itertools import combinations, pairwise
from typing import Any

from examples.study.tasks.choices import ChoiceTask, Words

HOURS = range(1, 13)
EVERY_REQUEST = tuple(combinations(HOURS, 2))
NUM_REQUESTS = 6
NUM_GRANTED = 3

Request = tuple[int, int]
Requests = tuple[Request, ...]
"""What is asked: begin and end of each request, in rising order."""


class Booking(ChoiceTask[Requests]):
    """The task."""

    name = "booking"
    answer_words = 2 * NUM_GRANTED

    def draw(self, rng: random.Random, size: int) -> tuple[Requests, Words]:
        """Three requests in turn and three others; ``size`` has no meaning here."""
        granted: Requests = ()
        while not _in_turn(granted):
            granted = tuple(sorted(rng.sample(EVERY_REQUEST, NUM_GRANTED)))
        others = [request for request in EVERY_REQUEST if request not in granted]
        asked = (*granted, *rng.sample(others, NUM_REQUESTS - NUM_GRANTED))
        return tuple(sorted(asked)), _said(granted)

    def bend(self, problem: Requests, answer: Words, rng: random.Random) -> Requests:
        """One granted request is replaced by one that was not there."""
        granted = rng.choice(_pairs(answer))
        kept = [request for request in problem if request != granted]
        other = rng.choice([request for request in EVERY_REQUEST if request not in problem])
        return tuple(sorted([*kept, other]))

    def right_answers(self, problem: Requests) -> list[Words]:
        return [_said(some) for some in combinations(problem, NUM_GRANTED) if _in_turn(some)]

    def is_right(self, problem: Requests, answer: Words) -> bool:
        if not set(answer) <= set(map(str, HOURS)):
            return False
        granted = _pairs(answer)
        return set(granted) <= set(problem) and _in_turn(granted)

    def prompt(self, problem: Requests) -> str:
        return f"book {' '.join(_said(problem))} :"

    def parse(self, prompt: str) -> Requests:
        words = prompt.split()
        found = [words[0], words[-1]] if len(words) == 2 * NUM_REQUESTS + 2 else []
        if found != ["book", ":"]:
            raise ValueError(f"prompt={prompt!r}: 'book BEGIN END ... :' is needed")
        return tuple(_pairs(words[1:-1]))

    def words(self) -> list[str]:
        return ["book", ":", *map(str, HOURS)]


def _in_turn(requests: Sequence[Request]) -> bool:
    """Whether there are some, and each begins when the one ahead of it has ended, or later."""
    return bool(requests) and all(end <= begin for (_, end), (begin, _) in pairwise(requests))


def _said(requests: Sequence[Request]) -> Words:
    return tuple(str(hour) for request in requests for hour in request)


def _pairs(words: Sequence[str]) -> list[Request]:
    hours = [int(word) for word in words]
    return list(zip(hours[0::2], hours[1::2], strict=True))


TASK = Booking()


def reward(prompts: Sequence[str], completions: Sequence[str], **_columns: Any) -> list[float]:
    """1.0 for right bookings, else 0.0; GRPO trains with it and the assessment grades with it."""
    return [
        float(TASK.is_solution(prompt, completion))
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
