"""How far a verifier's rewards can be trusted, from an audit with known truth.

The true positive rate is the chance that a correct rollout is accepted, the false positive rate
that a wrong one is. Their difference, Youden's J, decides the direction of learning: above 0 it
goes the right way, at 0 nowhere, below 0 the wrong way. A group signal is worth nothing without
it: false positives alone make groups look mixed.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mlflow_rlrisk.errors import StatisticsError
from mlflow_rlrisk.statistics.bootstrap import interval
from mlflow_rlrisk.statistics.counts import FloatVector, check_at_least, unit_array
from mlflow_rlrisk.statistics.intervals import wilson


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRates:
    """Rates of a verifier: chance to accept a correct and to accept a wrong rollout."""

    true_positive: float
    false_positive: float

    @property
    def youden_j(self) -> float:
        """``true_positive - false_positive``. Smaller is riskier."""
        return self.true_positive - self.false_positive


def youden_j(true_positive: npt.ArrayLike, false_positive: npt.ArrayLike) -> FloatVector:
    """Youden's J: the share of the truth that reaches the reward. Smaller is riskier.

    Args:
        true_positive: Rates in ``[0, 1]``, any shape.
        false_positive: Rates in ``[0, 1]``, a shape that fits.

    Returns:
        Values in ``[-1, 1]``.

    Raises:
        StatisticsError: A rate lies outside ``[0, 1]``.

    >>> youden_j(0.75, 0.25)
    np.float64(0.5)
    """
    return (
        unit_array("true_positive", true_positive) - unit_array("false_positive", false_positive)
    )[()]


def observed_success(
    success: npt.ArrayLike, true_positive: npt.ArrayLike, false_positive: npt.ArrayLike
) -> FloatVector:
    """Share of rollouts the verifier accepts when ``success`` are correct: ``FPR + J p``.

    Arguments and errors are those of `youden_j`.

    >>> observed_success(0.0, 0.75, 0.25)
    np.float64(0.25)
    """
    false = unit_array("false_positive", false_positive)
    return np.asarray(false + youden_j(true_positive, false) * unit_array("success", success))[()]


def rogan_gladen(
    observed: npt.ArrayLike, true_positive: npt.ArrayLike, false_positive: npt.ArrayLike
) -> FloatVector:
    """Success probability behind an accepted share: ``(observed - FPR) / J``, clipped to [0, 1].

    Rogan and Gladen 1978. Arguments as in `youden_j`.

    Raises:
        StatisticsError: A rate lies outside ``[0, 1]``, or ``J <= 0``: the accepted share then
            says nothing about success.

    >>> rogan_gladen(0.5, 0.75, 0.25)
    np.float64(0.5)
    """
    false = unit_array("false_positive", false_positive)
    separation = np.asarray(youden_j(true_positive, false))
    if (separation <= 0.0).any():
        raise StatisticsError(f"youden_j={separation.min()}: must be positive to be divided by")
    return np.asarray(np.clip((unit_array("observed", observed) - false) / separation, 0.0, 1.0))[
        ()
    ]


def usable_signal(
    success: npt.ArrayLike, true_positive: npt.ArrayLike, false_positive: npt.ArrayLike
) -> FloatVector:
    """Squared correlation of the verifier's reward with the truth. Smaller is riskier.

    ``J**2 p(1 - p) / (q(1 - q))`` with the accepted share ``q``. Says how much of a group
    signal is signal; a verifier below chance has the same value, so read it beside J.

    Args:
        success: Success probabilities in ``[0, 1]``, any shape.
        true_positive: Rates in ``[0, 1]``, a shape that fits.
        false_positive: Rates in ``[0, 1]``, a shape that fits.

    Returns:
        Values in ``[0, 1]``.

    Raises:
        StatisticsError: A rate lies outside ``[0, 1]``, or rewards do not vary at all, so that
            a correlation is undefined.

    >>> usable_signal(0.5, 1.0, 0.0)
    np.float64(1.0)
    """
    p = unit_array("success", success)
    accepted = np.asarray(observed_success(p, true_positive, false_positive))
    spread = accepted * (1.0 - accepted)
    if (spread <= 0.0).any():
        raise StatisticsError("success: rewards that are all equal correlate with nothing")
    separation = youden_j(true_positive, false_positive)
    return np.asarray(np.clip(separation**2 * p * (1.0 - p) / spread, 0.0, 1.0))[()]


def audit_rates(
    accept_rate: float, precision_accepted: float, correct_among_rejected: float
) -> AuditRates:
    """Verifier rates from an audit of accepted and of rejected rollouts.

    An audit of rejected rollouts gives ``P(correct | rejected)``, which is no error rate of the
    verifier by itself; Bayes' rule with the accepted share turns both into rates.

    Args:
        accept_rate: Share of rollouts the verifier accepts.
        precision_accepted: Share of the accepted that is correct.
        correct_among_rejected: Share of the rejected that is correct.

    Returns:
        The rates.

    Raises:
        StatisticsError: A share lies outside ``[0, 1]``, or there are no correct or no wrong
            rollouts, so that a rate is undefined.

    >>> round(audit_rates(0.3, 0.98, 0.10).youden_j, 6)
    0.798258
    """
    accept = float(unit_array("accept_rate", accept_rate))
    precision = float(unit_array("precision_accepted", precision_accepted))
    missed = float(unit_array("correct_among_rejected", correct_among_rejected))
    correct = accept * precision + (1.0 - accept) * missed
    wrong = accept * (1.0 - precision) + (1.0 - accept) * (1.0 - missed)
    if correct <= 0.0 or wrong <= 0.0:
        raise StatisticsError("audit: rates need correct and wrong rollouts; one kind is missing")
    return AuditRates(
        true_positive=accept * precision / correct,
        false_positive=accept * (1.0 - precision) / wrong,
    )


def youden_j_interval(
    accepted_correct: int,
    num_correct: int,
    accepted_wrong: int,
    num_wrong: int,
    confidence: float = 0.95,
) -> tuple[float, float]:
    """Newcombe's hybrid score interval of J from labelled rollouts (Newcombe 1998, method 10).

    Combines the Wilson intervals of both rates; defined also at 0 and 1.

    Args:
        accepted_correct: Correct rollouts the verifier accepted.
        num_correct: Correct rollouts shown to it.
        accepted_wrong: Wrong rollouts the verifier accepted.
        num_wrong: Wrong rollouts shown to it.
        confidence: Level, strictly between 0 and 1.

    Returns:
        ``(low, high)`` within ``[-1, 1]``.

    Raises:
        StatisticsError: A count is unusable or there are no rollouts of a kind.
        ConfigError: ``confidence`` is not strictly between 0 and 1.

    >>> [round(end, 4) for end in youden_j_interval(56, 70, 48, 80)]
    [0.0524, 0.3339]
    """
    low_tpr, high_tpr = wilson(accepted_correct, num_correct, confidence)
    low_fpr, high_fpr = wilson(accepted_wrong, num_wrong, confidence)
    tpr, fpr = accepted_correct / num_correct, accepted_wrong / num_wrong
    below = float(np.hypot(tpr - low_tpr, high_fpr - fpr))
    above = float(np.hypot(high_tpr - tpr, fpr - low_fpr))
    return max(tpr - fpr - below, -1.0), min(tpr - fpr + above, 1.0)


def audit_j_draws(
    accept_rate: float,
    accepted: tuple[int, int],
    rejected: tuple[int, int],
    num_resamples: int = 2000,
    seed: int = 0,
) -> FloatVector:
    """Draws of J from an audit stratified by the verifier's verdict.

    Each stratum's share of correct rollouts is drawn from its Beta(1/2, 1/2) posterior, which
    unlike resampling keeps a spread where a stratum came out all correct or all wrong.

    Args:
        accept_rate: Share of rollouts the verifier accepts, strictly between 0 and 1.
        accepted: ``(correct, audited)`` among the accepted.
        rejected: ``(correct, audited)`` among the rejected.
        num_resamples: Draws, at least 1.
        seed: Seed of the PCG64 generator.

    Returns:
        Draws of J, shape ``[B]``.

    Raises:
        StatisticsError: A stratum was not audited, a count is unusable, or the accepted share
            is 0 or 1.
        ConfigError: ``B < 1`` or a negative seed.
    """
    if not 0.0 < accept_rate < 1.0:
        raise StatisticsError(f"accept_rate={accept_rate}: both strata need rollouts")
    size = check_at_least("num_resamples", num_resamples, 1)
    rng = np.random.Generator(np.random.PCG64(check_at_least("seed", seed, 0)))
    shares = []
    for name, (correct, audited) in (("accepted", accepted), ("rejected", rejected)):
        if not 0 <= correct <= audited or audited < 1:
            raise StatisticsError(
                f"{name}={(correct, audited)}: needs 0 <= correct <= audited >= 1"
            )
        shares.append(rng.beta(correct + 0.5, audited - correct + 0.5, size=size))
    precision, missed = shares
    correct_accepted = accept_rate * precision
    correct_rejected = (1.0 - accept_rate) * missed
    correct_share = correct_accepted + correct_rejected
    wrong_accepted = accept_rate - correct_accepted
    return np.asarray(correct_accepted / correct_share - wrong_accepted / (1.0 - correct_share))


def audit_j_interval(
    accept_rate: float,
    accepted: tuple[int, int],
    rejected: tuple[int, int],
    confidence: float = 0.95,
    num_resamples: int = 10_000,
    seed: int = 0,
) -> tuple[float, float]:
    """Equal-tailed interval of J from `audit_j_draws`, whose arguments and errors these are.

    Widened to hold the estimate of `audit_rates`, which lies at an end of what J can be where a
    stratum came out all correct or all wrong.

    Raises:
        StatisticsError: As the draws, or both strata came out all correct or both all wrong, so
            that there is no J.

    >>> low, high = audit_j_interval(0.3, (98, 100), (20, 200))
    >>> low < 0.798258 < high
    True
    """
    draws = audit_j_draws(accept_rate, accepted, rejected, num_resamples, seed)
    low, high = interval(draws, confidence)
    shares = (correct / audited for correct, audited in (accepted, rejected))
    estimate = audit_rates(accept_rate, *shares).youden_j
    return min(low, estimate), max(high, estimate)
