"""R1 to R8 as pure functions: columns up to the newest log in, alarms that stand there out.

Every rule looks at what is logged, never ahead. Rules that hold a noisy share against a line ask
for several logs and, R3 and R4, for a mean that lies beyond the line by several standard errors;
two inputs that say the same at one log need no second one, unless the log holds a few groups only,
which chance alone makes alike in all of them. The step of an alarm is the first one beyond the
line, ``confirmed_step`` the one at which that was sure.
"""

from collections.abc import Callable
from functools import partial

from mlflow_rlrisk.monitor.adapters import Input
from mlflow_rlrisk.monitor.alarms import Alarm, Severity
from mlflow_rlrisk.monitor.divergence import divergence
from mlflow_rlrisk.monitor.entropy_rules import entropy_drop, entropy_surge
from mlflow_rlrisk.monitor.evidence import pooled_beyond, raise_alarm, run_beyond
from mlflow_rlrisk.monitor.policy import MonitorPolicy, RuleId
from mlflow_rlrisk.monitor.tracks import Track, Tracks
from mlflow_rlrisk.statistics.groups import critical_success
from mlflow_rlrisk.thresholds import threshold

GONE_GROUPS = 10
"""Dead groups in a row that are no chance where half of all groups are dead in health."""
Rule = Callable[[Tracks, MonitorPolicy], list[Alarm]]


def low_success(tracks: Tracks, policy: MonitorPolicy) -> list[Alarm]:
    """R3: success below p*(g), where half of all groups are all equal."""
    track = tracks.success()
    if track is None:
        return []
    line = critical_success(tracks.group_size)
    seconds = _seconds_of_low_success(tracks, track.steps[-1], policy)
    first = (
        len(track.values) - 1
        if seconds and track.values[-1] < line
        else pooled_beyond(track, policy, lambda v: v < line, lambda mean, e: mean + e < line)
    )
    if first is None:
        return []
    return [
        raise_alarm(
            tracks,
            "R3",
            "success",
            track,
            first,
            value=track.values[first],
            line=line,
            message=f"success {track.values[first]:.3f} is below {line:.3f}, where half of the "
            f"groups of {tracks.group_size} are all equal; prompts of several difficulties can "
            "carry signal below it",
            group_size=tracks.group_size,
            group_size_is_assumed=tracks.facts.group_size is None,
            reward_scale=tracks.scale(),
            confirmed_by=seconds,
            above=False,
        )
    ]


def _seconds_of_low_success(tracks: Tracks, step: int, policy: MonitorPolicy) -> list[str]:
    """Which other inputs say at the same log that groups carry no signal."""
    seconds = []
    share, norm = tracks.get("zero_variance"), tracks.get("grad_norm")
    if (
        share is not None
        and tracks.few_groups is None
        and not tracks.facts.batch_scaled
        and share.steps[-1] == step
        and share.values[-1] >= policy.zero_variance_warn
    ):
        seconds.append("R4")
    if norm is not None and norm.steps[-1] == step and _is_gradient_gone(tracks, norm, policy):
        seconds.append("R5")
    return seconds


def zero_variance(
    tracks: Tracks, policy: MonitorPolicy, severity: Severity = Severity.WARN
) -> list[Alarm]:
    """R4: most groups or, where it is critical, nearly all carry no reward difference."""
    track, majority = tracks.get("zero_variance"), policy.zero_variance_warn
    line = majority if severity is Severity.WARN else policy.zero_variance_critical
    if track is None or tracks.facts.batch_scaled or track.values[-1] < line:
        return []
    seconds = _seconds_of_dead_groups(tracks, track.steps[-1], policy)
    first = (
        len(track.values) - 1
        if seconds
        else pooled_beyond(
            track,
            policy,
            lambda v: v >= line,
            lambda mean, e: mean >= line and mean - e >= majority,
        )
    )
    if first is None:
        return []
    return [
        raise_alarm(
            tracks,
            "R4",
            "zero_variance",
            track,
            first,
            value=track.values[first],
            line=line,
            severity=severity,
            message=f"{track.values[first]:.0%} of the groups carry no reward difference",
            confirmed_by=seconds,
        )
    ]


def _seconds_of_dead_groups(tracks: Tracks, step: int, policy: MonitorPolicy) -> list[str]:
    """Which other inputs say at the same log that groups carry no signal."""
    seconds = []
    success, norm = tracks.success(), tracks.get("grad_norm")
    critical = critical_success(tracks.group_size)
    is_low = success is not None and success.steps[-1] == step and success.values[-1] < critical
    if is_low and tracks.few_groups is None:
        seconds.append("R3")
    if norm is not None and norm.steps[-1] == step and _is_gradient_gone(tracks, norm, policy):
        seconds.append("R5")
    return seconds


def no_gradient(tracks: Tracks, policy: MonitorPolicy) -> list[Alarm]:
    """R5: the gradient norm is zero, or the run has diverged."""
    track = tracks.get("grad_norm")
    if track is None or not _is_gradient_gone(tracks, track, policy):
        return divergence(tracks, policy)
    first = run_beyond(track, lambda value: value < policy.zero_gradient)[0]
    return [
        raise_alarm(
            tracks,
            "R5",
            "grad_norm",
            track,
            first,
            value=track.values[first],
            line=policy.zero_gradient,
            severity=Severity.CRITICAL,
            message=f"the gradient norm is {track.values[-1]:.1g}: nothing is learnt",
            above=False,
        )
    ]


