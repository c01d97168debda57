"""Columns of how a checkpoint writes: entropy, diversity, length, truncation, failures."""

import math
from collections.abc import Sequence
from functools import partial

import numpy as np

from mlflow_rlrisk.metrics.columns import SHARE, PromptColumns
from mlflow_rlrisk.metrics.success_columns import undefined_success_reason
from mlflow_rlrisk.records import PromptStatistics
from mlflow_rlrisk.statistics import diversity
from mlflow_rlrisk.statistics.counts import FloatVector

LARGEST_VOCABULARY = 2**20
"""Bounds an entropy where no interval can be estimated; four times today's largest vocabularies."""
ENTROPY_BOUNDS = (0.0, math.log(LARGEST_VOCABULARY))
ESTIMATE_BOUNDS = (-ENTROPY_BOUNDS[1], 2.0 * ENTROPY_BOUNDS[1])
"""A mean of unbiased estimates may leave the entropy's own range."""
BOUNDS_ONLY = "the exact entropy is not known, only its bounds (token_entropy_lower, _upper)"


def add_sampling_columns(
    table: PromptColumns,
    statistics: Sequence[PromptStatistics],
    *,
    group_size: int,
    max_new_tokens: int,
) -> None:
    """Add every metric that does not depend on which rollouts were correct, and their diversity.

    Args:
        table: Takes the columns.
        statistics: One record per prompt.
        group_size: Rollouts per prompt and step of the RL run, ``g``.
        max_new_tokens: Token limit of a rollout.
    """
    _add_entropy(table, statistics)
    _add_diversity(table, statistics, group_size)
    _add_correct_diversity(table, statistics)
    _add_agreement(table, statistics)
    _add_outcomes(table, statistics, max_new_tokens)


def _add_entropy(table: PromptColumns, statistics: Sequence[PromptStatistics]) -> None:
    tokens = _floats([each.num_tokens for each in statistics])
    samples = _floats([each.num_samples for each in statistics])
    sums = [each.entropy_sum for each in statistics]
    sequence = [each.sequence_entropy for each in statistics]
    low = [each.num_low_entropy for each in statistics]
    entropies = (
        "token_entropy",
        "token_entropy_token_mean",
        "token_entropy_seq_mean",
        "low_entropy_share",
    )
    missing = sum(value is None for value in sequence)
    if missing and _has_bounds(statistics):
        table.leave_out(BOUNDS_ONLY, *entropies)
    elif missing:
        table.leave_out(_not_recorded("token entropies", missing, len(statistics)), *entropies)
    else:
        per_prompt = _floats(sequence)
        table.add_mean("token_entropy", lambda: per_prompt, ENTROPY_BOUNDS, is_far=True)
        for name, total, count in (
            ("token_entropy_token_mean", _floats(sums), tokens),
            ("token_entropy_seq_mean", per_prompt * samples, samples),
        ):
            table.add_ratio(name, total, count, ENTROPY_BOUNDS, is_far=True)
        table.add_ratio("low_entropy_share", _floats(low), tokens)
    _add_entropy_bounds(table, statistics, is_exact=not missing)
    nll = [each.nll_sum for each in statistics]
    missing = sum(value is None for value in nll)
    if missing:
        reason = _not_recorded("log probabilities", missing, len(statistics))
        table.leave_out(reason, "sampled_nll", "sequence_nll")
    else:
        table.add_ratio("sampled_nll", _floats(nll), tokens, None)
        table.add_ratio("sequence_nll", _floats(nll), samples, None)
    _add_pressure(table, statistics)


def _add_pressure(table: PromptColumns, statistics: Sequence[PromptStatistics]) -> None:
    known = np.array([each.entropy_pressure is not None for each in statistics])
    if not known.any():
        table.leave_out("no prompt has mixed rewards with log probabilities", "entropy_pressure")
        return
    values = np.array([each.entropy_pressure or 0.0 for each in statistics])
    mixed = known.astype(float)
    table.add_ratio("entropy_pressure", values, mixed, None, int(known.sum()))


def _has_bounds(statistics: Sequence[PromptStatistics]) -> bool:
    return any(each.sequence_entropy_lower is not None for each in statistics)


def _add_entropy_bounds(
    table: PromptColumns, statistics: Sequence[PromptStatistics], *, is_exact: bool
) -> None:
    """Bounds and the unbiased estimate, aggregated as ``token_entropy`` is."""
    for name, values, bounds in (
        ("lower", [each.sequence_entropy_lower for each in statistics], ENTROPY_BOUNDS),
        ("upper", [each.sequence_entropy_upper for each in statistics], ENTROPY_BOUNDS),
        ("estimate", [each.sequence_entropy_estimate for each in statistics], ESTIMATE_BOUNDS),
    ):
        missing = sum(value is None for value in values)
        if not missing:
            compute = partial(_floats, values)
            table.add_mean(f"token_entropy_{name}", compute, bounds, is_far=True)
        elif is_exact:
            table.leave_out("token_entropy is exact", f"token_entropy_{name}")
        else:
            what = "the most likely tokens of every position"
            if name == "estimate":
                what += ", drawn from the distribution that is scored,"
            reason = _not_recorded(what, missing, len(statistics))
            table.leave_out(reason, f"token_entropy_{name}")


