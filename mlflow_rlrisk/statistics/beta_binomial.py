"""How success probabilities spread over prompts: a Beta fitted through the Binomial noise.

The fit is the fallback where unbiased estimators do not exist (``k > n``, ``g > n``) and the
measure of polarisation; what it extrapolates is to be marked as extrapolated, and not reported
where the fit says that more prompts are at 0 or 1 than any Beta it found would have.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import bdtrc, betaln, chdtrc, digamma

from mlflow_rlrisk.errors import InsufficientRolloutsError, StatisticsError
from mlflow_rlrisk.statistics.counts import CountPairs, FloatVector, check_at_least, finite_array

PARAMETER_BOUNDS = (1e-3, 1e3)
"""Range searched for both parameters; outside it the fit says "all at the ends" or "all alike"."""

INFLATION_LEVEL = 0.02275
"""A count of all-wrong or all-correct prompts this improbable under the fit is flagged: the tail
beyond two standard errors, taken from the Binomial, since expected counts are often below 1."""

FIT_BANDS = (0.25, 0.5, 0.75)
"""Edges between the bands of solve rates whose prompts are counted to judge a fit; all wrong and
all correct are bands of their own. Few, so that 50 prompts still fill them."""
FIT_EXPECTED_MINIMUM = 5.0
"""Neighbouring bands are joined until each expects this many prompts, as Pearson's test needs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BetaBinomialFit:
    """A Beta over prompts' success probabilities, fitted by marginal likelihood.

    Attributes:
        alpha: First parameter.
        beta: Second parameter.
        overdispersion: ``1 / (alpha + beta + 1)``: 0 when all prompts are alike, 1 when every
            prompt is always or never solved. Rising along a ladder is riskier.
        zero_inflated: More all-wrong prompts than the fit explains; do not extrapolate.
        one_inflated: More all-correct prompts than the fit explains; do not extrapolate.
        is_at_bound: A parameter ended at the edge of the range searched.
        is_misfit: Solve rates fall into `FIT_BANDS` otherwise than the fit says (Pearson's
            chi-squared at `INFLATION_LEVEL`), as where prompts are of two kinds; do not
            extrapolate.
    """

    alpha: float
    beta: float
    overdispersion: float
    zero_inflated: bool
    one_inflated: bool
    is_at_bound: bool
    is_misfit: bool

    @property
    def can_extrapolate(self) -> bool:
        """True when nothing speaks against using the fit beyond the rollouts it saw."""
        flags = (self.zero_inflated, self.one_inflated, self.is_at_bound, self.is_misfit)
        return not any(flags)

    @property
    def mean(self) -> float:
        """Mean success probability under the fit."""
        return self.alpha / (self.alpha + self.beta)


