"""A run judged row by row, or all at once: the same alarms.

`Monitor` takes rows as they are written. Where a row changes the past (a restart, a late line, a
name that tells another trainer) everything from there on is judged again, so that its answer is at
any time that of `judge_rows` on the same rows.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from mlflow_rlrisk.monitor.adapters import Adapter
from mlflow_rlrisk.monitor.alarms import Alarm, Severity
from mlflow_rlrisk.monitor.history import History, LogRow
from mlflow_rlrisk.monitor.judgement import Judgement, summarize_run
from mlflow_rlrisk.monitor.policy import MonitorPolicy, RuleId
from mlflow_rlrisk.monitor.rules import RULES
from mlflow_rlrisk.monitor.tracks import RunFacts, Tracks
from mlflow_rlrisk.monitor.trainers import ADAPTERS, KNOWN, adapter_name, detect


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorSettings:
    """How a log is read and judged.

    Attributes:
        trainer: Whose names the log has; ``None`` tells it from the names.
        policy: Where the lines are.
        facts: What the log does not say.
    """

    trainer: str | None = None
    policy: MonitorPolicy = field(default_factory=MonitorPolicy)
    facts: RunFacts = field(default_factory=RunFacts)

    @property
    def adapter(self) -> Adapter | None:
        """The adapter of the trainer that is stated; raises `ConfigError` for an unknown one."""
        return None if self.trainer is None else ADAPTERS[adapter_name(self.trainer)]


@dataclass(slots=True)
class _Pass:
    """One pass over rows: the columns and the alarms so far."""

    tracks: Tracks
    policy: MonitorPolicy
    alarms: dict[tuple[RuleId, Severity], Alarm] = field(default_factory=dict)

    def extend(self, row: LogRow) -> list[Alarm]:
        values = self.tracks.adapter.read(row.metrics)
        direct = self.tracks.facts.success_metric
        if direct is not None:
            values.pop("success", None)
            if direct in row.metrics:
                values["success"] = row.metrics[direct]
        if not values:
            return []
        self.tracks.extend(row.step, values)
        open_ = [rule for key, rule in RULES.items() if key not in self.alarms]
        raised = [alarm for rule in open_ for alarm in rule(self.tracks, self.policy)]
        self.alarms |= {(alarm.rule, alarm.severity): alarm for alarm in raised}
        return raised


class Monitor:
    """Judges a run while it goes on."""

    def __init__(self, settings: MonitorSettings | None = None) -> None:
        self.settings = settings or MonitorSettings()
        self.history = _history(self.settings)
        self._names: set[str] = set()
        self._num_judged = 0
        self._pass: _Pass | None = None

    def update(self, row: LogRow) -> list[Alarm]:
        """Take a row; returns the alarms that it raised."""
        changed, rows = self.history.add(row), self.history.rows
        if changed == len(rows):
            return []
        is_next = changed == self._num_judged == len(rows) - 1
        self._names = self._names | rows[-1].metrics.keys() if is_next else self.history.names()
        adapter, self._num_judged = _adapter(self.settings, self._names), len(rows)
        if is_next and self._pass is not None and adapter is self._pass.tracks.adapter:
            return self._pass.extend(rows[-1])
        before = set(self._pass.alarms) if self._pass else set()
        self._pass = _run_over(self.history, adapter, self.settings)
        alarms = self._pass.alarms if self._pass else {}
        return [alarm for key, alarm in alarms.items() if key not in before]

    def result(self) -> Judgement:
        """The judgement of everything so far."""
        return _judgement(self._pass, self.history, self.settings)


def judge_rows(rows: Iterable[LogRow], settings: MonitorSettings | None = None) -> Judgement:
    """Judge a stored log.

    Args:
        rows: In the order of writing.
        settings: How to read and judge it.
    """
    chosen = settings or MonitorSettings()
    history = _history(chosen)
    for row in rows:
        history.add(row)
    adapter = _adapter(chosen, history.names())
    return _judgement(_run_over(history, adapter, chosen), history, chosen)


def _history(settings: MonitorSettings) -> History:
    stated = settings.facts.success_metric
    return History(read=KNOWN if stated is None else KNOWN | {stated})


def _adapter(settings: MonitorSettings, names: set[str]) -> Adapter | None:
    return settings.adapter or detect(names)


def _run_over(history: History, adapter: Adapter | None, settings: MonitorSettings) -> _Pass | None:
    if adapter is None:
        return None
    judged = _Pass(Tracks(adapter, settings.facts), settings.policy)
    for row in history.rows:
        judged.extend(row)
    return judged


def _judgement(judged: _Pass | None, history: History, settings: MonitorSettings) -> Judgement:
    return summarize_run(
        None if judged is None else judged.tracks,
        history,
        [] if judged is None else list(judged.alarms.values()),
        settings.policy,
    )
