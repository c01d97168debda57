"""Covering letters: ``cover 1 a c e 2 b d f 3 a b g 4 ... :`` is answered by ``2 3 6``.

The answer names three of six baskets, in their order, that together hold all seven letters.
"""

import random
from collections.abc import Sequence
from itertools import combinations
from typing import Any

from examples.study.tasks.choices import ChoiceTask, Words

LETTERS = ("a", "b", "c", "d", "e", "f", "g")
MARKS = ("1", "2", "3", "4", "5", "6")
SIZE = 3
CHOSEN = 3

Baskets = tuple[Words, ...]
"""What is asked: the letters in each basket, in alphabetical order."""


class Covering(ChoiceTask[Baskets]):
    """The task."""

    name = "covering"
    answer_words = CHOSEN

    def draw(self, rng: random.Random, size: int) -> tuple[Baskets, Words]:
        """Baskets of which three hold all; ``size`` has no meaning here."""
        while True:
            baskets = tuple(tuple(sorted(rng.sample(LETTERS, SIZE))) for _ in MARKS)
            if right := self.right_answers(baskets):
                return baskets, rng.choice(right)

    def bend(self, problem: Baskets, answer: Words, rng: random.Random) -> Baskets:
        """One of the baskets chosen holds other letters, so that one is missing."""
        while True:
            place = MARKS.index(rng.choice(answer))
            other = tuple(sorted(rng.sample(LETTERS, SIZE)))
            bent = (*problem[:place], other, *problem[place + 1 :])
            if not self.is_right(bent, answer):
                return bent

    def right_answers(self, problem: Baskets) -> list[Words]:
        return [
            chosen
            for chosen in combinations(MARKS, CHOSEN)
            if not set(LETTERS).difference(*(problem[MARKS.index(mark)] for mark in chosen))
        ]

    def is_right(self, problem: Baskets, answer: Words) -> bool:
        if list(answer) != sorted(set(answer)) or not set(answer) <= set(MARKS):
            return False
        held = dict(zip(MARKS, problem, strict=True))
        return all(any(letter in held[mark] for mark in answer) for letter in LETTERS)

    def prompt(self, problem: Baskets) -> str:
        baskets = zip(MARKS, problem, strict=True)
        return f"cover {' '.join(' '.join((mark, *letters)) for mark, letters in baskets)} :"

    def parse(self, prompt: str) -> Baskets:
        words, width = prompt.split(), SIZE + 1
        marks = words[1:-1:width] if len(words) == len(MARKS) * width + 2 else []
        if (words[:1], tuple(marks), words[-1:]) != (["cover"], MARKS, [":"]):
            raise ValueError(f"prompt={prompt!r}: 'cover 1 A B C 2 ... :' is needed")
        return tuple(tuple(words[n : n + SIZE]) for n in range(2, len(words) - 1, width))

    def words(self) -> list[str]:
        return ["cover", ":", *MARKS, *LETTERS]


TASK = Covering()


def reward(prompts: Sequence[str], completions: Sequence[str], **_columns: Any) -> list[float]:
    """1.0 where all letters are held, else 0.0; GRPO trains with it and the assessment grades."""
    return [
        float(TASK.is_solution(prompt, completion))
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
