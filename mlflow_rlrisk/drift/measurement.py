"""Two assessments -> a `DriftReport`: both models score each other's rollouts.

Nothing is sampled here. A few rollouts of every prompt are scored by both checkpoints.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mlflow_rlrisk.assessment.inputs import AssessmentInputs
from mlflow_rlrisk.assessment.wiring import Assessment
from mlflow_rlrisk.checkpoint import Checkpoint
from mlflow_rlrisk.comparison import check_comparable
from mlflow_rlrisk.config import AssessmentConfig
from mlflow_rlrisk.drift.mutual_scores import first_rollouts, mutual_divergences
from mlflow_rlrisk.drift.weights import weight_drift
from mlflow_rlrisk.errors import CheckpointError, ComparabilityError
from mlflow_rlrisk.experts.profile import ExpertProfile, ForgetRatio, paired_forget_ratio
from mlflow_rlrisk.lineage import LineageMember
from mlflow_rlrisk.lineage.drift import (
    DriftReport,
    WeightDrift,
    is_bound_kept,
    mean_estimate,
    reward_bound,
)
from mlflow_rlrisk.lineage.measures import Estimate
from mlflow_rlrisk.lineage.modes import mode_changes, why_no_modes
from mlflow_rlrisk.lineage.table import HELDOUT, build_table
from mlflow_rlrisk.lineage_evidence import member_of
from mlflow_rlrisk.plurals import counted
from mlflow_rlrisk.records import GradedGroup
from mlflow_rlrisk.rollouts.store import RolloutStore
from mlflow_rlrisk.statistics.bootstrap import PromptBootstrap

ROLLOUTS_PER_PROMPT = 4
"""Scored by both models; more prompts narrow an interval, more rollouts of one hardly do."""


def measure_drift(
    before: Assessment,
    after: Assessment,
    checkpoints: tuple[Checkpoint, Checkpoint],
    *,
    rollouts_per_prompt: int = ROLLOUTS_PER_PROMPT,
    base: ExpertProfile | None = None,
    on_stage: Callable[[str], None] = lambda _: None,
) -> DriftReport:
    """Measure what a training stage did, from weights to rewards.

    Args:
        before: Assessment of the earlier checkpoint, its rollouts kept in a folder.
        after: Assessment of the later one on the same prompts.
        checkpoints: Both checkpoints, in the same order.
        rollouts_per_prompt: Rollouts of each prompt that both models score.
        base: How the base of ``before`` sees the expert data of both assessments, for the share
            of SFT's gain that is given back.
        on_stage: Is told what is being done.

    Returns:
        The drift.

    Raises:
        ComparabilityError: The assessments measured other things, of a single prompt, or kept no
            rollouts; a prompt has none with a reward.
        SamplerError: A model cannot score the rollouts.
    """
    members = [member_of(assessment) for assessment in (before, after)]
    check_comparable([member.report for member in members])
    config = before.report.config
    bootstrap = PromptBootstrap(
        before.report.num_prompts, config.num_resamples, config.sampling.seed
    )
    groups = [_groups(assessment) for assessment in (before, after)]
    if len(groups[0]) < 2:
        raise ComparabilityError("1 prompt: at least 2 prompts are needed for an interval")
    rewards = [_mean_rewards(each) for each in groups]
    notes: list[str] = []
    forward, reverse = mutual_divergences(
        checkpoints,
        [[first_rollouts(group, rollouts_per_prompt) for group in each] for each in groups],
        [member.name for member in members],
        config,
        bootstrap,
        notes=notes,
        on_stage=on_stage,
    )
    on_stage("compare weights")
    span = (
        min(rewards[0][1], rewards[1][1], 0.0),
        max(rewards[0][2], rewards[1][2], 1.0),
    )
    reach = span[1] - span[0]
    shift = rewards[1][0] - rewards[0][0]
    change = mean_estimate(shift, bootstrap, config.confidence, (-reach, reach), is_difference=True)
    bounds = reward_bound(forward, reverse, span)
    changes = _changes(members, config, bootstrap)
    forgotten = _forgotten(base, members, config, notes)
    modes = mode_changes(members[0], members[1:], bootstrap, confidence=config.confidence)
    if (missing := why_no_modes(members[0], members[1:])) is not None:
        notes.append(f"answers lost or new are not told: {missing}")
    return DriftReport(
        before=members[0].name,
        after=members[1].name,
        num_prompts=before.report.num_prompts,
        weights=_weights(checkpoints, notes),
        is_tokenizer_equal=checkpoints[0].tokenizer_digest == checkpoints[1].tokenizer_digest,
        is_template_equal=checkpoints[0].template_digest == checkpoints[1].template_digest,
        generation_config=_generation_changes(*checkpoints),
        reverse=reverse,
        forward=forward,
        changes=changes,
        reward_change=change,
        reward_bound=None if bounds is None else bounds[0],
        is_bound_kept=None if bounds is None else is_bound_kept(change, bounds[1]),
        is_reward_lower=change.ci_high < 0.0,
        modes=modes[0].modes if modes else None,
        heldout_nll=changes.get(HELDOUT),
        forget_ratio=None if forgotten is None else forgotten.value,
        forget_ratio_ci=None if forgotten is None else forgotten.ends,
        notes=tuple(notes),
    )


def _forgotten(
    base: ExpertProfile | None,
    members: Sequence[LineageMember],
    config: AssessmentConfig,
    notes: list[str],
) -> ForgetRatio | None:
    sft, rl = (member.expert for member in members)
    if base is None or sft is None or rl is None:
        return None
    found = paired_forget_ratio(
        base,
        sft,
        rl,
        num_resamples=config.num_resamples,
        seed=config.sampling.seed,
        confidence=config.confidence,
    )
    if found.undefined is not None:
        notes.append(found.undefined)
    elif found.ends is not None and found.ends[0] > 1.0:
        notes.append("the loss on the expert data is above the base's: all of SFT's gain is gone")
    return found


def _groups(assessment: Assessment) -> list[GradedGroup]:
    """Graded groups in the order of prompt ids."""
    if assessment.folder is None:
        raise ComparabilityError(
            f"{assessment.report.provenance.model_reference}: its rollouts were not kept"
        )
    inputs = AssessmentInputs.load(assessment.folder)
    found = RolloutStore(assessment.folder).graded_groups(inputs.prompts.prompts)
    groups = sorted(found, key=lambda group: group.prompt.id)
    if len(groups) != assessment.report.num_prompts:
        raise ComparabilityError(
            f"{assessment.folder} holds {counted(len(groups), 'graded prompt')}, the report "
            f"{assessment.report.num_prompts}"
        )
    return groups


def _changes(
    members: Sequence[LineageMember], config: AssessmentConfig, bootstrap: PromptBootstrap
) -> dict[str, Estimate]:
    table = build_table(members, num_resamples=bootstrap.num_resamples, seed=bootstrap.seed)
    return {
        name: measure.difference(1, 0, config.confidence)
        for name, measure in table.measures.items()
    }


def _mean_rewards(
    groups: Sequence[GradedGroup],
) -> tuple[npt.NDArray[np.float64], float, float]:
    """Mean reward of each prompt, and the smallest and largest of all."""
    means, seen = [], []
    for group in groups:
        rewards = [grade.reward for grade in group.grades if grade.reward is not None]
        if not rewards:
            raise ComparabilityError(
                f"prompt {group.prompt.id}: none of its rollouts has a reward to compare"
            )
        means.append(float(np.mean(rewards)))
        seen += rewards
    return np.array(means), float(min(seen)), float(max(seen))


def _weights(checkpoints: tuple[Checkpoint, Checkpoint], notes: list[str]) -> WeightDrift | None:
    try:
        found = weight_drift(*checkpoints)
    except CheckpointError as error:
        notes.append(f"weights were not compared: {error}")
        return None
    if alone := sorted({*found.only_before, *found.only_after}):
        notes.append(
            f"tensors of one checkpoint alone, or of another shape in the other, are in no change "
            f"of the weights: {len(alone)} (first: {alone[0]})"
        )
    return found


def _generation_changes(before: Checkpoint, after: Checkpoint) -> dict[str, tuple[Any, Any]]:
    first, second = (_generation_config(each) for each in (before, after))
    return {
        key: (first.get(key), second.get(key))
        for key in sorted(first.keys() | second.keys())
        if first.get(key) != second.get(key) and key != "transformers_version"
    }


def _generation_config(checkpoint: Checkpoint) -> Mapping[str, Any]:
    path = checkpoint.model_path / "generation_config.json"
    if not path.is_file():
        return {}
    # NaN and infinity, for which JSON has no number, are told as the text that stands there.
    text = path.read_text(encoding="utf-8")
    found = json.loads(text, parse_constant=str, parse_float=_number_or_text)
    return found if isinstance(found, dict) else {}


def _number_or_text(text: str) -> float | str:
    return value if math.isfinite(value := float(text)) else text
