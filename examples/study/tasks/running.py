"""What two tasks share: numbers taken in any order, the total so far said after each.

All right answers end in the same word, which is what `final_answer` takes out of a completion: ways
differ, answers agree, as in reasoning whose last number is graded.
"""

import random
from abc import abstractmethod
from itertools import permutations
from typing import NamedTuple

from examples.study.tasks.choices import ChoiceTask, Words


class Numbers(NamedTuple):
    """What is asked: different digits, in any order, and what totals are divided by."""

    given: Words
    divisor: str


class RunningTask(ChoiceTask[Numbers]):
    """A digit, the total with it, the next digit, and so on until all are taken.

    Attributes:
        verb: First word of a prompt.
        digits: Digits that may be given.
        divisors: Of a total only the rest is said.
        num_given: Digits of a prompt.
    """

    verb: str
    digits: Words
    divisors: Words
    num_given: int

    @abstractmethod
    def join(self, total: int, digit: int) -> int:
        """The total with a digit more."""

    @property
    def answer_words(self) -> int:  # type: ignore[override]
        """A digit and a total for each."""
        return 2 * self.num_given

    def draw(self, rng: random.Random, size: int) -> tuple[Numbers, Words]:
        """Digits and one of the ways; ``size`` has no meaning here."""
        given = tuple(rng.sample(self.digits, self.num_given))
        problem = Numbers(given, rng.choice(self.divisors))
        return problem, self._way(rng.sample(given, len(given)), int(problem.divisor))

    def bend(self, problem: Numbers, answer: Words, rng: random.Random) -> Numbers:
        """One of the digits is another."""
        given = list(problem.given)
        place = rng.randrange(len(given))
        given[place] = rng.choice([digit for digit in self.digits if digit not in given])
        return problem._replace(given=tuple(given))

    def right_answers(self, problem: Numbers) -> list[Words]:
        return [self._way(row, int(problem.divisor)) for row in permutations(problem.given)]

    def is_right(self, problem: Numbers, answer: Words) -> bool:
        digits, totals = answer[::2], answer[1::2]
        if sorted(digits) != sorted(problem.given):
            return False
        total = int(digits[0])
        said = [str(total % int(problem.divisor))]
        for digit in digits[1:]:
            total = self.join(total, int(digit))
            said.append(str(total % int(problem.divisor)))
        return list(totals) == said

    def prompt(self, problem: Numbers) -> str:
        return f"{self.verb} {' '.join(problem.given)} by {problem.divisor} :"

    def parse(self, prompt: str) -> Numbers:
        words = prompt.split()
        found = [words[0], words[-3], words[-1]] if len(words) == self.num_given + 4 else []
        known = {*words[1:-3]} <= {*self.digits} and {*words[-2:-1]} <= {*self.divisors}
        if found != [self.verb, "by", ":"] or not known:
            raise ValueError(f"prompt={prompt!r}: '{self.verb} 3 8 ... by N :' is needed")
        return Numbers(tuple(words[1:-3]), words[-2])

    def words(self) -> list[str]:
        return [self.verb, "by", ":", *(str(number) for number in range(10))]

    def _way(self, row: list[str] | Words, divisor: int) -> Words:
        rest = 0
        words: list[str] = []
        for place, digit in enumerate(row):
            rest = (int(digit) if place == 0 else self.join(rest, int(digit))) % divisor
            words += [digit, str(rest)]
        return tuple(words)


def final_answer(completion: str) -> str | None:
    """The last word, which is the last total; ``None`` where nothing was said."""
    words = completion.split()
    return words[-1] if words else None
