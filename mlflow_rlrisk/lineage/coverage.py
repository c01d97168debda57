"""Which problems does a checkpoint no longer solve, and which does it solve instead?

Two checkpoints with one pass@k may solve other problems. ``k`` tries of each are independent, so
the product of two unbiased per-prompt estimates is unbiased: the expected share of prompts that
the reference solves in ``k`` tries and this checkpoint does not. Some of it is chance: a problem
solved half of the time is lost and gained by a twin as well, which is why the twin's figure
stands beside it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from mlflow_rlrisk.lineage.measures import Estimate, FloatArray, mean_estimate
from mlflow_rlrisk.lineage.table import LineageMember
from mlflow_rlrisk.metrics.success_columns import success_counts
from mlflow_rlrisk.statistics.bootstrap import PromptBootstrap
from mlflow_rlrisk.statistics.counts import IntVector
from mlflow_rlrisk.statistics.multiple import fisher_p_values, holm_adjusted
from mlflow_rlrisk.statistics.passk import pass_at_k
from mlflow_rlrisk.statistics.ranks import evened


@dataclass(frozen=True, slots=True, kw_only=True)
class CoverageChange:
    """What a checkpoint solves beside a reference, within ``k`` tries.

    Attributes:
        reference: Name of the reference.
        checkpoint: Name of the checkpoint.
        k: Tries.
        lost: Expected share of prompts that the reference solves and the checkpoint does not.
        gained: The other way round.
        lost_to_chance: What ``lost`` would be of a second, equal copy of the reference.
        curve: ``k`` and the difference of pass@k, checkpoint less reference.
        crossings: Between which ``k`` the sign of the difference changes, where both sides are
            resolved.
        lost_prompts: Prompts whose solve rate fell, after Holm over all prompts (Fisher's exact
            test), the largest fall first.
        gained_prompts: Prompts whose solve rate rose, the largest rise first.
    """

    reference: str
    checkpoint: str
    k: int
    lost: Estimate
    gained: Estimate
    lost_to_chance: float
    curve: tuple[tuple[int, Estimate], ...]
    crossings: tuple[tuple[int, int], ...]
    lost_prompts: tuple[str, ...]
    gained_prompts: tuple[str, ...]


def coverage_changes(
    reference: LineageMember,
    checkpoints: Sequence[LineageMember],
    bootstrap: PromptBootstrap,
    *,
    confidence: float = 0.95,
    alpha: float = 0.05,
) -> tuple[CoverageChange, ...]:
    """Compare what checkpoints solve with what a reference solves, prompt by prompt.

    Args:
        reference: The base, or a sibling.
        checkpoints: Assessed on the same prompts.
        bootstrap: Resamples of these prompts, ordered by id.
        confidence: Level of the intervals.
        alpha: Chance of naming any prompt of a checkpoint falsely.

    Returns:
        The change of every checkpoint; none where success is undefined or a prompt has fewer
        than two scored rollouts.
    """
    before = _counts(reference)
    counted = [(member, _counts(member)) for member in checkpoints]
    pairs = [
        _Comparison(member=member, before=before, after=after)
        for member, after in counted
        if before is not None and after is not None and _fewest(before, after) >= 2
    ]
    if not pairs:
        return ()
    columns = [pair.columns() for pair in pairs]
    # One pass over the resamples for all checkpoints: drawing them costs more than the products.
    draws = bootstrap.means(np.concatenate(columns, axis=1))
    blocks = np.split(draws, np.cumsum([each.shape[1] for each in columns])[:-1], axis=1)
    return tuple(
        pair.change(reference, own, block, confidence, alpha)
        for pair, own, block in zip(pairs, columns, blocks, strict=True)
    )


def _fewest(*counts: tuple[IntVector, IntVector]) -> int:
    return min(int(num_scored.min()) for _, num_scored in counts)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Comparison:
    """Solve counts of the reference and of one checkpoint, ``(num_correct, num_scored)``."""

    member: LineageMember
    before: tuple[IntVector, IntVector]
    after: tuple[IntVector, IntVector]

    @property
    def ks(self) -> list[int]:
        """1, 2, 4, ... up to half of the fewest rollouts."""
        fewest = _fewest(self.before, self.after)
        return [1 << power for power in range((fewest // 2).bit_length())]

    def columns(self) -> FloatArray:
        """Per prompt: lost, gained, and the difference of pass@k for every k."""
        solved = [(pass_at_k(*self.before, k), pass_at_k(*self.after, k)) for k in self.ks]
        old, new = solved[-1]
        return np.stack([old * (1.0 - new), new * (1.0 - old), *(b - a for a, b in solved)], axis=1)

    def change(
        self,
        reference: LineageMember,
        columns: FloatArray,
        draws: FloatArray,
        confidence: float,
        alpha: float,
    ) -> CoverageChange:
        estimates = [
            mean_estimate(column, draw, confidence, (0.0, 1.0))
            if place < 2
            else mean_estimate(column, draw, confidence, (-1.0, 1.0), is_difference=True)
            for place, (column, draw) in enumerate(zip(columns.T, draws.T, strict=True))
        ]
        curve = tuple(zip(self.ks, estimates[2:], strict=True))
        lost, gained = _changed_prompts(reference, self.before, self.after, alpha)
        return CoverageChange(
            reference=reference.name,
            checkpoint=self.member.name,
            k=self.ks[-1],
            lost=estimates[0],
            gained=estimates[1],
            lost_to_chance=_twin_loss(*self.before, self.ks[-1]),
            curve=curve,
            crossings=_crossings(curve),
            lost_prompts=lost,
            gained_prompts=gained,
        )


def _counts(member: LineageMember) -> tuple[IntVector, IntVector] | None:
    return success_counts(sorted(member.statistics, key=lambda each: each.prompt_id))


def _twin_loss(num_correct: IntVector, num_scored: IntVector, k: int) -> float:
    """Mean of ``q (1 - q)``, ``q`` the chance of solving in ``k`` tries, without bias.

    ``(1 - q)`` is the chance that ``k`` tries fail and ``(1 - q)^2`` that ``2k`` fail, each
    estimated from draws without replacement; ``2k <= n`` holds for every ``k`` used here.
    """
    fails_k = 1.0 - pass_at_k(num_correct, num_scored, k)
    fails_2k = 1.0 - pass_at_k(num_correct, num_scored, 2 * k)
    return float((fails_k - fails_2k).mean())


def _crossings(curve: Sequence[tuple[int, Estimate]]) -> tuple[tuple[int, int], ...]:
    resolved = [
        (k, estimate.value > 0.0)
        for k, estimate in curve
        if estimate.ci_low > 0.0 or estimate.ci_high < 0.0
    ]
    return tuple(
        (k, next_k) for (k, sign), (next_k, next_sign) in pairwise(resolved) if sign != next_sign
    )


def _changed_prompts(
    reference: LineageMember,
    before: tuple[IntVector, IntVector],
    after: tuple[IntVector, IntVector],
    alpha: float,
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    ids = sorted(each.prompt_id for each in reference.statistics)
    change = evened(after[0] / after[1] - before[0] / before[1])
    is_changed = holm_adjusted(fisher_p_values(*before, *after)) <= alpha
    falling, rising = np.argsort(change, kind="stable"), np.argsort(-change, kind="stable")
    lost = tuple(ids[i] for i in falling if is_changed[i] and change[i] < 0.0)
    gained = tuple(ids[i] for i in rising if is_changed[i] and change[i] > 0.0)
    return lost, gained
