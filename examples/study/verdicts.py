"""Levels of the study's checkpoints by the rules as they are, beside what RL made of them.

The reports were written before the outcomes were known, under the index of that time. Here each
is judged again from its solve counts; the entropy, of which a report keeps the mean and not each
prompt's, is taken as known.
"""

from collections import Counter

import numpy as np

from examples.study.agreements import agreement_of
from examples.study.predictors import report_of
from examples.study.rows import PairRow
from examples.study.scoring import PRIMARY, Study
from mlflow_rlrisk.config import PolicyConfig
from mlflow_rlrisk.evidence import AssessmentContext
from mlflow_rlrisk.metrics.aggregate import aggregate
from mlflow_rlrisk.records import PromptStatistics
from mlflow_rlrisk.report_record import Metric, RiskLevel, RiskReport
from mlflow_rlrisk.risk import Judgement, judge
from mlflow_rlrisk.risk.components import Quantities, assess_components
from mlflow_rlrisk.risk.luck import AGREEMENT, luck_line

NO_LUCK = {"low_agreement_from": 0.0, "low_headroom_from": 0.0}
"""The lines of what may be luck, not asked for: the rules until the eleventh test."""
_ORDER = {RiskLevel.LOW: 0, RiskLevel.MEDIUM: 1, RiskLevel.HIGH: 2}


def judgement_now(
    row: PairRow, policy: PolicyConfig | None = None, *, group_size: int | None = None
) -> Judgement:
    """Level and index by a policy, the default one unless another is given.

    In groups of the run, unless others are asked for.
    """
    report, context = report_of(row["report"]), AssessmentContext()
    policy = policy or PolicyConfig()
    config = report.config
    config = config.model_copy(update={"group_size": group_size or config.group_size})
    found = aggregate(
        _statistics(report),
        group_size=config.group_size,
        max_new_tokens=config.sampling.max_new_tokens,
        num_resamples=config.num_resamples,
        seed=config.sampling.seed,
        confidence=config.confidence,
    )
    quantities = Quantities(found, context, config.confidence, config.sampling.seed)
    return judge(
        found,
        assess_components(quantities, policy),
        policy=policy,
        config=config,
        num_prompts=report.num_prompts,
        context=context,
    )


def _statistics(report: RiskReport) -> list[PromptStatistics]:
    entropy = report.metrics["rlrisk/token_entropy"].value
    tokens = max(1, round(report.metrics["rlrisk/completion_tokens"].value))
    truncated = report.metrics["rlrisk/truncated_share"].value
    solved = [
        (correct, scored) for correct, scored, count in report.solve_counts for _ in range(count)
    ]
    return [
        PromptStatistics(
            prompt_id=f"{place:05d}",
            num_samples=scored,
            num_scored=scored,
            num_correct=correct,
            num_failed=0,
            num_truncated=round(truncated * scored),
            rewards=(1.0,) * correct + (0.0,) * (scored - correct),
            num_tokens=tokens * scored,
            entropy_sum=entropy * tokens * scored,
            sequence_entropy=entropy,
            num_low_entropy=0,
            nll_sum=entropy * tokens * scored,
            answer_counts=None,
            correct_counts=(),
            text_counts=(scored,),
            num_loops=0,
            num_unparsed=0,
        )
        for place, (correct, scored) in enumerate(solved)
    ]


def level_now(row: PairRow, policy: PolicyConfig | None = None) -> RiskLevel:
    """Level by a policy, the default one unless another is given.

    The report's own, unless it was judged by other rules or a line of luck (`luck_line`) withheld
    ``low``; then the lines of the policy, with the agreement that was measured since.
    """
    report, policy = report_of(row["report"]), policy or PolicyConfig()
    own, free = (each.model_copy(update=NO_LUCK) for each in (report.policy, policy))
    line_of_then = luck_line(report.metrics, report.components, report.policy)
    is_withheld = line_of_then is not None and line_of_then.is_short
    level = report.risk_level
    if own != free or (level is RiskLevel.MEDIUM and is_withheld):
        level = judgement_now(row, free).level
    return with_luck(row, level, policy)


def level_in_groups(row: PairRow, group_size: int) -> RiskLevel:
    """Level by the default policy, had the same rollouts been cut into groups of that size."""
    level = judgement_now(row, PolicyConfig(**NO_LUCK), group_size=group_size).level
    return with_luck(row, level, PolicyConfig())


def with_luck(
    row: PairRow, level: RiskLevel, policy: PolicyConfig, *, are_updates_tried: bool = False
) -> RiskLevel:
    """A level with the lines of luck: agreement, or headroom where no updates were tried."""
    report, found = report_of(row["report"]), agreement_of(row)
    metrics = report.metrics if found is None else {**report.metrics, AGREEMENT: found}
    line = luck_line(metrics, [] if are_updates_tried else report.components, policy)
    is_short = line is not None and line.is_short
    return RiskLevel.MEDIUM if level is RiskLevel.LOW and is_short else level


def level_table(study: Study) -> dict[str, dict[str, int]]:
    """Checkpoints by level: failed, good, and the best third of their lineage after RL."""
    levels = [level_now(row) for row in study.rows]
    best = best_third(study)
    return {
        str(level): {
            "failed": sum(
                bool(f) for f, each in zip(study.failed, levels, strict=True) if each == level
            ),
            "good": sum(
                not f for f, each in zip(study.failed, levels, strict=True) if each == level
            ),
            "best_third": sum(
                bool(b) for b, each in zip(best, levels, strict=True) if each == level
            ),
        }
        for level in RiskLevel
        if level in Counter(levels)
    }


def regret_of_the_choice(study: Study) -> float:
    """Final pass@1 lost, mean over lineages, by starting from what ``rlrisk compare`` would name.

    Of the checkpoints of the best level whose index is not told apart from the least, that is the
    one with the best pass@1.
    """
    after, lost = study.outcomes[PRIMARY], []
    judged = [judgement_now(row) for row in study.rows]
    for name in study.names:
        own = [int(place) for place in np.flatnonzero(study.lineages == name)]
        known = [place for place in own if judged[place].level is not RiskLevel.UNKNOWN]
        known.sort(key=lambda place: (_ORDER[judged[place].level], _index(judged[place]).value))
        level, least = judged[known[0]].level, _index(judged[known[0]])
        equals = [
            place
            for place in known
            if judged[place].level is level and _index(judged[place]).ci_low <= least.ci_high
        ]
        chosen = max(equals, key=lambda place: study.pass_at_1[place])
        lost.append(after[own].max() - after[chosen])
    return float(np.mean(lost))


def _index(judgement: Judgement) -> Metric:
    if judgement.index is None:
        raise ValueError("a level without an index")
    return judgement.index


def levels_then(study: Study) -> dict[str, dict[str, int]]:
    """Checkpoints by the level they had before any outcome was known, under the index of then."""
    levels = [row["risk_level"] for row in study.rows]
    pairs = list(zip(levels, study.failed.tolist(), strict=True))
    return {
        str(level): {"failed": pairs.count((level, True)), "good": pairs.count((level, False))}
        for level in RiskLevel
        if level in Counter(levels)
    }


def best_third(study: Study) -> np.ndarray:
    """Whether a checkpoint is among the best third of its lineage after RL, ``[C]``."""
    after = study.outcomes[PRIMARY]
    is_best = np.zeros(after.size, dtype=bool)
    for name in study.names:
        own = study.lineages == name
        is_best[own] = after[own] >= np.quantile(after[own], 2 / 3)
    return is_best