def fit_beta_binomial(num_correct: npt.ArrayLike, num_scored: npt.ArrayLike) -> BetaBinomialFit:
    """Fit the Beta-binomial by maximum marginal likelihood over prompts.

    Args:
        num_correct: Correct rollouts ``c`` per prompt, shape ``[P]``, ``0 <= c <= n``.
        num_scored: Rollouts ``n`` with a reward per prompt, shape ``[P]``.

    Returns:
        The fit; both parameters lie in `PARAMETER_BOUNDS`.

    Raises:
        InsufficientRolloutsError: A prompt has no scored rollout, or none has two: a spread
            over prompts cannot be told from Binomial noise then.
        StatisticsError: A count is negative, no integer, or ``c > n``.

    >>> fit = fit_beta_binomial([0, 2, 5, 8, 8, 1, 4, 6], [8] * 8)
    >>> 0.0 < fit.overdispersion < 1.0
    True
    """
    from scipy.optimize import minimize  # here, for it takes longer to load than all else

    pairs = CountPairs.of(num_correct, num_scored)
    pairs.require_scored(1, "a Beta-binomial fit")
    if pairs.num_scored.max() < 2:
        raise InsufficientRolloutsError(
            "a Beta-binomial fit needs prompts with 2 scored rollouts; no prompt has more than 1"
        )
    correct = pairs.num_correct.astype(np.float64)
    wrong = (pairs.num_scored - pairs.num_correct).astype(np.float64)
    weight = pairs.multiplicities() / pairs.num_prompts

    def negative_log_likelihood(logs: FloatVector) -> tuple[float, FloatVector]:
        alpha, beta = np.exp(logs)
        terms = betaln(alpha + correct, beta + wrong) - betaln(alpha, beta)
        common = digamma(alpha + beta) - digamma(alpha + beta + correct + wrong)
        slope = np.array(
            [
                alpha * np.dot(weight, digamma(alpha + correct) - digamma(alpha) + common),
                beta * np.dot(weight, digamma(beta + wrong) - digamma(beta) + common),
            ]
        )
        return -float(np.dot(weight, terms)), -slope

    bounds = [(math.log(PARAMETER_BOUNDS[0]), math.log(PARAMETER_BOUNDS[1]))] * 2
    mean = float(np.clip(np.dot(weight, correct / (correct + wrong)), 1e-3, 1.0 - 1e-3))
    # The likelihood has a ridge along alpha + beta; three starts along it, the best end wins.
    ends = [
        minimize(
            negative_log_likelihood,
            np.clip(np.log([mean * total, (1.0 - mean) * total]), *bounds[0]),
            jac=True,
            method="L-BFGS-B",
            bounds=bounds,
            options={"ftol": 1e-14, "gtol": 1e-10, "maxiter": 1000},
        )
        for total in (0.3, 2.0, 50.0)
    ]
    best = min(ends, key=lambda end: float(end.fun))
    alpha, beta = (float(value) for value in np.exp(best.x))
    return BetaBinomialFit(
        alpha=alpha,
        beta=beta,
        overdispersion=1.0 / (alpha + beta + 1.0),
        zero_inflated=_exceeds(
            pairs,
            pairs.num_correct == 0,
            betaln(alpha, beta + wrong + correct) - betaln(alpha, beta),
        ),
        one_inflated=_exceeds(
            pairs,
            pairs.num_correct == pairs.num_scored,
            betaln(alpha + wrong + correct, beta) - betaln(alpha, beta),
        ),
        is_at_bound=bool(
            np.isclose(best.x, bounds[0][0]).any() or np.isclose(best.x, bounds[0][1]).any()
        ),
        is_misfit=_is_misfit(pairs, alpha, beta),
    )


def beta_signal(alpha: npt.ArrayLike, beta: npt.ArrayLike, group_size: int) -> FloatVector:
    """Mean group signal when success probabilities follow Beta(alpha, beta).

    ``1 - B(alpha + g, beta)/B(alpha, beta) - B(alpha, beta + g)/B(alpha, beta)``, for every
    ``g``. With ``alpha + c`` and ``beta + n - c`` it is a prompt's posterior mean signal.

    Args:
        alpha: First parameter, above 0, any shape.
        beta: Second parameter, above 0, a shape that fits.
        group_size: ``g >= 2``.

    Returns:
        Probabilities, the common shape.

    Raises:
        StatisticsError: A parameter is not positive.
        ConfigError: ``g < 2``.

    >>> beta_signal(1.0, 1.0, 2).round(4)
    np.float64(0.3333)
    """
    size = check_at_least("group_size", group_size, 2)
    a, b = _parameters(alpha, beta)
    some_wrong = beta_pass_at_k(b, a, size)
    all_wrong = 1.0 - beta_pass_at_k(a, b, size)
    return np.asarray(np.maximum(some_wrong - all_wrong, 0.0))[()]


