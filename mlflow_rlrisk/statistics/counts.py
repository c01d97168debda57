"""Correct and scored rollouts per prompt: the one gate into `statistics/`, and its fast path.

Every estimator of a 0/1 reward depends on a prompt through ``(num_correct, num_scored)`` only.
A million prompts hold a few thousand different pairs, so a value is computed exactly, with
integers, once for each pair that occurs, and gathered for every prompt. Floating-point products
and log-gamma are both slower and less exact than that.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import comb
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from mlflow_rlrisk.errors import ConfigError, InsufficientRolloutsError, StatisticsError
from mlflow_rlrisk.plurals import counted

IntVector = npt.NDArray[np.int64]
FloatVector = npt.NDArray[np.float64]

MOST_SCORED = (1 << 31) - 1
"""Rollouts of a prompt that are counted at most: products of two such counts fit an int64."""

_DENSE_KEYS_PER_PROMPT = 4
"""A lookup table of all possible pairs is used up to this many entries per prompt."""
_DENSE_KEYS_MINIMUM = 1 << 16


def as_counts(name: str, values: npt.ArrayLike) -> IntVector:
    """Check one array of counts: integers, at least 0, shape ``[P]`` with ``P >= 1``.

    Args:
        name: What the message calls the array.
        values: Integers; booleans and floats are refused, whole or not.

    Returns:
        The counts as int64, shape ``[P]``.

    Raises:
        StatisticsError: The array is empty, not one-dimensional, not integer or negative.

    >>> as_counts("num_correct", [0, 3])
    array([0, 3])
    """
    array = np.asarray(values)
    if array.ndim != 1 or array.size == 0:
        raise StatisticsError(
            f"{name} has shape {array.shape}: one count for each prompt is needed"
        )
    if array.dtype.kind not in "iu":
        raise StatisticsError(
            f"{name} has dtype {array.dtype} (first value {array[0]!r}): counts are integers"
        )
    counts = array.astype(np.int64, copy=False)
    if counts.min() < 0:
        first = int(np.flatnonzero(counts < 0)[0])
        raise StatisticsError(f"{name}[{first}]={array[first]}: counts are at least 0")
    return counts


def check_at_least(name: str, value: Any, minimum: int) -> int:
    """Check an integer setting such as ``k`` or ``group_size``.

    Raises:
        ConfigError: The value is no integer or below ``minimum``.

    >>> check_at_least("k", 3, 1)
    3
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < minimum:
        raise ConfigError(name, value, f"must be an integer of at least {minimum}")
    return int(value)


def check_open_unit(name: str, value: float) -> float:
    """Check a setting that must lie strictly between 0 and 1, such as a confidence level.

    Raises:
        ConfigError: The value is 0, 1, outside, or NaN.

    >>> check_open_unit("confidence", 0.95)
    0.95
    """
    if not 0.0 < value < 1.0:  # written so that NaN fails too
        raise ConfigError(name, value, "must lie strictly between 0 and 1")
    return float(value)


def finite_vector(name: str, values: npt.ArrayLike) -> FloatVector:
    """Check one finite value for each prompt, shape ``[P]`` with ``P >= 1``.

    Raises:
        StatisticsError: Another shape, no numbers, or a value that is not finite.

    >>> finite_vector("entropy", [0.5, 1])
    array([0.5, 1. ])
    """
    array = finite_array(name, values)
    if array.ndim != 1 or array.size == 0:
        raise StatisticsError(
            f"{name} has shape {array.shape}: one value for each prompt is needed"
        )
    return array


def finite_array(name: str, values: npt.ArrayLike) -> FloatVector:
    """Check an array of finite numbers of any shape; the result is float64.

    Raises:
        StatisticsError: The array is ragged, holds no numbers, or a value is not finite.

    >>> finite_array("rewards", [[0, 1]])
    array([[0., 1.]])
    """
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise StatisticsError(f"{name} is not an array of numbers: {error}") from error
    if not np.isfinite(array).all():
        first = tuple(int(axis) for axis in np.argwhere(~np.isfinite(array))[0])
        raise StatisticsError(f"{name}{list(first)}={array[first]}: must be finite")
    return array


