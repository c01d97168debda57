"""When a noisy column is beyond a line, and the alarm that says so with all its evidence."""

from collections.abc import Callable
from typing import Any

from mlflow_rlrisk.monitor.adapters import Input
from mlflow_rlrisk.monitor.alarms import LINES, TITLES, Alarm, Severity
from mlflow_rlrisk.monitor.policy import MonitorPolicy, RuleId
from mlflow_rlrisk.monitor.tracks import Track, Tracks
from mlflow_rlrisk.thresholds import threshold

POOLS = (3, 5, 10, 20)
"""Logs whose mean R3 and R4 hold against the line, the smallest pool that suffices."""


def run_beyond(track: Track, is_beyond: Callable[[float], bool], needed: int = 1) -> list[int]:
    """Indices of the newest logs, without a break, that are beyond a line; none of too few."""
    newest = track.values[-needed:]
    if len(newest) < needed or not all(map(is_beyond, newest)):
        return []
    first = len(track.values)
    while first and is_beyond(track.values[first - 1]):
        first -= 1
    return list(range(first, len(track.values)))


def pooled_beyond(
    track: Track,
    policy: MonitorPolicy,
    is_beyond: Callable[[float], bool],
    holds: Callable[[float, float], bool],
) -> int | None:
    """Start of the stretch beyond the line, where a pool of newest logs is, noise aside."""
    values = track.values
    sustained = policy.sustained_logs
    if len(values) < sustained or not all(is_beyond(v) for v in values[-sustained:]):
        return None
    noise = track.noise()
    for pool in sorted({sustained, *(size for size in POOLS if size > sustained)}):
        recent = values[-pool:]
        if len(recent) == pool and holds(
            sum(recent) / pool, policy.noise_margin * noise / pool**0.5
        ):
            first = len(values) - pool + next(i for i, v in enumerate(recent) if is_beyond(v))
            while first and is_beyond(values[first - 1]):
                first -= 1
            return first
    return None


def raise_alarm(
    tracks: Tracks,
    rule: RuleId,
    name: Input,
    track: Track,
    first: int,
    *,
    value: float,
    line: float,
    message: str,
    severity: Severity = Severity.WARN,
    above: bool = True,
    entry: str | None = None,
    **more: Any,
) -> Alarm:
    """Build an alarm and its evidence.

    Args:
        tracks: The run.
        rule: Which rule.
        name: The input it looked at.
        track: Its column, or what was made of it.
        first: Index of the first log beyond the line; the alarm is sure at the newest one.
        value: What the rule measured at ``first``.
        line: The threshold.
        message: One sentence.
        severity: How bad.
        above: Whether above the line is beyond it.
        entry: Entry of the threshold registry, where it is not the rule's usual one.
        **more: Further evidence.
    """
    origin = threshold(entry or LINES[rule])
    kind = {}
    if name == "entropy":
        entropy = tracks.adapter.entropy
        kind = {
            "estimator": entropy.estimator,
            "temperature": entropy.temperature,
            "aggregation": entropy.aggregation,
        }
    evidence = {
        "title": TITLES[rule],
        "message": message,
        "series": name,
        "window": [track.steps[first], track.steps[-1]],
        "num_logs": len(track.steps) - first,
        "confirmed_step": track.steps[-1],
        "margin": value - line if above else line - value,
        "source": origin.source,
        "scope": origin.scope,
        **kind,
        **more,
    }
    return Alarm(
        rule=rule,
        step=track.steps[first],
        severity=severity,
        value=value,
        threshold=line,
        evidence=evidence,
    )