def beta_pass_at_k(alpha: npt.ArrayLike, beta: npt.ArrayLike, k: int) -> FloatVector:
    """Mean pass@k when success probabilities follow Beta(alpha, beta), for every ``k``.

    ``1 - B(alpha, beta + k)/B(alpha, beta)``.

    Args:
        alpha: First parameter, above 0, any shape.
        beta: Second parameter, above 0, a shape that fits.
        k: Number of attempts, at least 1.

    Returns:
        Probabilities, the common shape.

    Raises:
        StatisticsError: A parameter is not positive.
        ConfigError: ``k < 1``.

    >>> beta_pass_at_k(1.0, 1.0, 3).round(4)
    np.float64(0.75)
    """
    attempts = check_at_least("k", k, 1)
    a, b = _parameters(alpha, beta)
    log_all_wrong = np.zeros(np.broadcast_shapes(a.shape, b.shape))
    for drawn in range(attempts):  # a product of ratios: exact where log-gammas would cancel
        log_all_wrong = log_all_wrong + np.log1p(-a / (a + b + drawn))
    return np.asarray(-np.expm1(log_all_wrong))[()]


def success_variance(num_correct: npt.ArrayLike, num_scored: npt.ArrayLike) -> float:
    """Variance of the success probability over prompts, without the Binomial noise of ``c/n``.

    Sample variance of ``c/n`` minus the mean of ``c(n - c) / (n**2 (n - 1))``: unbiased, so it
    may come out slightly negative where prompts are alike. Larger at the same mean is riskier.

    Args:
        num_correct: Correct rollouts ``c`` per prompt, shape ``[P]``, ``0 <= c <= n``.
        num_scored: Rollouts ``n`` with a reward per prompt, shape ``[P]``.

    Raises:
        InsufficientRolloutsError: A prompt has ``n < 2``.
        StatisticsError: There are fewer than 2 prompts, or a count is unusable.

    >>> success_variance([0, 4], [4, 4])
    0.5
    """
    columns = success_moments(num_correct, num_scored)
    return float(success_variance_of_means(columns.mean(axis=0), columns.shape[0]))


def success_moments(num_correct: npt.ArrayLike, num_scored: npt.ArrayLike) -> FloatVector:
    """The three per-prompt columns `success_variance` is made of, for the joint bootstrap.

    Returns:
        ``c/n``, ``(c/n)**2`` and ``c(n - c) / (n**2 (n - 1))``, shape ``[P, 3]``.

    Raises:
        InsufficientRolloutsError: A prompt has ``n < 2``.
        StatisticsError: A count is negative, no integer, or ``c > n``.
    """
    pairs = CountPairs.of(num_correct, num_scored)
    pairs.require_scored(2, "success_variance")
    c, n = pairs.num_correct.astype(np.float64), pairs.num_scored.astype(np.float64)
    columns = np.stack([c / n, (c / n) ** 2, c * (n - c) / (n**2 * (n - 1.0))], axis=1)
    return np.asarray(columns[pairs.index])


def success_variance_of_means(means: npt.ArrayLike, num_prompts: int) -> FloatVector:
    """`success_variance` from means of `success_moments`, also of bootstrap resamples.

    Args:
        means: Means over prompts of the three columns, shape ``[..., 3]``.
        num_prompts: Prompts behind each mean, ``P >= 2``.

    Returns:
        Variances, shape ``[...]``.

    Raises:
        StatisticsError: There are fewer than 2 prompts, or the last axis is not 3.
    """
    columns = finite_array("means", means)
    if columns.ndim == 0 or columns.shape[-1] != 3:
        raise StatisticsError(f"means has shape {columns.shape}: the last axis must be 3")
    if num_prompts < 2:
        raise StatisticsError(f"num_prompts={num_prompts}: a variance needs at least 2 prompts")
    rate, square, noise = columns[..., 0], columns[..., 1], columns[..., 2]
    spread = (square - rate**2) * num_prompts / (num_prompts - 1)
    return np.asarray(spread - noise)[()]


