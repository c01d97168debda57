"""Translating: ``translate c a d b :`` is answered by ``m i o k``.

Each letter has two words in the other language; the answer takes either, no two equal ones.
"""

import random
from collections.abc import Sequence
from itertools import product
from typing import Any, NamedTuple

from examples.study.tasks.choices import ChoiceTask, Words

MEANINGS = {
    letter: ("ijklmnop"[place], "ijklmnop"[(3 * place + 1) % 8])
    for place, letter in enumerate("abcdefgh")
}
"""A word may mean two letters, so that one alone does not tell which."""
LETTERS = tuple(MEANINGS)
WORDS = tuple(sorted({word for words in MEANINGS.values() for word in words}))
LENGTH = 4


class Sentence(NamedTuple):
    """What is asked: different letters."""

    letters: Words


class Translating(ChoiceTask[Sentence]):
    """The task."""

    name = "translating"
    answer_words = LENGTH
    num_problems = 1200

    def draw(self, rng: random.Random, size: int) -> tuple[Sentence, Words]:
        """Letters and one of their translations; ``size`` has no meaning here."""
        while True:
            problem = Sentence(tuple(rng.sample(LETTERS, LENGTH)))
            if right := self.right_answers(problem):
                return problem, rng.choice(right)

    def bend(self, problem: Sentence, answer: Words, rng: random.Random) -> Sentence:
        """One of the letters is another that its word does not mean."""
        place = rng.randrange(LENGTH)
        others = [
            letter
            for letter in LETTERS
            if letter not in problem.letters and answer[place] not in MEANINGS[letter]
        ]
        letters = list(problem.letters)
        letters[place] = rng.choice(others)
        return Sentence(tuple(letters))

    def right_answers(self, problem: Sentence) -> list[Words]:
        every = product(*(MEANINGS[letter] for letter in problem.letters))
        return [words for words in every if len(set(words)) == LENGTH]

    def is_right(self, problem: Sentence, answer: Words) -> bool:
        if len(set(answer)) < LENGTH:
            return False
        pairs = zip(problem.letters, answer, strict=True)
        return all(word in MEANINGS[letter] for letter, word in pairs)

    def prompt(self, problem: Sentence) -> str:
        return f"translate {' '.join(problem.letters)} :"

    def parse(self, prompt: str) -> Sentence:
        words = prompt.split()
        found = [words[0], words[-1]] if len(words) == LENGTH + 2 else []
        if found != ["translate", ":"] or not {*words[1:-1]} <= {*LETTERS}:
            raise ValueError(f"prompt={prompt!r}: 'translate c a ... :' is needed")
        return Sentence(tuple(words[1:-1]))

    def words(self) -> list[str]:
        return ["translate", ":", *LETTERS, *WORDS]


TASK = Translating()


def reward(prompts: Sequence[str], completions: Sequence[str], **_columns: Any) -> list[float]:
    """1.0 for a translation, else 0.0; GRPO trains with it and the assessment grades."""
    return [
        float(TASK.is_solution(prompt, completion))
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