def unit_array(name: str, values: npt.ArrayLike) -> FloatVector:
    """Check an array of probabilities or shares, of any shape.

    Raises:
        StatisticsError: As `finite_array`, or a value lies outside ``[0, 1]``.

    >>> unit_array("success", [0, 1.0])
    array([0., 1.])
    """
    array = finite_array(name, values)
    outside = array[(array < 0.0) | (array > 1.0)]
    if outside.size:
        raise StatisticsError(f"{name}={outside[0]}: must lie in [0, 1]")
    return array


@dataclass(frozen=True, slots=True, eq=False)
class CountPairs:
    """The distinct ``(num_correct, num_scored)`` pairs of a prompt set.

    Attributes:
        num_correct: Correct rollouts of each distinct pair, shape ``[U]``.
        num_scored: Scored rollouts of each distinct pair, shape ``[U]``.
        index: Which pair each prompt has, shape ``[P]``.
    """

    num_correct: IntVector
    num_scored: IntVector
    index: npt.NDArray[np.intp]

    @classmethod
    def of(cls, num_correct: npt.ArrayLike, num_scored: npt.ArrayLike) -> Self:
        """Check both arrays and find the distinct pairs.

        Raises:
            StatisticsError: An array is unusable, the shapes differ, ``c > n``, or ``n`` is above
                `MOST_SCORED`.

        >>> CountPairs.of([1, 0, 1], [4, 4, 4]).num_correct
        array([0, 1])
        """
        correct = as_counts("num_correct", num_correct)
        scored = as_counts("num_scored", num_scored)
        if correct.shape != scored.shape:
            raise StatisticsError(
                f"num_correct has shape {correct.shape}, num_scored {scored.shape}: "
                "both need one count for each prompt"
            )
        if (correct > scored).any():
            first = int(np.flatnonzero(correct > scored)[0])
            raise StatisticsError(
                f"num_correct[{first}]={correct[first]}: at most num_scored={scored[first]}"
            )
        if (most := int(scored.max())) > MOST_SCORED:
            raise StatisticsError(f"num_scored holds {most}: at most {MOST_SCORED} are counted")
        smallest, width = int(scored.min()), most + 1
        keys = (scored - smallest) * width + correct
        unique, index = _unique_keys(keys, (width - smallest) * width)
        return cls(unique % width, unique // width + smallest, index)

    @property
    def num_prompts(self) -> int:
        """Number of prompts, ``P``."""
        return int(self.index.size)

    def require_scored(self, needed: int, purpose: str) -> None:
        """Refuse prompts with fewer than ``needed`` scored rollouts.

        Raises:
            InsufficientRolloutsError: Names the first such prompt and its count.
        """
        if self.num_scored.min() >= needed:
            return
        short = np.flatnonzero((self.num_scored < needed)[self.index])
        first = int(short[0])
        raise InsufficientRolloutsError(
            f"{purpose} needs {counted(needed, 'scored rollout')} per prompt; "
            f"{short.size} of {self.num_prompts} prompts have fewer "
            f"(first: prompt {first} with {self.num_scored[self.index[first]]})"
        )

    def gather(self, values: npt.ArrayLike) -> FloatVector:
        """Spread one value for each pair to the prompts: ``[U]`` to ``[P]``."""
        return np.take(np.asarray(values, dtype=np.float64), self.index)

    def multiplicities(self) -> IntVector:
        """Number of prompts that have each pair, shape ``[U]``."""
        return np.bincount(self.index, minlength=self.num_correct.size).astype(np.int64, copy=False)


def _unique_keys(keys: IntVector, num_keys: int) -> tuple[IntVector, npt.NDArray[np.intp]]:
    if num_keys > max(_DENSE_KEYS_MINIMUM, _DENSE_KEYS_PER_PROMPT * keys.size):
        unique, inverse = np.unique(keys, return_inverse=True)
        return unique, inverse.astype(np.intp, copy=False)
    present = np.zeros(num_keys, dtype=bool)
    present[keys] = True
    unique = np.flatnonzero(present)
    rank = np.empty(num_keys, dtype=np.intp)
    rank[unique] = np.arange(unique.size)
    return unique.astype(np.int64, copy=False), rank[keys]


def binomials(totals: Iterable[Any], draw: int) -> dict[int, int]:
    """Exact ``C(total, draw)`` for each distinct total.

    >>> binomials([4, 2, 4], 2)
    {2: 1, 4: 6}
    """
    return {total: comb(total, draw) for total in sorted({int(total) for total in totals})}
