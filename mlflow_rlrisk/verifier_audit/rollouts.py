"""What stored rollouts show of a verifier and of the labels that it compares with."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlflow_rlrisk.records import Grade, GradedGroup
from mlflow_rlrisk.statistics import (
    AuditRates,
    PromptBootstrap,
    expected_group_variance,
    group_signal,
    interval,
    mean_interval,
    rogan_gladen,
    usable_signal,
)
from mlflow_rlrisk.statistics.confidence import IntervalMethod
from mlflow_rlrisk.statistics.counts import IntVector
from mlflow_rlrisk.statistics.intervals import clopper_pearson, constant_interval
from mlflow_rlrisk.statistics.noise_correction import (
    corrected_group_signal,
    corrected_group_variance,
)
from mlflow_rlrisk.verifier_audit.probing import Judge, shorten
from mlflow_rlrisk.verifier_audit.sample import Rates

SUSPICIOUS_BELOW = 0.05
"""Solve rate below which a label is suspected rather than its prompt hard."""
_BOUNDS = {
    "group_signal_fraction": (0.0, 1.0),
    "expected_group_variance": (0.0, 0.5),
    "pass_at_1": (0.0, 1.0),
    "usable_signal": (0.0, 1.0),
}
"""Least and most of a prompt; a sample variance of two rewards of 0 and 1 is at most a half."""
NUM_CORRECTION_RESAMPLES = 200
"""Replicates of the corrected signal; each fits a distribution anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedGroup:
    """All rollouts of one prompt as two verifiers see them.

    Attributes:
        group: The rollouts with the grades of the audited verifier.
        second: Grades of the second one, where there is one.
    """

    group: GradedGroup
    second: tuple[Grade, ...] | None


def judged_groups(groups: Iterable[GradedGroup], second: Judge | None) -> list[JudgedGroup]:
    """Ask the second verifier about every rollout."""
    return [
        JudgedGroup(
            group=group,
            second=None
            if second is None
            else tuple(second.grade(group.prompt, [r.completion for r in group.rollouts])),
        )
        for group in groups
    ]


def suspicious_labels(
    judged: Sequence[JudgedGroup], judge: Judge, second: Judge | None
) -> list[dict[str, Any]]:
    """Prompts that are (almost) never solved, ranked by how much the answers agree on another one.

    The score is the share of the scored rollouts that give the most frequent wrong answer; it
    is raised half-way to 1 where the second verifier accepts that answer. Shared misconceptions
    look the same: this is a list for people to review, nothing is dropped. Beside it stands the
    exact one-sided 95 % limit of the solve rate: how hard a prompt that is no mistake would be.
    """
    found = [each for group in judged if (each := _suspicion(group, judge, second))]
    return sorted(found, key=lambda each: (-each["score"], each["prompt_id"]))


def _suspicion(each: JudgedGroup, judge: Judge, second: Judge | None) -> dict[str, Any] | None:
    group = each.group
    scored = [(i, grade) for i, grade in enumerate(group.grades) if grade.is_scored]
    verdicts = [judge.verdict(grade) for _, grade in scored]
    if not scored or verdicts.count("accepted") / len(scored) >= SUSPICIOUS_BELOW:
        return None
    answers = Counter(
        answer
        for (i, grade), verdict in zip(scored, verdicts, strict=True)
        if verdict != "accepted"
        and (answer := grade.answer or _last_line(group.rollouts[i].completion))
    )
    if not answers:
        return None
    answer, count = answers.most_common(1)[0]
    share = count / len(scored)
    is_accepted = second is not None and any(
        second.verdict(each.second[i]) == "accepted"
        for i, grade in scored
        if each.second is not None
        and answer == (grade.answer or _last_line(group.rollouts[i].completion))
    )
    return {
        "prompt_id": group.prompt.id,
        "prompt": shorten(group.prompt.text),
        "truth": group.prompt.truth,
        "modal_answer": answer,
        "modal_share": share,
        "num_correct": verdicts.count("accepted"),
        "num_scored": len(scored),
        "solve_rate_upper_95": clopper_pearson(verdicts.count("accepted"), len(scored), 0.9)[1],
        "second_verifier_accepts": is_accepted if second is not None else None,
        "score": share + (1.0 - share) / 2.0 if is_accepted else share,
    }


def _last_line(completion: str) -> str | None:
    """What stands for the answer where the verifier reads none."""
    lines = [" ".join(line.split()) for line in completion.splitlines() if line.strip()]
    return lines[-1] if lines else None


