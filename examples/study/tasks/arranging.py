"""Arranging letters: ``put a a b c d e from c to a never a b d e :``.

The answer holds each letter as often as the prompt, begins and ends as it says, never has the
same letter twice in a row, and never the second letter of a forbidden pair after the first.
"""

import random
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from examples.study.tasks.choices import ChoiceTask, Words

ALPHABET = ("a", "b", "c", "d", "e")
LENGTH = 6
NUM_FORBIDDEN = 2


class Order(NamedTuple):
    """What is asked: sorted letters, first and last one, sorted pairs that may not follow."""

    letters: Words
    first: str
    last: str
    forbidden: tuple[tuple[str, str], ...]


class Arranging(ChoiceTask[Order]):
    """The task."""

    name = "arranging"
    answer_words = LENGTH

    def draw(self, rng: random.Random, size: int) -> tuple[Order, Words]:
        """Letters in a row and what could have asked for them; ``size`` has no meaning here."""
        row = [rng.choice(ALPHABET)]
        while len(row) < LENGTH:
            row.append(rng.choice([letter for letter in ALPHABET if letter != row[-1]]))
        seen = set(pairwise(row))
        free = [(x, y) for x in ALPHABET for y in ALPHABET if x != y and (x, y) not in seen]
        forbidden = tuple(sorted(rng.sample(free, NUM_FORBIDDEN)))
        return Order(tuple(sorted(row)), row[0], row[-1], forbidden), tuple(row)

    def bend(self, problem: Order, answer: Words, rng: random.Random) -> Order:
        """One pair of the answer is forbidden in the place of another."""
        kept = rng.sample(problem.forbidden, NUM_FORBIDDEN - 1)
        own = rng.choice(sorted(set(pairwise(answer))))
        return problem._replace(forbidden=tuple(sorted([*kept, own])))

    def right_answers(self, problem: Order) -> list[Words]:
        left = {letter: problem.letters.count(letter) for letter in ALPHABET}
        if not left[problem.first]:
            return []
        left[problem.first] -= 1
        rows: list[tuple[Words, dict[str, int]]] = [((problem.first,), left)]
        for _ in range(LENGTH - 1):
            rows = [
                ((*row, letter), {**rest, letter: rest[letter] - 1})
                for row, rest in rows
                for letter in ALPHABET
                if rest[letter] and letter != row[-1] and (row[-1], letter) not in problem.forbidden
            ]
        return [row for row, _ in rows if row[-1] == problem.last]

    def is_right(self, problem: Order, answer: Words) -> bool:
        if tuple(sorted(answer)) != problem.letters:
            return False
        if (answer[0], answer[-1]) != (problem.first, problem.last):
            return False
        return not any(x == y or (x, y) in problem.forbidden for x, y in pairwise(answer))

    def prompt(self, problem: Order) -> str:
        forbidden = " ".join(word for pair in problem.forbidden for word in pair)
        letters = " ".join(problem.letters)
        return f"put {letters} from {problem.first} to {problem.last} never {forbidden} :"

    def parse(self, prompt: str) -> Order:
        words = prompt.split()
        marks = (0, LENGTH + 1, LENGTH + 3, LENGTH + 5, -1)
        found = [words[mark] for mark in marks] if len(words) == self._prompt_words else []
        if found != ["put", "from", "to", "never", ":"]:
            raise ValueError(f"prompt={prompt!r}: 'put ... from A to B never ... :' is needed")
        pairs = words[LENGTH + 6 : -1]
        return Order(
            letters=tuple(words[1 : LENGTH + 1]),
            first=words[LENGTH + 2],
            last=words[LENGTH + 4],
            forbidden=tuple(zip(pairs[0::2], pairs[1::2], strict=True)),
        )

    @property
    def _prompt_words(self) -> int:
        return LENGTH + 2 * NUM_FORBIDDEN + 7

    def words(self) -> list[str]:
        return ["put", "from", "to", "never", ":", *ALPHABET]


TASK = Arranging()


def reward(prompts: Sequence[str], completions: Sequence[str], **_columns: Any) -> list[float]:
    """1.0 for a right row, else 0.0; GRPO trains with it and the assessment grades with it."""
    return [
        float(TASK.is_solution(prompt, completion))
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
