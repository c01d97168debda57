"""R1 and R2: entropy that collapses and entropy that surges, each against the run's own start.

Ratios within one series, so that they hold whatever the trainer's estimator, as long as it does
not mix the length of completions into it.
"""

from bisect import bisect_right

from mlflow_rlrisk.monitor.alarms import Alarm
from mlflow_rlrisk.monitor.evidence import raise_alarm, run_beyond
from mlflow_rlrisk.monitor.policy import BASELINE_HALF_WIDTH, MonitorPolicy
from mlflow_rlrisk.monitor.tracks import Track, Tracks
from mlflow_rlrisk.monitor.trends import end_value, line_through, value_at

BASELINE_REACH = 10
"""R1's start must be logged within this many steps of where it belongs."""


def entropy_drop(tracks: Tracks, policy: MonitorPolicy) -> list[Alarm]:
    """R1: ``(H_a - H_b) / H_a`` above the line, with ``a`` early and ``b`` at most a given step.

    Three logs in a row beyond it and a local line that is beyond it too; at the last step that is
    judged the local line alone decides, as in the study (arXiv:2606.18487).
    """
    track = tracks.comparable_entropy()
    before = drop_baseline(track, policy)
    if track is None or before is None:
        return []
    now, last = track.steps[-1], policy.drop_to_step
    if now > last:
        return _drop_at_the_end(tracks, track, before, policy)
    drops = [(before - v) / before for v in track.values[-policy.sustained_logs :]]
    smooth = (before - end_value(track.steps, track.values)) / before
    run = run_beyond(track, lambda v: (before - v) / before > policy.entropy_drop)
    run = [i for i in run if track.steps[i] > policy.drop_from_step]
    in_end_window = now >= last - BASELINE_HALF_WIDTH and drops[-1] > policy.entropy_drop
    if smooth <= policy.entropy_drop or not (len(run) >= policy.sustained_logs or in_end_window):
        return []
    first = run[0]
    return [_drop_alarm(tracks, track, first, before, policy)]


def drop_baseline(track: Track | None, policy: MonitorPolicy) -> float | None:
    """R1's ``H_a``; ``None`` until it is complete, or where that part of the run was not logged."""
    if track is None or track.steps[-1] <= policy.drop_from_step:
        return None
    start, half = policy.drop_from_step, BASELINE_HALF_WIDTH
    if track.steps[-1] < start + half:
        return None
    # Nothing beyond it bears on the start, and logs may be long.
    end = bisect_right(track.steps, start + BASELINE_REACH)
    steps, values = track.steps[:end], track.values[:end]
    if not steps or start - steps[-1] > BASELINE_REACH:
        return None
    value = value_at(steps, values, start, half)
    return value if value > 0.0 else None


def _drop_at_the_end(
    tracks: Tracks, track: Track, before: float, policy: MonitorPolicy
) -> list[Alarm]:
    """The study's comparison where no log lies close before the last step that is judged."""
    last = policy.drop_to_step
    judged_near = last - BASELINE_HALF_WIDTH
    if len(track.steps) < 2 or not policy.drop_from_step < track.steps[-2] < judged_near:
        return []
    nearest = -2 if last - track.steps[-2] <= track.steps[-1] - last else -1
    index = len(track.steps) + nearest
    if (before - track.values[index]) / before <= policy.entropy_drop:
        return []
    return [_drop_alarm(tracks, track, index, before, policy)]


def _drop_alarm(
    tracks: Tracks, track: Track, first: int, before: float, policy: MonitorPolicy
) -> Alarm:
    drop = (before - track.values[first]) / before
    return raise_alarm(
        tracks,
        "R1",
        "entropy",
        track,
        first,
        value=drop,
        line=policy.entropy_drop,
        message=f"entropy fell by {drop:.0%} since step {policy.drop_from_step}, from {before:.3g} "
        f"to {track.values[first]:.3g} nats",
        baseline=before,
    )


def _surge_baseline(track: Track, policy: MonitorPolicy) -> float:
    """What entropy rose from: the median of the first logs, or less where they rise already.

    Of a rise that begins with the run that median is half way up; the line through its first logs
    tells where it began, if it rises by more than their noise.
    """
    middle = track.start(policy.drop_from_step)
    first = max(bisect_right(track.steps, policy.drop_from_step), policy.sustained_logs)
    line = line_through(track.steps[:first], track.values[:first])
    if line is None or line.slope <= policy.noise_margin * line.slope_error:
        return middle
    return min(middle, max(line.at(track.steps[0]), min(track.values[:first])))


def entropy_surge(tracks: Tracks, policy: MonitorPolicy) -> list[Alarm]:
    """R2: entropy at twice its start or more, early in the run.

    Of a few groups the entropy is that of their prompts: several logs in a row are needed then.
    """
    track = tracks.comparable_entropy()
    if track is None or len(track.steps) < 2 or track.steps[-1] > policy.surge_until_step:
        return []
    needed = policy.sustained_logs if tracks.few_groups else 1
    before = _surge_baseline(track, policy)
    run = run_beyond(track, lambda v: v >= policy.entropy_surge * before, needed)
    if before <= 0.0 or not run:
        return []
    first = len(track.steps) - needed
    ratio = track.values[first] / before
    return [
        raise_alarm(
            tracks,
            "R2",
            "entropy",
            track,
            first,
            value=ratio,
            line=policy.entropy_surge,
            message=f"entropy rose to {ratio:.2f} times its start, from {before:.3g} to "
            f"{track.values[first]:.3g} nats",
            baseline=before,
        )
    ]
