"""Arithmetic chains: ``from 7 to 61 :`` is answered by ``* 4 = 28 + 5 = 33 ...``."""

from collections.abc import Sequence
from functools import cache
from typing import Any

from examples.study.tasks.walks import Move, Pair, State, WalkTask

MAX_VALUE = 80
"""Every intermediate result lies in 1..MAX_VALUE."""
MAX_OPERAND = 6
OPERATIONS = ("-", "+", "*", "/")
"""Also the order in which the expert prefers them."""


def apply(value: int, operation: str, operand: int) -> int | None:
    """The result of one step, ``None`` where it is a fraction or leaves 1..MAX_VALUE."""
    if operation == "/":
        quotient, remainder = divmod(value, operand)
        result = 0 if remainder else quotient
    else:
        result = {"*": value * operand, "+": value + operand, "-": value - operand}[operation]
    return result if 1 <= result <= MAX_VALUE else None


def operands(operation: str) -> range:
    """Multiplying or dividing by 1 is no step."""
    return range(2 if operation in "*/" else 1, MAX_OPERAND + 1)


class Chains(WalkTask):
    """The task."""

    name = "chains"
    max_steps = 4
    distance = 3
    step_words = 4

    def states(self) -> list[State]:
        return [(str(value),) for value in range(1, MAX_VALUE + 1)]

    @cache  # noqa: B019  (one instance lives as long as the process)
    def moves(self, state: State) -> tuple[Move, ...]:
        value, found = int(state[0]), []
        for operation in OPERATIONS:
            for operand in operands(operation):
                result = apply(value, operation, operand)
                if result is not None:
                    words = (operation, str(operand), "=", str(result))
                    found.append(Move(words, (str(result),)))
        return tuple(found)

    def prompt(self, pair: Pair) -> str:
        return f"from {pair.start[0]} to {pair.target[0]} :"

    def parse(self, prompt: str) -> Pair:
        words = prompt.split()
        if len(words) != 5 or words[0::2] != ["from", "to", ":"]:
            raise ValueError(f"prompt={prompt!r}: 'from A to B :' is needed")
        return Pair((words[1],), (words[3],))

    def words(self) -> list[str]:
        numbers = [str(number) for number in range(MAX_VALUE + 1)]
        return ["from", "to", ":", *OPERATIONS, "=", *numbers]

    def follow(self, state: State, words: Sequence[str]) -> State | None:
        operation, operand, equals, result = words
        if operation not in OPERATIONS or equals != "=" or not operand.isdecimal():
            return None
        if int(operand) not in operands(operation):
            return None
        reached = apply(int(state[0]), operation, int(operand))
        return None if reached is None or str(reached) != result else (result,)


TASK = Chains()


def reward(prompts: Sequence[str], completions: Sequence[str], **_columns: Any) -> list[float]:
    """1.0 for a right chain, else 0.0; GRPO trains with it and the assessment grades with it."""
    return [
        float(TASK.is_solution(prompt, completion))
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
