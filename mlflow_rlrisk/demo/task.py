"""The demo's verifiable task: walk from one number to another by a chain of arithmetic steps.

A prompt is ``from 7 to 31 :``, a right answer ``* 4 = 28 + 3 = 31``, and there are dozens of
others. That is the point: a policy that knows many of them can explore, one that was drilled on
a single solution for each expert prompt cannot. The verifier is the reward function that the RL
part of the demo trains with; nothing here needs more than the standard library.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

MAX_VALUE = 60
"""Every intermediate result lies in 1..MAX_VALUE."""
MAX_STEPS = 4
"""A chain has 1..MAX_STEPS steps."""
MAX_NEW_TOKENS = 20
"""``4 * MAX_STEPS`` tokens of a chain and the end token, with room to run over the limit."""
OPERATIONS = ("*", "/", "+", "-")
"""Also the order in which `shortest_chain` settles ties."""
MAX_OPERAND = 5


class Step(NamedTuple):
    """One step of a chain: ``operation operand = result``."""

    operation: str
    operand: int
    result: int


def apply(value: int, operation: str, operand: int) -> int | None:
    """The result of one step, ``None`` where it is a fraction or leaves 1..MAX_VALUE."""
    if operation == "/":
        quotient, remainder = divmod(value, operand)
        result = quotient if remainder == 0 else 0
    else:
        result = {"*": value * operand, "+": value + operand, "-": value - operand}[operation]
    return result if 1 <= result <= MAX_VALUE else None


@cache
def steps_from(value: int) -> tuple[Step, ...]:
    """Every step that is possible from ``value``; multiplying or dividing by 1 is none."""
    steps = []
    for operation in OPERATIONS:
        first = 2 if operation in "*/" else 1
        for operand in range(first, MAX_OPERAND + 1):
            result = apply(value, operation, operand)
            if result is not None:
                steps.append(Step(operation, operand, result))
    return tuple(steps)


@cache
def distances_to(target: int) -> dict[int, int]:
    """Smallest number of steps to ``target`` from each value that reaches it."""
    into: dict[int, list[int]] = {}
    for value in range(1, MAX_VALUE + 1):
        for step in steps_from(value):
            into.setdefault(step.result, []).append(value)
    distances = {target: 0}
    frontier = [target]
    while frontier:
        sources = {source for value in frontier for source in into.get(value, ())}
        depth = distances[frontier[0]] + 1
        frontier = [source for source in sorted(sources) if source not in distances]
        distances.update(dict.fromkeys(frontier, depth))
    return distances


def shortest_chain(start: int, target: int) -> tuple[Step, ...]:
    """The expert's one answer: a shortest chain that comes near the target as early as it can.

    Ties go to the operation that stands first in `OPERATIONS`, then to the smaller operand.
    """
    distances = distances_to(target)
    chain = []
    value = start
    while value != target:
        useful = [s for s in steps_from(value) if distances.get(s.result) == distances[value] - 1]
        step = min(useful, key=lambda s: abs(s.result - target))
        chain.append(step)
        value = step.result
    return tuple(chain)


def render_prompt(start: int, target: int) -> str:
    """``from 7 to 31 :``."""
    return f"from {start} to {target} :"


def render_chain(chain: Sequence[Step]) -> str:
    """``* 4 = 28 + 3 = 31``."""
    return " ".join(f"{s.operation} {s.operand} = {s.result}" for s in chain)


def is_solution(prompt: str, completion: str) -> bool:
    """Whether ``completion`` leads from the prompt's start to its target without an error.

    Raises:
        ValueError: ``prompt`` is none of this task; grading it would mean nothing.
    """
    words = prompt.split()
    if len(words) != 5 or words[0::2] != ["from", "to", ":"]:
        raise ValueError(f"prompt={prompt!r}: 'from A to B :' is needed")
    value, target = int(words[1]), int(words[3])
    tokens = completion.split()
    if not tokens or len(tokens) % 4 or len(tokens) > 4 * MAX_STEPS:
        return False
    for first in range(0, len(tokens), 4):
        operation, operand, equals, result = tokens[first : first + 4]
        if operation not in OPERATIONS or equals != "=":
            return False
        step = next(
            (s for s in steps_from(value) if (s.operation, str(s.operand)) == (operation, operand)),
            None,
        )
        if step is None or str(step.result) != result:
            return False
        value = step.result
    return value == target


def reward(prompts: Sequence[str], completions: Sequence[str], **_columns: Any) -> list[float]:
    """The reward function, in the signature of TRL's trainers: 1.0 for a right chain, else 0.0."""
    return [
        float(is_solution(prompt, completion))
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
