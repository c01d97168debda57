"""Did a measure order the checkpoints as RL's outcome then did? Within families first.

Once RL ran from several versions, every measure can be held against what came of it. A handful
of checkpoints cannot show much: the smallest p-value they could reach stands beside the one they
did reach. Checkpoints of several families are never pooled without saying what pooling does to
the sign (Simpson's paradox).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy.typing as npt

from mlflow_rlrisk.errors import StatisticsError
from mlflow_rlrisk.plurals import counted
from mlflow_rlrisk.statistics.ranks import (
    evened,
    exact_permutation_p,
    kendall_tau_b,
    pair_counts,
    spearman,
    stratified_permutation_p,
    top1_regret,
)

SIGNIFICANT = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class RankEvidence:
    """How one measure ranked the checkpoints against their outcome.

    Attributes:
        measure: Name of the measure, larger taken as better.
        num_checkpoints: Checkpoints with an outcome.
        spearman: Over all of them; ``None`` where one side does not vary.
        kendall: Tau-b over all of them.
        p_value: Exact two-sided permutation p-value of ``spearman``; ``None`` with too many
            checkpoints to enumerate.
        smallest_p: The smallest that so many checkpoints can reach.
        discordant: Pairs that measure and outcome order the other way round.
        num_pairs: Pairs that neither ties.
        regret: Outcome lost by picking the checkpoint with the largest measure.
        within: Spearman within families (families demeaned), where there are several.
        within_p: Its exact p-value over orders within families.
        is_sign_reversed: True when pooling the families turns the sign: Simpson's paradox.
        remark: What may not be concluded.
    """

    measure: str
    num_checkpoints: int
    spearman: float | None
    kendall: float | None
    p_value: float | None
    smallest_p: float
    discordant: int
    num_pairs: int
    regret: float
    within: float | None
    within_p: float | None
    is_sign_reversed: bool
    remark: str


def rank_evidence(
    measure: str,
    values: npt.ArrayLike,
    outcomes: npt.ArrayLike,
    families: Sequence[str] | None = None,
) -> RankEvidence:
    """Hold one measure against the outcomes.

    Args:
        measure: Its name.
        values: Measured before RL, shape ``[C]`` with ``C >= 2``.
        outcomes: What RL made of the checkpoints, one definition for all, shape ``[C]``.
        families: Family of each checkpoint; ``None`` takes one.

    Returns:
        The evidence.

    Raises:
        StatisticsError: Shapes differ, a value is not finite, or there are fewer than two.
    """
    before = evened(values)
    after = evened(outcomes)
    counts = pair_counts(before, after)
    smallest = min(1.0, 2.0 / math.factorial(min(before.size, 20)))
    pooled = _defined(lambda: spearman(before, after))
    within = within_p = None
    if families is not None and len(set(families)) > 1:
        strata = list(families)
        within = _defined(lambda: spearman(before, after, strata))
        within_p = _defined(lambda: stratified_permutation_p(before, after, strata))
    is_reversed = pooled is not None and within is not None and pooled * within < 0.0
    return RankEvidence(
        measure=measure,
        num_checkpoints=int(before.size),
        spearman=pooled,
        kendall=_defined(lambda: kendall_tau_b(before, after)),
        p_value=_defined(lambda: exact_permutation_p(before, after)),
        smallest_p=smallest,
        discordant=counts.discordant,
        num_pairs=counts.concordant + counts.discordant,
        regret=top1_regret(before, after),
        within=within,
        within_p=within_p,
        is_sign_reversed=is_reversed,
        remark=_remark(int(before.size), smallest, is_reversed=is_reversed),
    )


def outcome_table(
    measures: Mapping[str, npt.ArrayLike],
    outcomes: npt.ArrayLike,
    families: Sequence[str] | None = None,
) -> tuple[RankEvidence, ...]:
    """`rank_evidence` of several measures, the one with the least regret first."""
    found = [rank_evidence(name, values, outcomes, families) for name, values in measures.items()]
    return tuple(sorted(found, key=lambda each: each.regret))


def _defined(compute: Callable[[], float]) -> float | None:
    """A correlation of a measure that does not vary, or too many orders, is undefined."""
    try:
        return compute()
    except StatisticsError:
        return None


def _remark(size: int, smallest: float, *, is_reversed: bool) -> str:
    parts = []
    if smallest > SIGNIFICANT:
        parts.append(
            f"{counted(size, 'checkpoint')} cannot reach significance: "
            f"the smallest possible p is {smallest:.3f}"
        )
    if is_reversed:
        parts.append(
            "pooling the families turns the sign (Simpson's paradox): only the figure within "
            "families may be read"
        )
    return "; ".join(parts)
