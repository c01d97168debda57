"""What a reward function returned -> the number that the trainer would take, or why there is none.

Rewards in several parts are read as the framework reads them: one named part where it names one,
their sum where it adds them up. A part can be chosen with ``#NAME`` behind the spec.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from numbers import Real
from typing import Any

from mlflow_rlrisk.verifiers import Outcome

TOTALS = ("score", "reward")
"""Parts that hold the whole reward, where nothing else is stated."""


@dataclass(frozen=True, slots=True)
class NoReward:
    """Why a value is no reward."""

    reason: str


@dataclass(frozen=True, slots=True)
class Part:
    """Which part of a reward in several parts counts.

    Attributes:
        key: The one that the spec names; a reward without it is no reward.
        usual: The one that the framework takes where none is named; ``None`` takes ``score`` or
            ``reward``, else the only number.
        sums: Without such a part the reward is the sum of all, as verifiers v1 adds them.
        name: Name of an evaluate module: its score often has its name.
    """

    key: str | None = None
    usual: str | None = None
    sums: bool = False
    name: str | None = None


def part_of(value: Any, part: Part) -> Any:
    """The number in ``value``; what is no mapping and no record comes back as it is.

    A number, where the spec names a part of several, is another reward function's.
    """
    value, wanted = as_plain(value), part.key or part.usual
    if not isinstance(value, Mapping):
        own = getattr(value, wanted or "score", None)
        if own is None and part.key is not None and _is_number(value):
            return NoReward(f"returned {describe(value)}, no reward with a part {part.key!r}")
        return value if own is None else as_plain(own)
    keys = (wanted,) if wanted else (*TOTALS, *((part.name,) if part.name else ()))
    for key in keys:
        if key in value:
            return only(value[key])
    numbers = {k: n for k, v in value.items() if _is_number(n := only(v))}
    seen = ", ".join(map(str, value)) or "none"
    if wanted is not None:
        return NoReward(f"returned a mapping without {wanted!r}; its keys: {seen}")
    if part.sums and (missing := [key for key, item in value.items() if only(item) is None]):
        return NoReward(f"returned a mapping whose part {missing[0]!r} is None; its keys: {seen}")
    if part.sums and numbers and len(numbers) == len(value):
        return float(sum(numbers.values()))
    if len(numbers) == 1:
        return next(iter(numbers.values()))
    return NoReward(f"returned a mapping of several parts ({seen}); name one as #NAME in the spec")


def to_outcome(value: Any, answer: object) -> Outcome:
    """One value as `Outcome`."""
    value = as_plain(value)
    if isinstance(value, NoReward):
        return Outcome(status="failed", reason=value.reason)
    if value is None:
        return Outcome(status="not_applicable", reason="the verifier returned None")
    if not _is_number(value):
        return Outcome(status="failed", reason=f"returned {describe(value)}, no number")
    reward = float(value) if abs(value) < float("inf") else math.nan
    if not math.isfinite(reward):
        return Outcome(status="failed", reason=f"returned {value!r}, no finite number")
    if answer is not None and not isinstance(answer, str):
        return Outcome(
            status="failed", reason=f"extract_answer returned {describe(answer)}, no text"
        )
    return Outcome(status="scored", reward=reward, answer=answer)


def as_plain(value: Any) -> Any:
    """Arrays, tensors and their scalars as Python values; fractions and decimals as floats."""
    if isinstance(value, list | tuple | str | bool | int | float | Mapping) or value is None:
        return value
    if isinstance(value, Real | Decimal):
        return float(value)
    for method in ("tolist", "item"):
        if callable(getattr(value, method, None)):
            return getattr(value, method)()
    return value


def describe(value: object) -> str:
    """Type and value, capped."""
    text = repr(value)
    text = text if len(text) <= 60 else f"{text[:57]}..."
    return f"{type(value).__name__} {text}"


def only(value: Any) -> Any:
    """The element of a list of one, which metrics and batches of one return."""
    value = as_plain(value)
    if isinstance(value, list | tuple) and len(value) == 1:
        return as_plain(value[0])
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, bool | int | float)
