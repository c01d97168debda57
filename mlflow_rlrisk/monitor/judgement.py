"""The judgement of a run: alarms, what could not be judged, whether to stop, the outcome."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlflow_rlrisk.errors import StatisticsError
from mlflow_rlrisk.monitor.advice import Advice, advise
from mlflow_rlrisk.monitor.alarms import Alarm, Severity
from mlflow_rlrisk.monitor.divergence import divergence
from mlflow_rlrisk.monitor.history import History
from mlflow_rlrisk.monitor.missing import Missing, missing_inputs
from mlflow_rlrisk.monitor.outcome import RunOutcome, run_outcome
from mlflow_rlrisk.monitor.policy import MonitorPolicy
from mlflow_rlrisk.monitor.status import RuleStatus, rule_states
from mlflow_rlrisk.monitor.tracks import DEFAULT_GROUP_SIZE, RANGES, Track, Tracks
from mlflow_rlrisk.plurals import counted
from mlflow_rlrisk.statistics.dynamics import EntropyLaw, fit_entropy_law
from mlflow_rlrisk.statistics.groups import critical_success

CORROBORATED = ({"R1", "R4"}, {"R1", "R5"}, {"R2", "R4"}, {"R3", "R4"})
"""Warnings that stop a run together; each alone is of low specificity."""
UNKNOWN_TRAINER = "no metric of a known trainer is in the log: state --trainer, or see"


@dataclass(frozen=True, slots=True, kw_only=True)
class StopAdvice:
    """Whether the run should be stopped.

    Attributes:
        step: From which step on; ``None`` for no.
        reason: Which alarms say so.
    """

    step: int | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """Everything that is said of a run.

    Attributes:
        trainer: Whose names the log has; ``None`` where they are not known.
        alarms: In the order in which they were sure.
        missing: Rules that cannot be judged, or no longer, each with what it lacks.
        rules: State of every rule.
        notes: What was mended in the log, and what was assumed.
        stop: Whether to stop.
        outcome: Peak, final and the rest; ``None`` without rewards, and where the newest are no
            finite numbers and nothing says that the run failed.
        entropy_law: The fitted law, or ``None``.
        entropy_law_refused: Why there is no law.
        advice: What may help, for the alarms that stand.
        steps: First and last step; ``None`` for an empty log.
        num_logs: Rows that count.
        identity: What the run is known by where it has no id: digests of its first rows.
        group_size: Rollouts a prompt and step; ``None`` where nothing says it.
        curves: Entropy, success, zero-variance share and the other columns that are what their
            name says.
    """

    trainer: str | None
    alarms: tuple[Alarm, ...]
    missing: tuple[Missing, ...]
    rules: tuple[RuleStatus, ...]
    notes: tuple[str, ...]
    stop: StopAdvice
    outcome: RunOutcome | None
    entropy_law: EntropyLaw | None
    entropy_law_refused: str | None
    advice: tuple[Advice, ...]
    steps: tuple[int, int] | None
    num_logs: int
    identity: str
    group_size: int | None
    curves: Mapping[str, Track]

    def to_dict(self) -> dict[str, Any]:
        """The judgement as JSON values."""
        law = self.entropy_law
        return {
            "trainer": self.trainer,
            "alarms": [alarm.to_dict() for alarm in self.alarms],
            "missing": [each.to_dict() for each in self.missing],
            "rules": [each.to_dict() for each in self.rules],
            "notes": list(self.notes),
            "stop": {"advised": self.stop.step is not None, **_fields(self.stop)},
            "outcome": self.outcome.to_dict() if self.outcome else None,
            "entropy_law": None if law is None else _fields(law),
            "entropy_law_refused": self.entropy_law_refused,
            "advice": [each.to_dict() for each in self.advice],
            "first_step": self.steps[0] if self.steps else None,
            "last_step": self.steps[1] if self.steps else None,
            "num_logs": self.num_logs,
        }


def _fields(record: Any) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__slots__}


def summarize_run(
    tracks: Tracks | None, history: History, alarms: Sequence[Alarm], policy: MonitorPolicy
) -> Judgement:
    """Put together what is said of a run.

    Args:
        tracks: Its columns; ``None`` where no trainer's names were recognised.
        history: Its log.
        alarms: What the rules raised.
        policy: Where the lines are.
    """
    ordered = tuple(
        sorted(alarms, key=lambda a: (a.confirmed_step, int(a.rule[1:]), a.severity == "critical"))
    )
    stop = stop_advice(ordered, policy)
    law, refused = _law(tracks)
    rows = history.rows
    notes = [*history.notes(), *_assumptions(tracks)]
    if tracks is None and rows:
        names = ", ".join(sorted(history.names())[:12])
        notes.append(f"{UNKNOWN_TRAINER} ({names})" if names else "no metric is in the log")
    return Judgement(
        trainer=None if tracks is None else tracks.adapter.name,
        alarms=ordered,
        missing=missing_inputs(tracks, policy),
        rules=rule_states(tracks, ordered, policy, history.names()),
        notes=tuple(notes),
        stop=stop,
        outcome=_outcome(tracks, policy, is_stopped=stop.step is not None),
        entropy_law=law,
        entropy_law_refused=refused,
        advice=advise(ordered),
        steps=(rows[0].step, rows[-1].step) if rows else None,
        num_logs=len(rows),
        identity=history.identity(),
        group_size=None if tracks is None else tracks.facts.group_size,
        curves=_curves(tracks),
    )


def stop_advice(alarms: Sequence[Alarm], policy: MonitorPolicy) -> StopAdvice:
    """Stop at the first critical alarm, corroborated pair of warnings, or rule of ``stop_on``.

    Args:
        alarms: In the order in which they were sure.
        policy: ``stop_on`` names rules that stop on their own.
    """
    raised: dict[str, int] = {}
    for alarm in alarms:
        raised.setdefault(alarm.rule, alarm.confirmed_step)
        if alarm.severity is Severity.CRITICAL:
            return StopAdvice(step=alarm.confirmed_step, reason=f"{alarm.rule} is critical")
        if alarm.rule in policy.stop_on:
            return StopAdvice(step=alarm.confirmed_step, reason=f"{alarm.rule} stops by policy")
        for pair in CORROBORATED:
            if alarm.rule in pair and pair <= raised.keys():
                together = " and ".join(sorted(pair))
                return StopAdvice(
                    step=alarm.confirmed_step, reason=f"{together} corroborate each other"
                )
    return StopAdvice(step=None, reason="no alarm that stops a run")


def _outcome(
    tracks: Tracks | None, policy: MonitorPolicy, *, is_stopped: bool
) -> RunOutcome | None:
    if tracks is None:
        return None
    collapsed = is_stopped and not _is_solved(tracks, policy)
    track, quantity = tracks.success(), "success"
    if track is None:
        track, quantity = tracks.get("reward"), "reward"
    undefined = tracks.undefined.get(tracks.reward_input, [])
    if track is None or (undefined and not collapsed):
        return None
    steps, values = track
    if undefined and divergence(tracks, policy):
        floor = 0.0 if quantity == "success" else min(values)
        steps, values = [*steps, *undefined], [*values, *[floor] * len(undefined)]
    return run_outcome(steps, values, quantity=quantity, collapsed=collapsed)


def _is_solved(tracks: Tracks, policy: MonitorPolicy) -> bool:
    """Whether groups carry no signal because nearly all is right: success above 1 - p*(g)."""
    track = tracks.success()
    if track is None or tracks.reward_input in tracks.undefined or divergence(tracks, policy):
        return False
    recent = track.values[-policy.sustained_logs :]
    return sum(recent) / len(recent) > 1.0 - critical_success(tracks.group_size)


def _curves(tracks: Tracks | None) -> dict[str, Track]:
    if tracks is None:
        return {}
    curves: dict[str, Track] = dict(tracks.columns.items())
    if tracks.comparable_entropy() is None:
        curves.pop("entropy", None)
    if tracks.facts.batch_scaled:
        curves.pop("zero_variance", None)
    if (success := tracks.success()) is not None:
        curves["success"] = success
    return curves


def _law(tracks: Tracks | None) -> tuple[EntropyLaw | None, str | None]:
    """R9: the law over the logs that have both, or why it is refused."""
    entropy = None if tracks is None else tracks.comparable_entropy()
    if tracks is None or entropy is None:
        return None, "no entropy is logged that a curve could be drawn through"
    if tracks.is_regularised:
        return None, "an entropy or KL bonus is active: the law holds without one only"
    reward = tracks.success() or tracks.get("reward")
    if reward is None:
        return None, "no reward is logged"
    by_step = dict(zip(reward.steps, reward.values, strict=True))
    pairs = [
        (h, by_step[step])
        for step, h in zip(entropy.steps, entropy.values, strict=True)
        if step in by_step
    ]
    try:
        return fit_entropy_law([h for h, _ in pairs], [r for _, r in pairs]), None
    except StatisticsError as error:
        return None, str(error)


def _assumptions(tracks: Tracks | None) -> list[str]:
    if tracks is None:
        return []
    notes = [
        f"out of range: {counted(count, f'value of {name} is', f'values of {name} are')} not "
        f"within {RANGES[name][0]:g} and "
        f"{RANGES[name][1]:g} and left out"
        for name, count in tracks.out_of_range.items()
    ]
    stated = tracks.facts.reward_scale
    if stated is not None and tracks.scale() is None:
        notes.append(
            f"rewards lie beyond the stated {stated[0]:g} (wrong) and {stated[1]:g} (right): no "
            "success rate is made of them"
        )
    if tracks.facts.group_size is None and tracks.success() is not None:
        notes.append(f"groups of {DEFAULT_GROUP_SIZE} are assumed; state yours with --group-size")
    if tracks.reward_input == "reward" and (stated, tracks.facts.success_metric) == (None, None):
        scale = tracks.scale()
        if scale is not None and tracks.get("reward") is not None:
            notes.append(
                f"rewards are taken for {scale[0]:g} (wrong) and {scale[1]:g} (right); "
                "state others with --reward-scale"
            )
    return notes