def _is_gradient_gone(tracks: Tracks, norm: Track, policy: MonitorPolicy) -> bool:
    """Whether the newest norm is zero, and not by the chance of a few groups.

    A norm is that of one step, also where the other columns are means over several, so that a share
    of dead groups below `MonitorPolicy.zero_variance_critical` is of other groups than the norm,
    which is that of one at least. Where all were dead so far nothing tells how many they are.
    """
    most = max(GONE_GROUPS, policy.sustained_logs)
    is_left = [value >= policy.zero_gradient for value in reversed(norm.values[-most:])]
    logs = is_left.index(True) if any(is_left) else len(is_left)
    share = None if tracks.facts.batch_scaled else tracks.get("zero_variance")
    if not logs or share is None or share.steps[-1] != norm.steps[-1]:
        return logs > 0
    groups = tracks.few_groups or GONE_GROUPS
    if groups == 1 and min(share.values) == 1.0:
        return logs >= policy.sustained_logs
    is_dead = share.values[-1] >= policy.zero_variance_critical
    return logs * (groups if is_dead else 1) >= GONE_GROUPS


def truncation(tracks: Tracks, policy: MonitorPolicy) -> list[Alarm]:
    """R6: too many completions are cut off, several logs in a row."""
    track = tracks.get("truncated")
    if track is None:
        return []
    run = run_beyond(track, lambda v: v > policy.truncated_share, policy.truncated_logs)
    if not run:
        return []
    return [
        raise_alarm(
            tracks,
            "R6",
            "truncated",
            track,
            run[0],
            value=track.values[run[0]],
            line=policy.truncated_share,
            message=f"{track.values[run[0]]:.0%} of the completions reach the token limit",
        )
    ]


def mismatch(tracks: Tracks, policy: MonitorPolicy) -> list[Alarm]:
    """R7: trainer and sampler disagree about the same tokens, several logs in a row."""
    for name, low, high, entry in mismatch_bands():
        track = tracks.get(name)
        if track is None:
            continue
        run = run_beyond(
            track,
            lambda v, low=low, high=high: not low <= v <= high,  # type: ignore[misc]
            policy.sustained_logs,
        )
        if not run:
            continue
        value = track.values[run[0]]
        line = low if value < low else high
        return [
            raise_alarm(
                tracks,
                "R7",
                name,
                track,
                run[0],
                value=value,
                line=line,
                message=f"{name} {value:.3g} is outside [{low:g}, {high:g}]",
                entry=entry,
                above=value > high,
            )
        ]
    return []


def mismatch_bands() -> list[tuple[Input, float, float, str]]:
    """Healthy band of each mismatch input, with the registry's entry that draws it."""
    health, infinity = threshold("verl_health").values, float("inf")
    nemo = threshold("nemo_health").values["prob_error"]
    return [
        ("is_mean", health["importance_low"], health["importance_high"], "verl_health"),
        ("is_ess", health["ess"], infinity, "verl_health"),
        ("is_std", -infinity, health["std"], "verl_health"),
        ("mismatch_kl", -health["kl"], health["kl"], "verl_health"),
        ("chi2_token", -infinity, health["chi2"], "verl_health"),
        ("prob_error", -infinity, nemo, "nemo_health"),
    ]


def length_explosion(tracks: Tracks, policy: MonitorPolicy) -> list[Alarm]:
    """R8: completions grow without success growing."""
    track, success = tracks.get("length"), tracks.success()
    if track is None or success is None:
        return []
    recent = success.values[-policy.sustained_logs :]
    mean = sum(recent) / len(recent)
    error = policy.noise_margin * success.noise() / len(recent) ** 0.5
    start = success.start(policy.drop_from_step)
    if mean + error >= start:
        return []
    before = track.start(policy.drop_from_step)
    run = run_beyond(track, lambda v: v > policy.length_growth * before, policy.sustained_logs)
    if not run or before <= 0.0:
        return []
    ratio = track.values[run[0]] / before
    return [
        raise_alarm(
            tracks,
            "R8",
            "length",
            track,
            run[0],
            value=ratio,
            line=policy.length_growth,
            message=f"completions are {ratio:.1f} times as long as at the start and success fell "
            f"from {start:.2f} to {mean:.2f}",
            baseline=before,
        )
    ]


RULES: dict[tuple[RuleId, Severity], Rule] = {
    ("R1", Severity.WARN): entropy_drop,
    ("R2", Severity.WARN): entropy_surge,
    ("R3", Severity.WARN): low_success,
    ("R4", Severity.WARN): zero_variance,
    ("R4", Severity.CRITICAL): partial(zero_variance, severity=Severity.CRITICAL),
    ("R5", Severity.CRITICAL): no_gradient,
    ("R6", Severity.WARN): truncation,
    ("R7", Severity.WARN): mismatch,
    ("R8", Severity.WARN): length_explosion,
}
"""What may be raised, once each; what stands is not asked again."""
