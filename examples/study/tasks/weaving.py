"""Weaving two rows: ``weave a c b d a with c a d b a :`` is answered by ``c a c b d b a``.

The answer has seven letters, so that the two rows of five share some: either row is what is left
when two letters of the answer are struck out.
"""

import random
from collections.abc import Sequence
from typing import Any, NamedTuple

from examples.study.tasks.choices import ChoiceTask, Words

ALPHABET = ("a", "b", "c", "d")
ROW = 5
LENGTH = 7


class Rows(NamedTuple):
    """What is asked: the rows that the answer holds."""

    warp: Words
    weft: Words


class Weaving(ChoiceTask[Rows]):
    """The task."""

    name = "weaving"
    answer_words = LENGTH

    def draw(self, rng: random.Random, size: int) -> tuple[Rows, Words]:
        """Letters and two rows that they hold; ``size`` has no meaning here."""
        woven = tuple(rng.choices(ALPHABET, k=LENGTH))
        picks = (sorted(rng.sample(range(LENGTH), ROW)) for _ in range(2))
        return Rows(*(tuple(woven[place] for place in pick) for pick in picks)), woven

    def bend(self, problem: Rows, answer: Words, rng: random.Random) -> Rows:
        """One row has another letter, which takes it out of the answer."""
        while True:
            weft = list(problem.weft)
            weft[rng.randrange(ROW)] = rng.choice(ALPHABET)
            bent = Rows(problem.warp, tuple(weft))
            if not self.is_right(bent, answer):
                return bent

    def right_answers(self, problem: Rows) -> list[Words]:
        found: list[tuple[Words, int, int]] = [((), 0, 0)]
        for left in reversed(range(LENGTH)):
            found = [
                ((*woven, letter), warp, weft)
                for woven, before, across in found
                for letter in ALPHABET
                if ROW - (warp := before + (problem.warp[before : before + 1] == (letter,))) <= left
                and ROW - (weft := across + (problem.weft[across : across + 1] == (letter,)))
                <= left
            ]
        return [woven for woven, _, _ in found]

    def is_right(self, problem: Rows, answer: Words) -> bool:
        return all(_holds(answer, row) for row in problem) and set(answer) <= set(ALPHABET)

    def prompt(self, problem: Rows) -> str:
        return f"weave {' '.join(problem.warp)} with {' '.join(problem.weft)} :"

    def parse(self, prompt: str) -> Rows:
        words = prompt.split()
        if len(words) != 2 * ROW + 3 or words[:: ROW + 1] != ["weave", "with", ":"]:
            raise ValueError(f"prompt={prompt!r}: 'weave A B C D E with ... :' is needed")
        return Rows(tuple(words[1 : ROW + 1]), tuple(words[ROW + 2 : -1]))

    def words(self) -> list[str]:
        return ["weave", "with", ":", *ALPHABET]


def _holds(answer: Words, row: Words) -> bool:
    """Whether the row is left when letters are struck out."""
    rest = iter(answer)
    return all(letter in rest for letter in row)


TASK = Weaving()


def reward(prompts: Sequence[str], completions: Sequence[str], **_columns: Any) -> list[float]:
    """1.0 for a right weave, else 0.0; GRPO trains with it and the assessment grades with it."""
    return [
        float(TASK.is_solution(prompt, completion))
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
