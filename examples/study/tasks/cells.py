"""What tasks share that ask for a line of symbols of which some are given.

The answer is the whole line: given cells stay, and the task says which lines are right.
"""

import random
from abc import abstractmethod
from functools import cache

from examples.study.tasks.choices import ChoiceTask, Words

BLANK = "_"


class CellsTask(ChoiceTask[Words]):
    """A task whose problem is its cells.

    Attributes:
        verb: First word of a prompt.
        symbols: What may stand in a cell.
        num_given: Cells that a prompt gives.
    """

    verb: str
    symbols: tuple[str, ...]
    num_given: int

    @abstractmethod
    def lines(self) -> tuple[Words, ...]:
        """All right lines, those that the expert prefers first; the same object at every call."""

    @abstractmethod
    def is_line(self, cells: Words) -> bool:
        """Whether a line is right; knows nothing of `lines`."""

    def draw(self, rng: random.Random, size: int) -> tuple[Words, Words]:
        """A line with some of its cells; ``size`` more are given than in a prompt."""
        line = rng.choice(self.lines())
        given = set(rng.sample(range(len(line)), self.num_given + size))
        return tuple(c if place in given else BLANK for place, c in enumerate(line)), line

    def bend(self, problem: Words, answer: Words, rng: random.Random) -> Words:
        """One given cell says something else."""
        place = rng.choice([place for place, cell in enumerate(problem) if cell != BLANK])
        other = rng.choice([symbol for symbol in self.symbols if symbol != problem[place]])
        return (*problem[:place], other, *problem[place + 1 :])

    def right_answers(self, problem: Words) -> list[Words]:
        given = [_holding(self, place, c) for place, c in enumerate(problem) if c != BLANK]
        return [self.lines()[number] for number in sorted(frozenset.intersection(*given))]

    def is_right(self, problem: Words, answer: Words) -> bool:
        kept = all(cell in (BLANK, own) for cell, own in zip(problem, answer, strict=True))
        return kept and self.is_line(answer)

    def prompt(self, problem: Words) -> str:
        return f"{self.verb} {' '.join(problem)} :"

    def parse(self, prompt: str) -> Words:
        words, size = prompt.split(), self.answer_words
        if len(words) != size + 2 or (words[0], words[-1]) != (self.verb, ":"):
            raise ValueError(f"prompt={prompt!r}: {self.verb!r} and {size} cells and ':' is needed")
        return tuple(words[1:-1])

    def words(self) -> list[str]:
        return [self.verb, ":", BLANK, *self.symbols]


@cache
def _holding(task: CellsTask, place: int, cell: str) -> frozenset[int]:
    """Numbers of the lines with ``cell`` in ``place``."""
    return frozenset(n for n, line in enumerate(task.lines()) if line[place] == cell)
