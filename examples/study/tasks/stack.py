"""A small list language: the answer is a program that turns one list into another.

``in 3 1 2 out 2 2 3 :`` is answered by a program with its trace, ``rotl 1 2 3 inc 2 2 3``: each
instruction is followed by the list it leaves. The interpreter is total: every program of known
words ends, with a list of the same length. A program whose trace is wrong is wrong.
"""

from collections.abc import Callable, Sequence
from functools import cache
from itertools import product
from typing import Any

from examples.study.tasks.walks import Move, Pair, State, WalkTask

MODULUS = 5
LENGTH = 3
"""Lists hold LENGTH digits below MODULUS; arithmetic is modulo MODULUS."""

Values = tuple[int, ...]
INSTRUCTIONS: dict[str, Callable[[Values], Values]] = {
    "rotl": lambda v: (*v[1:], v[0]),
    "rotr": lambda v: (v[-1], *v[:-1]),
    "swp": lambda v: (v[1], v[0], *v[2:]),
    "rev": lambda v: v[::-1],
    "inc": lambda v: ((v[0] + 1) % MODULUS, *v[1:]),
    "dec": lambda v: ((v[0] - 1) % MODULUS, *v[1:]),
    "add": lambda v: ((v[0] + v[1]) % MODULUS, *v[1:]),
    "cpy": lambda v: (v[1], *v[1:]),
}
"""Each word of the language, in the order in which the expert prefers them."""


def run(program: Sequence[str], values: Values) -> Values | None:
    """The list after the program, ``None`` where a word is unknown."""
    for word in program:
        if word not in INSTRUCTIONS:
            return None
        values = INSTRUCTIONS[word](values)
    return values


class Stack(WalkTask):
    """The task."""

    name = "stack"
    max_steps = 4
    distance = 3
    step_words = 1 + LENGTH

    def states(self) -> list[State]:
        return [tuple(map(str, values)) for values in product(range(MODULUS), repeat=LENGTH)]

    @cache  # noqa: B019  (one instance lives as long as the process)
    def moves(self, state: State) -> tuple[Move, ...]:
        values = tuple(map(int, state))
        reached = {w: tuple(map(str, step(values))) for w, step in INSTRUCTIONS.items()}
        return tuple(Move((word, *state), state) for word, state in reached.items())

    def prompt(self, pair: Pair) -> str:
        return f"in {' '.join(pair.start)} out {' '.join(pair.target)} :"

    def parse(self, prompt: str) -> Pair:
        words = prompt.split()
        if len(words) != 2 * LENGTH + 3 or words[:: LENGTH + 1] != ["in", "out", ":"]:
            raise ValueError(f"prompt={prompt!r}: 'in A B C out D E F :' is needed")
        return Pair(tuple(words[1 : LENGTH + 1]), tuple(words[LENGTH + 2 : -1]))

    def words(self) -> list[str]:
        return ["in", "out", ":", *INSTRUCTIONS, *map(str, range(MODULUS))]

    def follow(self, state: State, words: Sequence[str]) -> State | None:
        values = run(words[:1], tuple(map(int, state)))
        reached = None if values is None else tuple(map(str, values))
        return reached if reached == tuple(words[1:]) else None


TASK = Stack()


def reward(prompts: Sequence[str], completions: Sequence[str], **_columns: Any) -> list[float]:
    """1.0 for a right program, else 0.0; GRPO trains with it and the assessment grades with it."""
    return [
        float(TASK.is_solution(prompt, completion))
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