def disagreement(pairs: Sequence[tuple[str, bool]], confidence: float) -> dict[str, Any] | None:
    """Share of texts on which two verifiers disagree: a lower bound on the sum of their errors.

    Args:
        pairs: Prompt id and whether the two disagree, for every text that both judged.
        confidence: Of the interval, which resamples prompts.
    """
    if not pairs:
        return None
    by_prompt: dict[str, list[bool]] = {}
    for prompt_id, differs in pairs:
        by_prompt.setdefault(prompt_id, []).append(differs)
    shares = np.array([np.mean(values) for values in by_prompt.values()])
    found = mean_interval(
        shares, PromptBootstrap(shares.size, 2000), bounds=(0.0, 1.0), confidence=confidence
    )
    return {
        "value": found.value,
        "ci_low": found.low,
        "ci_high": found.high,
        "num_prompts": int(shares.size),
        "num_texts": len(pairs),
        "num_disagreements": sum(differs for _, differs in pairs),
    }


def counts(judged: Sequence[JudgedGroup], judge: Judge) -> tuple[IntVector, IntVector]:
    """Accepted and scored rollouts of each prompt that has any, each ``[P]``."""
    verdicts = [[judge.verdict(grade) for grade in each.group.grades] for each in judged]
    scored = [sum(v != "failed" for v in row) for row in verdicts]
    accepted = [row.count("accepted") for row in verdicts]
    keep = [index for index, size in enumerate(scored) if size]
    return (
        np.array([accepted[index] for index in keep], dtype=np.int64),
        np.array([scored[index] for index in keep], dtype=np.int64),
    )


def signal(
    accepted: IntVector,
    scored: IntVector,
    group_size: int,
    rates: Rates | None,
    confidence: float,
) -> dict[str, Any]:
    """The raw signal and, where the rates are known, what is left of it without errors.

    Raises:
        InsufficientRolloutsError: A prompt has fewer scored rollouts than a group.
        StatisticsError: ``J <= 0``.
    """
    bootstrap = PromptBootstrap(accepted.size, 2000)
    raw = {
        "group_signal_fraction": group_signal(accepted, scored, group_size),
        "expected_group_variance": expected_group_variance(accepted, scored, group_size),
        "pass_at_1": accepted / scored,
    }
    result: dict[str, Any] = {"group_size": group_size, "num_prompts": int(accepted.size)}
    alike = set()  # figures of which all prompts gave the same: resampling shows no spread
    for name, column in raw.items():
        found = mean_interval(column, bootstrap, bounds=_BOUNDS[name], confidence=confidence)
        low, high = found.low, found.high
        result[name] = {"raw": {"value": found.value, "ci_low": low, "ci_high": high}}
        if found.method is IntervalMethod.CONSTANT:
            alike |= {name, *(["usable_signal"] if name == "pass_at_1" else [])}
    if rates is None:
        return result
    values = _corrected(accepted, scored, group_size, rates.rates)
    draws = _corrected_draws(accepted, scored, group_size, rates)
    for name, value in values.items():
        ends = [value, *interval(draws[name], confidence)]
        if name in alike:
            ends += constant_interval(value, accepted.size, _BOUNDS[name], confidence)
        entry = {"value": value, "ci_low": min(ends), "ci_high": max(ends)}
        result.setdefault(name, {})["corrected"] = entry
    return result


def _corrected(
    accepted: IntVector, scored: IntVector, group_size: int, rates: AuditRates
) -> dict[str, float]:
    observed = float((accepted / scored).mean())
    success = rogan_gladen(observed, rates.true_positive, rates.false_positive)
    variance = corrected_group_variance(accepted, scored, group_size, rates).mean()
    # A small J blows it up, beyond what is estimated where half of all rewards are 1.
    most = expected_group_variance(scored // 2, scored, group_size).mean()
    values = {
        "group_signal_fraction": corrected_group_signal(accepted, scored, group_size, rates),
        "expected_group_variance": float(np.clip(variance, 0.0, most)),
        "pass_at_1": float(success),
    }
    if 0.0 < observed < 1.0:
        rate = (rates.true_positive, rates.false_positive)
        values["usable_signal"] = float(usable_signal(success, *rate))
    return values


def _corrected_draws(
    accepted: IntVector, scored: IntVector, group_size: int, rates: Rates
) -> dict[str, list[float]]:
    """Prompts and rates are drawn together; draws with ``J <= 0`` have no corrected value."""
    rng = np.random.Generator(np.random.PCG64(1))
    found: dict[str, list[float]] = {}
    for true, false in rates.draws[:NUM_CORRECTION_RESAMPLES]:
        rows = rng.integers(0, accepted.size, accepted.size)
        if true <= false:
            continue
        drawn = AuditRates(true_positive=float(true), false_positive=float(false))
        values = _corrected(accepted[rows], scored[rows], group_size, drawn)
        for name, value in values.items():
            found.setdefault(name, []).append(value)
    return found
