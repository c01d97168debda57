"""What a rule that cannot be judged lacks, and which setting of the trainer or option brings it."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mlflow_rlrisk.monitor.adapters import Input
from mlflow_rlrisk.monitor.entropy_rules import BASELINE_REACH
from mlflow_rlrisk.monitor.policy import MonitorPolicy, RuleId
from mlflow_rlrisk.monitor.tracks import Tracks
from mlflow_rlrisk.monitor.trainers import hint

NEEDS: Mapping[RuleId, tuple[Input, ...]] = {
    "R1": ("entropy",),
    "R2": ("entropy",),
    "R3": ("reward",),
    "R4": ("zero_variance",),
    "R5": ("grad_norm",),
    "R6": ("truncated",),
    "R7": ("is_mean", "mismatch_kl", "is_ess", "is_std", "chi2_token", "prob_error"),
    "R8": ("length", "reward"),
    "R9": ("entropy", "reward"),
    "R10": ("reward",),
}
"""Inputs of each rule: all of them, but any one of those of R7."""
SCALE_UNKNOWN = (
    "the rewards are not success rates and their scale is unknown: --reward-scale WRONG,RIGHT, "
    "or --success-metric NAME for a metric that is one"
)
BATCH_SCALED = (
    "the logged share is that of the batch by scale_rewards='batch' or "
    "multi_objective_aggregation='normalize_then_sum': use scale_rewards='group' or 'none' and "
    "'sum_then_normalize'"
)
LENGTH_MIXED = (
    "this loss_agg_mode mixes the length of completions into the entropy; "
    "actor_rollout_ref.actor.loss_agg_mode=token-mean does not"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """A rule that cannot be judged.

    Attributes:
        rule: Which.
        input: What it lacks.
        needs: What brings it: the trainer's setting, or an option of the command.
    """

    rule: RuleId
    input: str
    needs: str

    def to_dict(self) -> dict[str, Any]:
        """The entry as JSON values."""
        return asdict(self)


def missing_inputs(tracks: Tracks | None, policy: MonitorPolicy) -> tuple[Missing, ...]:
    """What each rule that cannot be judged lacks; a log without known names lacks everything."""
    if tracks is None:
        return tuple(
            Missing(rule=rule, input=needs[0], needs="a metric of a known trainer (--trainer)")
            for rule, needs in NEEDS.items()
        )
    found = []
    for rule in NEEDS:
        lack = lack_of(rule, tracks, policy)
        if lack is not None:
            found.append(Missing(rule=rule, input=lack[0], needs=lack[1]))
    return tuple(found)


def lack_of(rule: RuleId, tracks: Tracks, policy: MonitorPolicy) -> tuple[str, str] | None:
    """What a rule lacks, and what brings it; ``None`` where it can be judged."""
    needs = NEEDS[rule]
    if rule == "R7":
        return _lack_of_any(needs, tracks)
    for name in needs:
        lack = _lack_of_input(tracks.reward_input if name == "reward" else name, tracks)
        if lack is not None:
            return lack
    if rule in ("R3", "R8") and tracks.success() is None:
        named = tracks.facts.success_metric
        need = f"values of {named} within 0 to 1: no row has one" if named else SCALE_UNKNOWN
        return "success", need
    if rule == "R4" and tracks.facts.batch_scaled:
        return "zero_variance", BATCH_SCALED
    if rule in ("R1", "R2", "R9") and tracks.comparable_entropy() is None:
        return "entropy", LENGTH_MIXED
    return _lack_of_start(rule, tracks, policy)


def _lack_of_input(name: Input, tracks: Tracks) -> tuple[str, str] | None:
    since = tracks.undefined.get(name)
    if since is not None:
        return name, f"finite values: from step {since[0]} on all are NaN or infinite"
    return None if tracks.get(name) is not None else (name, hint(tracks.adapter, name))


def _lack_of_any(needs: Sequence[Input], tracks: Tracks) -> tuple[str, str] | None:
    """What is told where none of several inputs is there: one that was, else one that could be."""
    lacks = [lack for name in needs if (lack := _lack_of_input(name, tracks)) is not None]
    if len(lacks) < len(needs):
        return None
    undefined = [lack for lack in lacks if lack[0] in tracks.undefined]
    offered = [lack for lack in lacks if lack[0] in tracks.adapter.readings]
    return (undefined or offered or lacks)[0]


def _lack_of_start(rule: RuleId, tracks: Tracks, policy: MonitorPolicy) -> tuple[str, str] | None:
    """Whether the part of the run that entropy is compared with is in the log."""
    track = tracks.get("entropy")
    if rule not in ("R1", "R2") or track is None:
        return None
    latest = policy.drop_from_step + BASELINE_REACH if rule == "R1" else policy.surge_until_step
    if track.steps[0] > latest:
        return "entropy", (
            f"entropy of the run's start: the first logged step is {track.steps[0]}, up to "
            f"{latest} is needed (the whole log, logging every step)"
        )
    if max(track.values[: max(bisect_right(track.steps, latest), 1)]) <= 0.0:
        return "entropy", "an entropy above 0 at the run's start: what is logged is not one"
    return None
