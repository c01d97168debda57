"""Bootstrap over prompts: all rollouts of a prompt move together.

Rollouts of a prompt, and tokens of a rollout, are correlated; an error computed over them is
too small, often several times. One resample is a weight for each prompt; the same weights serve
every metric, means and ratios of sums alike, so that joint statements hold (an index of several
metrics, the difference of two checkpoints on the same prompts).
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from mlflow_rlrisk.errors import StatisticsError
from mlflow_rlrisk.statistics.counts import (
    FloatVector,
    IntVector,
    as_counts,
    check_at_least,
    check_open_unit,
    finite_array,
    finite_vector,
)

_BLOCK_DRAWS = 1 << 18
"""Prompt draws made at a time: few enough for the cache. The resamples do not depend on it."""

_KEPT_WEIGHTS = 1 << 24
"""Weights kept between calls up to this many; beyond, they are drawn again from the seed."""


class PromptBootstrap:
    """Resamples of ``P`` prompts, the same ones for every call.

    Args:
        num_prompts: Prompts, ``P >= 1``.
        num_resamples: Resamples, ``B >= 1``.
        seed: Seed of the PCG64 generator; equal arguments give equal resamples.

    Raises:
        ConfigError: An argument is out of range.
    """

    def __init__(self, num_prompts: int, num_resamples: int = 2000, seed: int = 0) -> None:
        self.num_prompts = check_at_least("num_prompts", num_prompts, 1)
        self.num_resamples = check_at_least("num_resamples", num_resamples, 1)
        self.seed = check_at_least("seed", seed, 0)
        self._kept: npt.NDArray[np.float64] | None = None

    def sums(self, values: npt.ArrayLike) -> FloatVector:
        """Sum each column over the prompts of each resample: ``[P, M]`` to ``[B, M]``.

        Raises:
            StatisticsError: ``values`` has another shape or a value is not finite.
        """
        columns = self._columns("values", values)
        totals = np.empty((self.num_resamples, columns.shape[1]))
        done = 0
        for weights in self._weights():
            np.matmul(weights, columns, out=totals[done : done + weights.shape[0]])
            done += weights.shape[0]
        return totals

    def means(self, values: npt.ArrayLike) -> FloatVector:
        """Mean of each column over the prompts of each resample: ``[P, M]`` to ``[B, M]``.

        Raises:
            StatisticsError: ``values`` has another shape or a value is not finite.

        >>> PromptBootstrap(2, 3, seed=0).means([[1.0], [1.0]])
        array([[1.],
               [1.],
               [1.]])
        """
        return self.sums(values) / self.num_prompts

    def ratios(self, numerators: npt.ArrayLike, denominators: npt.ArrayLike) -> FloatVector:
        """Ratio of sums of each column pair in each resample: two ``[P, M]`` to ``[B, M]``.

        The form of every token-weighted mean: sum of entropies over number of tokens.

        Raises:
            StatisticsError: The shapes differ, a value is not finite, or a resample has no
                denominator: the ratio is undefined then and no draw is dropped silently.
        """
        above = self._columns("numerators", numerators)
        below = self._columns("denominators", denominators)
        if above.shape != below.shape:
            raise StatisticsError(f"numerators {above.shape}, denominators {below.shape}: differ")
        totals = self.sums(np.concatenate([above, below], axis=1))
        numerator, denominator = totals[:, : above.shape[1]], totals[:, above.shape[1] :]
        if (denominator == 0.0).any():
            column = int(np.flatnonzero((denominator == 0.0).any(axis=0))[0])
            missing = int((denominator[:, column] == 0.0).sum())
            raise StatisticsError(
                f"denominators column {column}: {missing} of {self.num_resamples} resamples sum "
                "to 0, so the ratio is undefined"
            )
        return numerator / denominator

    def _columns(self, name: str, values: npt.ArrayLike) -> FloatVector:
        columns = finite_array(name, values)
        if columns.ndim != 2 or columns.shape[0] != self.num_prompts or columns.shape[1] == 0:
            raise StatisticsError(
                f"{name} has shape {columns.shape}: needs ({self.num_prompts}, M) with M >= 1"
            )
        return columns

    def _weights(self) -> Iterator[npt.NDArray[np.float64]]:
        """Blocks of how often each resample holds each prompt, ``[b, P]``."""
        if self._kept is not None:
            yield self._kept
            return
        if self.num_prompts * self.num_resamples <= _KEPT_WEIGHTS:
            self._kept = np.concatenate(list(self._draw()))
            yield self._kept
            return
        yield from self._draw()

    def _draw(self) -> Iterator[npt.NDArray[np.float64]]:
        rng = np.random.Generator(np.random.PCG64(self.seed))
        rows = max(1, min(self.num_resamples, _BLOCK_DRAWS // self.num_prompts))
        for start in range(0, self.num_resamples, rows):
            size = min(rows, self.num_resamples - start)
            drawn = rng.integers(0, self.num_prompts, size=(size, self.num_prompts))
            weights = np.empty((size, self.num_prompts))
            for row in range(size):
                weights[row] = np.bincount(drawn[row], minlength=self.num_prompts)
            yield weights


def category_means(
    multiplicities: npt.ArrayLike, values: npt.ArrayLike, num_resamples: int, seed: int
) -> FloatVector:
    """Bootstrap means of metrics that depend on a prompt's category only.

    With ``(num_correct, num_scored)`` as category (`CountPairs`) this is the distribution of
    `PromptBootstrap.means`, drawn as Multinomial counts of a few categories instead of an index
    for each prompt. The draws are others: not to be joined with those of a `PromptBootstrap`.

    Args:
        multiplicities: Prompts in each category, shape ``[U]``, at least one in all.
        values: Value of each metric in each category, shape ``[U, M]``.
        num_resamples: Resamples, ``B >= 1``.
        seed: Seed of the PCG64 generator.

    Returns:
        Means, shape ``[B, M]``.

    Raises:
        StatisticsError: A shape does not fit, or there is no prompt.
        ConfigError: ``B < 1`` or a negative seed.

    >>> category_means([3, 1], [[0.5], [0.5]], num_resamples=2, seed=0)
    array([[0.5],
           [0.5]])
    """
    counts: IntVector = as_counts("multiplicities", multiplicities)
    columns = finite_array("values", values)
    if columns.ndim != 2 or columns.shape[0] != counts.size:
        raise StatisticsError(f"values has shape {columns.shape}: needs ({counts.size}, M)")
    num_prompts = int(counts.sum())
    if num_prompts == 0:
        raise StatisticsError("multiplicities sum to 0: there is no prompt to resample")
    rng = np.random.Generator(np.random.PCG64(check_at_least("seed", seed, 0)))
    size = check_at_least("num_resamples", num_resamples, 1)
    drawn = rng.multinomial(num_prompts, counts / num_prompts, size=size)
    return np.asarray(drawn @ columns / num_prompts)


def interval(draws: npt.ArrayLike, confidence: float = 0.95) -> tuple[float, float]:
    """Percentile interval of draws, shape ``[B]``.

    Of plain bootstrap draws it is too narrow for few prompts; see `confidence_draws`.

    Raises:
        StatisticsError: No draws, or a draw is not finite.
        ConfigError: ``confidence`` is not strictly between 0 and 1.

    >>> interval([0.0, 1.0, 2.0, 3.0, 4.0], confidence=0.5)
    (1.0, 3.0)
    """
    low, high = intervals(finite_vector("draws", draws), confidence)
    return float(low), float(high)


def intervals(draws: npt.ArrayLike, confidence: float) -> tuple[FloatVector, FloatVector]:
    """`interval` of every column of draws, shape ``[B, M]``: lower and upper ends, ``[M]`` each."""
    tail = (1.0 - check_open_unit("confidence", confidence)) / 2.0
    low, high = np.quantile(finite_array("draws", draws), [tail, 1.0 - tail], axis=0)
    return low, high


def jackknife_means(values: npt.ArrayLike) -> FloatVector:
    """Mean with each prompt left out in turn, in closed form: ``[P]`` to ``[P]``.

    Raises:
        StatisticsError: Fewer than 2 prompts, or a value is not finite.

    >>> jackknife_means([0.0, 1.0, 2.0])
    array([1.5, 1. , 0.5])
    """
    return jackknife_ratios(values, np.ones(np.shape(values)))


def jackknife_ratios(numerators: npt.ArrayLike, denominators: npt.ArrayLike) -> FloatVector:
    """Ratio of sums with each prompt left out in turn, in closed form: ``[P]`` to ``[P]``.

    Raises:
        StatisticsError: Fewer than 2 prompts, the shapes differ, a value is not finite, or a
            denominator is 0 without one prompt.
    """
    above = finite_vector("numerators", numerators)
    below = finite_vector("denominators", denominators)
    if above.shape != below.shape or above.size < 2:
        raise StatisticsError(
            f"numerators {above.shape}, denominators {below.shape}: need one shape, 2 prompts"
        )
    rest = below.sum() - below
    if (rest == 0.0).any():
        raise StatisticsError("denominators: the sum is 0 without one prompt")
    return np.asarray((above.sum() - above) / rest)


def paired_draws(
    first: npt.ArrayLike, second: npt.ArrayLike, bootstrap: PromptBootstrap
) -> FloatVector:
    """Draws of the mean difference ``first - second`` of two checkpoints on the same prompts.

    The per-prompt difference is resampled; two marginal intervals must never be compared.

    Args:
        first: One value for each prompt, shape ``[P]``.
        second: The same of the other checkpoint, same prompts in the same order.
        bootstrap: Resamples of these prompts.

    Returns:
        Draws, shape ``[B]``.

    Raises:
        StatisticsError: The shapes differ or a value is not finite.
    """
    one, other = finite_vector("first", first), finite_vector("second", second)
    if one.shape != other.shape:
        raise StatisticsError(f"first has shape {one.shape}, second {other.shape}: not paired")
    return np.asarray(bootstrap.means((one - other)[:, None])[:, 0])