def _not_recorded(what: str, missing: int, total: int) -> str:
    return f"{what} were not recorded for {missing} of {total} prompts"


def _add_diversity(
    table: PromptColumns, statistics: Sequence[PromptStatistics], group_size: int
) -> None:
    texts = [each.text_counts for each in statistics]
    table.add_mean("duplicate_rate", lambda: diversity.collision(texts), SHARE)
    answers = _answer_counts(statistics)
    if answers is None:
        reason = "the verifier extracts no answers"
        table.leave_out(reason, "answer_distinct", "answer_collision", "answer_entropy")
    else:
        most = max((sum(each) for each in answers), default=1)
        highest = float(diversity.answer_entropy([[1] * most])[0]) if most else 0.0
        table.add_mean(
            "answer_distinct",
            lambda: diversity.rarefied_distinct(answers, group_size),
            (1.0, float(group_size)),
        )
        table.add_mean("answer_collision", lambda: diversity.collision(answers), SHARE)
        table.add_mean("answer_entropy", lambda: diversity.answer_entropy(answers), (0.0, highest))


def _answer_counts(statistics: Sequence[PromptStatistics]) -> list[tuple[int, ...]] | None:
    """Answer multiplicities with "no answer" as one of them; ``None`` if no prompt has answers."""
    if all(each.answer_counts is None for each in statistics):
        return None
    return [
        (*(each.answer_counts or ()), each.num_scored - sum(each.answer_counts or ()))
        for each in statistics
    ]


def _add_correct_diversity(table: PromptColumns, statistics: Sequence[PromptStatistics]) -> None:
    counts = [each.correct_counts for each in statistics]
    if any(each is None for each in counts):
        table.leave_out(undefined_success_reason(statistics), "correct_diversity")
        return
    several = np.array([sum(each or ()) >= 2 for each in counts])
    if not several.any():
        table.leave_out("no prompt has two correct rollouts to compare", "correct_diversity")
        return
    values = np.zeros(len(counts))
    chosen = [each or () for each, enough in zip(counts, several, strict=True) if enough]
    values[several] = diversity.correct_diversity(chosen)
    table.add_ratio(
        "correct_diversity", values, several.astype(float), (1.0, 4.0), int(several.sum())
    )


def _add_agreement(table: PromptColumns, statistics: Sequence[PromptStatistics]) -> None:
    name = "agreement_accuracy"
    if any(each.num_correct is None for each in statistics):
        table.leave_out(undefined_success_reason(statistics), name)
        return
    answers = _answer_counts(statistics)
    if answers is None:
        said = [
            each.text_counts if each.scored_text_counts is None else each.scored_text_counts
            for each in statistics
        ]
        right = [each.correct_counts or () for each in statistics]
    else:  # one that gives no answer agrees with none
        said = [(*each[:-1], *[1] * each[-1]) for each in answers]
        right = [each.right_answer_counts or () for each in statistics]
    if any(each.answer_counts and each.right_answer_counts is None for each in statistics):
        table.leave_out("which answers are right was not counted", name)
        return
    if min(sum(each) for each in said) < 2:
        table.leave_out("a prompt has fewer than two answers to compare", name)
        return
    both_right, both = diversity.agreement(right, said)
    agree = int((both > 0.0).sum())
    if not agree:
        table.leave_out("no two rollouts of a prompt agree", name)
        return
    table.add_ratio(name, both_right, both, num_prompts=agree)


def _add_outcomes(
    table: PromptColumns, statistics: Sequence[PromptStatistics], max_new_tokens: int
) -> None:
    samples = _floats([each.num_samples for each in statistics])
    scored = _floats([each.num_scored for each in statistics])
    tokens = _floats([each.num_tokens for each in statistics])
    longest = float(max(max_new_tokens, (tokens / np.maximum(samples, 1.0)).max()))
    table.add_ratio("truncated_share", _floats([s.num_truncated for s in statistics]), samples)
    loops = [each.num_loops for each in statistics]
    missing = sum(each is None for each in loops)
    if missing:
        reason = _not_recorded("generated tokens", missing, len(statistics))
        table.leave_out(reason, "repetition_share")
    else:
        table.add_ratio("repetition_share", _floats(loops), samples)
    failed = _floats([s.num_failed for s in statistics])
    table.add_ratio("verifier_failure_share", failed, samples)
    table.add_ratio("verifier_abstained_share", samples - scored - failed, samples)
    _add_attacks(table, statistics, scored)
    table.add_ratio("completion_tokens", tokens, samples, (1.0, longest))
    answers = _answer_counts(statistics)
    if answers is None:
        table.leave_out("the verifier extracts no answers", "parse_failure_share")
        return
    table.add_ratio("parse_failure_share", _floats([each[-1] for each in answers]), scored)


def _add_attacks(
    table: PromptColumns, statistics: Sequence[PromptStatistics], scored: FloatVector
) -> None:
    attacks = [each.num_attacks for each in statistics]
    if all(each is None for each in attacks):
        table.leave_out("the verifier does not look for attacks", "verifier_attack_share")
        return
    table.add_ratio("verifier_attack_share", _floats([each or 0 for each in attacks]), scored)


def _floats(values: Sequence[float | None]) -> FloatVector:
    return np.array(values, dtype=np.float64)