def moment_overdispersion(mean: npt.ArrayLike, variance: npt.ArrayLike) -> FloatVector:
    """Overdispersion by moments, ``Var p / (mean (1 - mean))``, clipped to ``[0, 1]``.

    Equals the fitted one for a true Beta; needs no optimiser, so it suits resamples.

    Args:
        mean: Mean success probability, strictly between 0 and 1.
        variance: `success_variance`, the same shape.

    Raises:
        StatisticsError: A mean is 0 or 1: nothing can spread there.

    >>> moment_overdispersion(0.5, 0.125)
    np.float64(0.5)
    """
    centre, spread = finite_array("mean", mean), finite_array("variance", variance)
    if ((centre <= 0.0) | (centre >= 1.0)).any():
        raise StatisticsError("mean: overdispersion is undefined when all or no rollout is correct")
    return np.asarray(np.clip(spread / (centre * (1.0 - centre)), 0.0, 1.0))[()]


def _exceeds(pairs: CountPairs, is_at_end: npt.NDArray[np.bool_], log_chance: FloatVector) -> bool:
    """True when improbably many prompts are at an end, by `INFLATION_LEVEL`."""
    weight = pairs.multiplicities()
    observed = int(np.dot(weight, is_at_end))
    chance = float(np.dot(weight, np.exp(log_chance))) / pairs.num_prompts
    return observed > 0 and float(bdtrc(observed - 1, pairs.num_prompts, chance)) < INFLATION_LEVEL


def _is_misfit(pairs: CountPairs, alpha: float, beta: float) -> bool:
    """Pearson's test of prompts per band of solve rates; false where too few bands can be told."""
    weight = pairs.multiplicities()
    num_bands = len(FIT_BANDS) + 3
    observed = np.zeros(num_bands)
    np.add.at(observed, _bands(pairs.num_correct, pairs.num_scored), weight)
    expected = np.zeros(num_bands)
    for scored in np.unique(pairs.num_scored).tolist():
        c = np.arange(scored + 1)
        log_choices = -betaln(c + 1.0, scored - c + 1.0) - math.log(scored + 1)
        log_chance = log_choices + betaln(alpha + c, beta + scored - c) - betaln(alpha, beta)
        num_prompts = float(weight[pairs.num_scored == scored].sum())
        bands = _bands(c, np.full_like(c, scored))
        expected += num_prompts * np.bincount(
            bands, weights=np.exp(log_chance), minlength=num_bands
        )
    seen, due = _joined(observed, expected)
    freedom = seen.size - 3  # the total and both parameters come from the same counts
    if freedom < 1:
        return False
    return float(chdtrc(freedom, float(np.sum((seen - due) ** 2 / due)))) < INFLATION_LEVEL


def _bands(
    num_correct: npt.NDArray[np.int64], num_scored: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Index of the band of each solve rate: all wrong first, all correct last."""
    bands = 1 + np.searchsorted(FIT_BANDS, num_correct / num_scored, side="left")
    bands[num_correct == 0] = 0
    bands[num_correct == num_scored] = len(FIT_BANDS) + 2
    return bands


def _joined(observed: FloatVector, expected: FloatVector) -> tuple[FloatVector, FloatVector]:
    """Join neighbouring bands until each expects `FIT_EXPECTED_MINIMUM` prompts."""
    seen, due = [0.0], [0.0]
    for here, share in zip(observed.tolist(), expected.tolist(), strict=True):
        if due[-1] >= FIT_EXPECTED_MINIMUM:
            seen.append(0.0)
            due.append(0.0)
        seen[-1] += here
        due[-1] += share
    if due[-1] < FIT_EXPECTED_MINIMUM and len(due) > 1:
        last_seen, last_due = seen.pop(), due.pop()
        seen[-1] += last_seen
        due[-1] += last_due
    return np.array(seen), np.array(due)


def _parameters(alpha: npt.ArrayLike, beta: npt.ArrayLike) -> tuple[FloatVector, FloatVector]:
    a, b = finite_array("alpha", alpha), finite_array("beta", beta)
    for name, array in (("alpha", a), ("beta", b)):
        if (array <= 0.0).any():
            raise StatisticsError(f"{name}={array[array <= 0.0][0]}: must be positive")
    return a, b
