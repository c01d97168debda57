"""One metric of all members with draws that are paired over prompts, and differences of two.

The draws of two members may be subtracted replicate by replicate, for one set of resamples serves
all; two marginal intervals are never compared.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import stdtr, stdtrit

from mlflow_rlrisk.statistics.bootstrap import interval, intervals, jackknife_means
from mlflow_rlrisk.statistics.confidence import confidence_draws
from mlflow_rlrisk.statistics.intervals import constant_interval
from mlflow_rlrisk.statistics.ranks import evened

FloatArray = npt.NDArray[np.float64]
Bounds = tuple[float, float]
Pair = tuple[int, int]
"""Places of two members."""

PLAIN_FROM = 1000
"""Prompts from which on BCa and Student move an end of an interval by less than the Monte Carlo
error of 2000 draws does (both shrink with the root of the prompts); percentiles are taken then."""
_BLOCK = 512
_NO_SPREAD = 1e-12
"""Draws closer together than this, relative to the value, differ by rounding only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A value with its interval over prompts."""

    value: float
    ci_low: float
    ci_high: float


def estimate(
    value: float,
    draws: FloatArray,
    left_out: FloatArray,
    confidence: float,
    bounds: Bounds | None = None,
    *,
    is_difference: bool = False,
) -> Estimate:
    """A value with the interval that its draws give.

    Args:
        value: The value on the prompts themselves.
        draws: Its bootstrap draws, shape ``[B]``.
        left_out: The value with each prompt left out, shape ``[P]``.
        confidence: Level of the interval.
        bounds: Smallest and largest value that a single prompt could give, where it is a mean of
            such values: few prompts that carry it, or none, then do not pass for certainty.
        is_difference: It is a difference or a ratio of two checkpoints on the same prompts.
    """
    if np.ptp(draws) <= _NO_SPREAD * max(abs(value), 1.0):
        if bounds is None:
            return Estimate(value=value, ci_low=value, ci_high=value)
        inside = min(max(value, bounds[0]), bounds[1])  # rounding of the mean
        low, high = constant_interval(inside, left_out.size, bounds, confidence)
        return Estimate(value=value, ci_low=low, ci_high=high)
    mapped = _limits(value, draws, left_out, bounds, is_difference=is_difference)
    low, high = interval(mapped, confidence)
    return Estimate(value=value, ci_low=low, ci_high=high)


def _limits(
    value: float,
    draws: FloatArray,
    left_out: FloatArray,
    bounds: Bounds | None,
    *,
    is_difference: bool = False,
) -> FloatArray:
    """`confidence_draws` of few prompts; of many the draws as they are."""
    if left_out.size >= PLAIN_FROM:
        return draws
    usable = left_out if np.isfinite(left_out).all() else np.full_like(left_out, value)
    return confidence_draws(
        draws,
        value,
        usable,
        num_prompts=left_out.size,
        bounds=bounds,
        is_difference=is_difference,
    ).draws


def mean_estimate(
    values: FloatArray,
    draws: FloatArray,
    confidence: float,
    bounds: Bounds | None = None,
    *,
    is_difference: bool = False,
) -> Estimate:
    """`estimate` of a mean over prompts, shape ``[P]``, with draws of it, shape ``[B]``."""
    left_out = jackknife_means(values) if values.size > 1 else values
    value = float(values.mean())
    return estimate(value, draws, left_out, confidence, bounds, is_difference=is_difference)


def blocks_of(pairs: Sequence[Pair]) -> Iterator[Sequence[Pair]]:
    """The pairs in parts whose draws fit into little memory."""
    for start in range(0, len(pairs), _BLOCK):
        yield pairs[start : start + _BLOCK]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Measure:
    """One metric of all members ``C``.

    Attributes:
        name: Full metric name.
        values: Estimates, shape ``[C]``.
        draws: Joint bootstrap draws, shape ``[B, C]``.
        left_out: Estimates with each prompt left out, shape ``[P, C]``.
        bounds: Smallest and largest value that a single prompt could give, where it is a mean.
    """

    name: str
    values: FloatArray
    draws: FloatArray
    left_out: FloatArray
    bounds: Bounds | None = None

    @property
    def evened(self) -> FloatArray:
        """Values to order members by, shape ``[C]``: what rounding puts ahead is not ahead."""
        return evened(self.values)

    def of(self, places: list[int]) -> "Measure":
        """The measure of these members alone, in this order."""
        return Measure(
            name=self.name,
            values=self.values[places],
            draws=self.draws[:, places],
            left_out=self.left_out[:, places],
            bounds=self.bounds,
        )

    def estimate(self, place: int, confidence: float) -> Estimate:
        """What one member has."""
        value, draws = float(self.values[place]), self.draws[:, place]
        return estimate(value, draws, self.left_out[:, place], confidence, self.bounds)

    def limits(self, place: int) -> FloatArray:
        """Draws of one member whose percentiles are its confidence limits, shape ``[B]``."""
        value, draws = float(self.values[place]), self.draws[:, place]
        return _limits(value, draws, self.left_out[:, place], self.bounds)

    def difference(self, left: int, right: int, confidence: float) -> Estimate:
        """Paired difference of two members with its interval."""
        reach = None if self.bounds is None else self.bounds[1] - self.bounds[0]
        return estimate(
            float(self.values[left] - self.values[right]),
            self.draws[:, left] - self.draws[:, right],
            self.left_out[:, left] - self.left_out[:, right],
            confidence,
            None if reach is None else (-reach, reach),
            is_difference=True,
        )

    def differences(self, pairs: Sequence[Pair], confidence: float) -> list[Estimate]:
        """`difference` of many pairs; of many prompts, intervals are read off many at a time."""
        if len(self.left_out) < PLAIN_FROM:
            return [self.difference(*pair, confidence) for pair in pairs]
        found: list[Estimate] = []
        for block in blocks_of(pairs):
            left, right = np.transpose(block)
            values = self.values[left] - self.values[right]
            draws = self.draws[:, left] - self.draws[:, right]
            is_flat = np.ptp(draws, axis=0) <= _NO_SPREAD * np.maximum(np.abs(values), 1.0)
            rows = zip(block, values.tolist(), *intervals(draws, confidence), is_flat, strict=True)
            found += [
                self.difference(*pair, confidence)
                if flat
                else Estimate(value=value, ci_low=float(low), ci_high=float(high))
                for pair, value, low, high, flat in rows
            ]
        return found

    def ratio(self, left: int, right: int, confidence: float) -> Estimate | None:
        """Paired ratio of two members; ``None`` where a denominator is 0."""
        columns = self.values, self.draws, self.left_out
        below = [column[..., right] for column in columns]
        if any((column == 0.0).any() for column in below):
            return None
        value, draws, left_out = (
            column[..., left] / other for column, other in zip(columns, below, strict=True)
        )
        return estimate(float(value), draws, left_out, confidence, is_difference=True)

    def difference_error(self) -> FloatArray:
        """Bootstrap standard error of every paired difference, shape ``[C, C]``."""
        centred = self.draws - self.draws.mean(axis=0)
        covariance = centred.T @ centred / max(self.draws.shape[0] - 1, 1)
        spread = np.diag(covariance)
        variance = spread[:, None] + spread[None, :] - 2.0 * covariance
        return np.asarray(np.sqrt(np.maximum(variance, 0.0)))

    def difference_p_values(self) -> FloatArray:
        """Two-sided p-values of all paired differences, not adjusted, shape ``[C, C]``.

        Student's, from the bootstrap standard error; where all prompts differ by the same amount
        there is no spread, and the sign test over the prompts stands in.
        """
        difference = np.abs(self.values[:, None] - self.values[None, :])
        error, is_flat = self._errors(difference)
        with np.errstate(divide="ignore", invalid="ignore"):
            p_values = 2.0 * stdtr(self._freedom, -difference / error)
        constant = np.where(difference > _NO_SPREAD, self._sign_test, 1.0)
        return np.asarray(np.minimum(np.where(is_flat, constant, p_values), 1.0))

    def margins(self, alpha: float) -> FloatArray:
        """Differences above which a pair is resolved two-sided at ``alpha``, shape ``[C, C]``.

        Infinite where there is no spread and too few prompts for the sign test to resolve any.
        """
        difference = np.abs(self.values[:, None] - self.values[None, :])
        error, is_flat = self._errors(difference)
        constant = _NO_SPREAD if self._sign_test <= alpha else np.inf
        return np.where(is_flat, constant, stdtrit(self._freedom, 1.0 - alpha / 2.0) * error)

    @property
    def _freedom(self) -> int:
        return max(len(self.left_out) - 1, 1)

    @property
    def _sign_test(self) -> float:
        return float(2.0 ** (1 - len(self.left_out)))

    def _errors(self, difference: FloatArray) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
        """Standard errors without the bootstrap's bias, and where there is no spread at all."""
        error = self.difference_error()
        is_flat = error <= _NO_SPREAD * np.maximum(difference, 1.0)
        return error * np.sqrt(1.0 + 1.0 / self._freedom), is_flat
