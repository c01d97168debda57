"""A run that has diverged: what its newest logs should say is no finite number any more.

A policy whose weights are NaN never comes back. A single log proves nothing (fp16 training skips a
step whose gradient overflows), and an entropy that never was finite may be that of masked logits.
"""

from mlflow_rlrisk.monitor.adapters import Input
from mlflow_rlrisk.monitor.alarms import Alarm, Severity
from mlflow_rlrisk.monitor.evidence import raise_alarm
from mlflow_rlrisk.monitor.policy import MonitorPolicy
from mlflow_rlrisk.monitor.tracks import Track, Tracks

DIVERGING: tuple[Input, ...] = ("grad_norm", "reward", "success", "entropy")
LOSS_SCALE_HALVINGS = 32
"""Steps that fp16 training may skip at its start: Megatron halves its loss scale from 2^32."""


def divergence(tracks: Tracks, policy: MonitorPolicy) -> list[Alarm]:
    """R5's second half: gradient norm, reward, success or entropy is NaN, several logs in a row.

    What is measured is the number of these logs.
    """
    found = {name: steps for name in DIVERGING if (steps := _undefined(name, tracks, policy))}
    if not found:
        return []
    name, steps = next(iter(found.items()))
    return [
        raise_alarm(
            tracks,
            "R5",
            name,
            Track(steps, []),
            0,
            value=float(len(steps)),
            line=float(len(steps)),
            severity=Severity.CRITICAL,
            message=f"{', '.join(found)}: NaN or infinite at {len(steps)} logs in a row: the run "
            "has diverged",
            source="definition: no update follows from a gradient that is no number",
            scope="every trainer",
            not_finite_since={each: since[0] for each, since in found.items()},
        )
    ]


def _undefined(name: Input, tracks: Tracks, policy: MonitorPolicy) -> list[int]:
    """Steps of the newest logs at which an input is no number, where they are enough."""
    steps = tracks.undefined.get(name, [])
    needed = policy.sustained_logs
    if tracks.get(name) is None:
        if name != "grad_norm":
            return []
        needed = max(needed, LOSS_SCALE_HALVINGS + 1)
    return list(steps) if len(steps) >= needed else []
