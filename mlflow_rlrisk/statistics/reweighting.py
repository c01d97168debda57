"""What another policy would score on rollouts that one policy drew: weights instead of samples.

Each rollout counts by how much likelier the other policy makes it, normalised within its prompt.
No new rollout is needed, and the difference of both policies is far less noisy than that of two
samples, for it is made on the same answers. What the rollouts do not show cannot be seen: a prompt
without a right answer stays at 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from mlflow_rlrisk.errors import StatisticsError
from mlflow_rlrisk.plurals import counted
from mlflow_rlrisk.statistics.bootstrap import PromptBootstrap, interval
from mlflow_rlrisk.statistics.counts import FloatVector, finite_vector


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ReweightedSuccess:
    """Success of each prompt under both policies, arrays ``[P]``.

    Attributes:
        before: Share of right rollouts.
        after: The same, every rollout weighted by the ratio of its probabilities.
        effective_share: Effective sample size over number of rollouts, in (0, 1]; 1 where the
            policies agree.
    """

    before: FloatVector
    after: FloatVector
    effective_share: FloatVector


@dataclass(frozen=True, slots=True, kw_only=True)
class GapClosed:
    """Share of the gap to certain success that the other policy closes; negative where it loses."""

    value: float
    low: float
    high: float


def reweighted_success(
    correct: Sequence[npt.ArrayLike], log_ratios: Sequence[npt.ArrayLike]
) -> ReweightedSuccess:
    """Self-normalised importance sampling, prompt by prompt.

    Args:
        correct: Whether each rollout is right, ``P`` arrays ``[n]`` of 0 and 1.
        log_ratios: Log probability of the same rollouts under the other policy less that under the
            one that drew them, nats, ``P`` arrays ``[n]``.

    Returns:
        Success before and after (higher is better), and how many rollouts that rests on. Biased by
        the order of 1/n, towards what was seen (Owen, Monte Carlo theory, 2013, eq. 9.6).

    Raises:
        StatisticsError: There is no prompt, the shapes differ, or a value is not finite.

    >>> found = reweighted_success([[1, 0]], [[np.log(3.0), 0.0]])
    >>> found.before, found.after
    (array([0.5]), array([0.75]))
    """
    if not correct or len(correct) != len(log_ratios):
        raise StatisticsError(
            f"{counted(len(correct), 'prompt')} of grades, {len(log_ratios)} of log ratios: as "
            "many are needed, at least one"
        )
    rows = [_one(place, *pair) for place, pair in enumerate(zip(correct, log_ratios, strict=True))]
    before, after, effective = (np.array(column) for column in zip(*rows, strict=True))
    return ReweightedSuccess(before=before, after=after, effective_share=effective)


def mean_success(tries: Sequence[ReweightedSuccess]) -> ReweightedSuccess:
    """The mean over several other policies, prompt by prompt.

    Raises:
        StatisticsError: There is none, or they are of different prompts.
    """
    if not tries or len({each.before.tobytes() for each in tries}) != 1:
        some = counted(len(tries), "try", "tries")
        raise StatisticsError(f"{some}: at least one, all of the same rollouts")
    return ReweightedSuccess(
        before=tries[0].before,
        after=np.mean([each.after for each in tries], axis=0),
        effective_share=np.mean([each.effective_share for each in tries], axis=0),
    )


def gap_closed(
    tries: Sequence[ReweightedSuccess],
    *,
    num_resamples: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> GapClosed:
    """``(mean after - mean before) / (1 - mean before)`` over the tries, with its interval.

    To the variance over prompts, by percentiles of resamples, the variance between the tries is
    added whole. That of their mean would not do: a prompt also teaches, which resampling those that
    are looked at does not see (`tests.benchmarks.lookahead_coverage`).

    Args:
        tries: Other policies on the same rollouts, at least two.
        num_resamples: Resamples of the prompts.
        seed: Of the resamples.
        confidence: Level of the interval.

    Raises:
        StatisticsError: There is one try, or every rollout is right, in all or in a resample.
    """
    if len(tries) < 2:
        some = counted(len(tries), "try", "tries")
        raise StatisticsError(f"{some}: two are needed to know what they differ by")
    found = mean_success(tries)
    gain, gap = found.after - found.before, 1.0 - found.before
    if gap.sum() == 0.0:
        raise StatisticsError("every rollout is right: there is no gap to close")
    bootstrap = PromptBootstrap(gain.size, num_resamples, seed)
    sums = bootstrap.sums(np.stack([gain, gap], axis=1))
    if not sums[:, 1].all():
        raise StatisticsError(
            f"only {np.count_nonzero(gap)} of {gap.size} prompts have a wrong rollout: some "
            "resamples hold none, and the gap to close has no interval"
        )
    low, high = interval(sums[:, 0] / sums[:, 1], confidence)
    value = float(gain.sum() / gap.sum())
    each = [float((one.after - one.before).sum() / gap.sum()) for one in tries]
    between = float(ndtri(0.5 + confidence / 2.0)) * float(np.std(each, ddof=1))
    return GapClosed(
        value=value,
        low=value - float(np.hypot(max(value - low, 0.0), between)),
        high=value + float(np.hypot(max(high - value, 0.0), between)),
    )


def _one(
    place: int, correct: npt.ArrayLike, log_ratios: npt.ArrayLike
) -> tuple[float, float, float]:
    right = finite_vector(f"correct[{place}]", correct)
    logs = finite_vector(f"log_ratios[{place}]", log_ratios)
    if right.shape != logs.shape or not np.isin(right, (0.0, 1.0)).all():
        raise StatisticsError(
            f"prompt {place}: {right.size} grades of 0 or 1 for {logs.size} log ratios are needed"
        )
    weights = np.exp(logs - logs.max())
    total = weights.sum()
    after = min(1.0, float((weights * right).sum() / total))
    effective = float(total**2 / (weights**2).sum() / weights.size)
    return float(right.mean()), after, min(1.0, effective)
