"""Where each rule stands: its last value, its margin, and when it will cross."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from mlflow_rlrisk.monitor.adapters import Input
from mlflow_rlrisk.monitor.alarms import LINES, TITLES, Alarm
from mlflow_rlrisk.monitor.entropy_rules import drop_baseline
from mlflow_rlrisk.monitor.missing import NEEDS, lack_of
from mlflow_rlrisk.monitor.policy import MonitorPolicy, RuleId
from mlflow_rlrisk.monitor.rules import mismatch_bands
from mlflow_rlrisk.monitor.tracks import Track, Tracks
from mlflow_rlrisk.monitor.trends import projected_crossing
from mlflow_rlrisk.statistics.groups import critical_success
from mlflow_rlrisk.thresholds import threshold


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleStatus:
    """Where one rule stands.

    Attributes:
        rule: Which.
        title: Its name.
        state: ``alarm``, ``ok``, ``missing`` (an input, or its newest value is no finite number) or
            ``pending`` (too early, or past).
        series: The trainer's own metric name.
        value: What the rule last measured.
        threshold: The line.
        margin: How far the value is from the line; positive is beyond it.
        projected_step: When it will cross, if it goes on like this.
        source: Who drew the line.
        scope: On what.
    """

    rule: RuleId
    title: str
    state: Literal["alarm", "ok", "missing", "pending"]
    series: str | None = None
    value: float | None = None
    threshold: float | None = None
    margin: float | None = None
    projected_step: int | None = None
    source: str = ""
    scope: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The state as JSON values."""
        return asdict(self)


def rule_states(
    tracks: Tracks | None,
    alarms: Sequence[Alarm],
    policy: MonitorPolicy,
    names: Collection[str],
) -> tuple[RuleStatus, ...]:
    """Where R1 to R8 stand at the end of what is logged, ``names`` being all logged names."""
    rules = [rule for rule in NEEDS if rule not in ("R9", "R10")]
    states = []
    for rule in rules:
        fired = next((a for a in reversed(alarms) if a.rule == rule), None)
        state = _state(rule, tracks, fired, policy)
        if tracks is not None and state.state != "missing":
            state = replace(state, series=_series(rule, tracks, names, fired))
        states.append(state)
    return tuple(states)


def _series(
    rule: RuleId, tracks: Tracks, names: Collection[str], fired: Alarm | None
) -> str | None:
    """The trainer's own name of what raised the alarm, else of what the rule looks at first."""
    raised = [] if fired is None else [fired.evidence["series"]]
    for name in (*raised, *NEEDS[rule]):
        if name in ("reward", "success") and tracks.facts.success_metric is not None:
            return tracks.facts.success_metric
        found = tracks.adapter.series_of(name, names)
        if found is not None:
            return found
    return tracks.adapter.series_of("success", names)


def _state(
    rule: RuleId, tracks: Tracks | None, fired: Alarm | None, policy: MonitorPolicy
) -> RuleStatus:
    line = threshold(LINES[rule])
    origin = line.source, line.scope
    if fired is not None:
        origin = fired.evidence["source"], fired.evidence["scope"]
    base: dict[str, Any] = {"rule": rule, "title": TITLES[rule]}
    base |= {"source": origin[0], "scope": origin[1]}
    lacks = tracks is None or lack_of(rule, tracks, policy) is not None
    if lacks and fired is None:
        return RuleStatus(state="missing", **base)
    raised = None if fired is None else fired.evidence["series"]
    measured = None if tracks is None or lacks else _measure(rule, tracks, policy, raised)
    if measured is not None:
        value, limit, above, crossing = measured
        margin = value - limit if above else limit - value
    elif fired is not None:
        value, limit, crossing = fired.value, fired.threshold, None
        margin = fired.evidence["margin"]
    else:
        return RuleStatus(state="pending", **base)
    return RuleStatus(
        state="ok" if fired is None else "alarm",
        value=value,
        threshold=limit,
        margin=margin,
        projected_step=crossing if fired is None else None,
        **base,
    )


_Measured = tuple[float, float, bool, int | None]
"""Value, line, whether above it is beyond it, projected step."""


def _measure(
    rule: RuleId, tracks: Tracks, policy: MonitorPolicy, raised: Input | None
) -> _Measured | None:
    """What a rule reads at the newest log, of the input that raised its alarm where one stands."""
    if rule == "R1":
        return _measure_drop(tracks, policy)
    if rule == "R2":
        return _measure_surge(tracks, policy)
    if rule == "R3":
        track, limit = tracks.success(), critical_success(tracks.group_size)
        return None if track is None else (track.values[-1], limit, False, _ahead(track, limit))
    simple: Mapping[str, tuple[Input, float, bool]] = {
        "R4": ("zero_variance", policy.zero_variance_warn, True),
        "R5": ("grad_norm", policy.zero_gradient, False),
        "R6": ("truncated", policy.truncated_share, True),
    }
    if rule in simple:
        name, limit, above = simple[rule]
        track = tracks.get(name) if raised in (None, name) else None
        crossing = None if track is None or rule == "R5" else _ahead(track, limit)
        return None if track is None else (track.values[-1], limit, above, crossing)
    if rule == "R7":
        return _measure_mismatch(tracks, NEEDS[rule] if raised is None else (raised,))
    if rule == "R8" and (track := tracks.get("length")) is not None:
        before = track.start(policy.drop_from_step)
        if before > 0.0:
            return track.values[-1] / before, policy.length_growth, True, None
    return None


def _ahead(track: Track, limit: float) -> int | None:
    return projected_crossing(track.steps, track.values, limit)


def _measure_mismatch(tracks: Tracks, names: Sequence[Input]) -> _Measured | None:
    """The first input that is there, against the nearer end of its band."""
    bands = {name: (low, high) for name, low, high, _ in mismatch_bands()}
    for name in names:
        track = tracks.get(name)
        if track is not None and name not in tracks.undefined:
            value, (low, high) = track.values[-1], bands[name]
            above = abs(high - value) <= abs(value - low)
            return value, high if above else low, above, None
    return None


def _measure_drop(tracks: Tracks, policy: MonitorPolicy) -> _Measured | None:
    track = tracks.comparable_entropy()
    before = drop_baseline(track, policy)
    if track is None or before is None:
        return None
    judged = [i for i, step in enumerate(track.steps) if step <= policy.drop_to_step]
    if not judged or track.steps[judged[-1]] <= policy.drop_from_step:
        return None
    end = judged[-1] + 1
    drop = (before - track.values[end - 1]) / before
    level = (1.0 - policy.entropy_drop) * before
    first = next(i for i, s in enumerate(track.steps) if s >= policy.drop_from_step)
    crossing = projected_crossing(
        track.steps[first:end], track.values[first:end], level, logarithmic=True
    )
    if crossing is not None and crossing > policy.drop_to_step:
        crossing = None
    return drop, policy.entropy_drop, True, crossing if end == len(track.steps) else None


def _measure_surge(tracks: Tracks, policy: MonitorPolicy) -> _Measured | None:
    track = tracks.comparable_entropy()
    if track is None or len(track.steps) < 2 or track.steps[-1] > policy.surge_until_step:
        return None
    before = track.start(policy.drop_from_step)
    if before <= 0.0:
        return None
    limit = policy.entropy_surge
    crossing = projected_crossing(track.steps, track.values, limit * before)
    return (
        track.values[-1] / before,
        limit,
        True,
        crossing if crossing is not None and crossing <= policy.surge_until_step else None,
    )
