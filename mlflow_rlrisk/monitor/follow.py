"""Read, judge, tell, wait: a source watched until its run ends.

The whole log is read and judged anew each time. That gives the same alarms as judging row by row,
also after a restart of the run or of the watcher.
"""

import time
from collections.abc import Callable
from dataclasses import replace

from mlflow_rlrisk.errors import HistoryError
from mlflow_rlrisk.monitor.alarms import Alarm
from mlflow_rlrisk.monitor.judgement import Judgement
from mlflow_rlrisk.monitor.run import MonitorSettings, judge_rows
from mlflow_rlrisk.monitor.sources.points import HistorySource, NothingLoggedError, StoredLog
from mlflow_rlrisk.monitor.tracks import RunFacts

OUTAGE_LIMIT_S = 3600.0
"""A source that was read before and cannot be for so long ends the watch."""


def judge_source(source: HistorySource, settings: MonitorSettings) -> tuple[Judgement, StoredLog]:
    """Judge what a source holds; raises `HistoryError` where it cannot be read."""
    log = source.read()
    merged = replace(settings, facts=merged_facts(settings.facts, log.facts))
    judgement = judge_rows(log.rows, merged)
    return replace(judgement, notes=(*log.notes, *judgement.notes)), log


def merged_facts(stated: RunFacts, found: RunFacts) -> RunFacts:
    """What the user states goes before what the source knows."""
    return RunFacts(
        group_size=stated.group_size or found.group_size,
        reward_scale=stated.reward_scale or found.reward_scale,
        success_metric=stated.success_metric or found.success_metric,
        batch_scaled=stated.batch_scaled or found.batch_scaled,
        regularised=found.regularised if stated.regularised is None else stated.regularised,
        loss_agg_mode=stated.loss_agg_mode or found.loss_agg_mode,
    )


def follow(
    source: HistorySource,
    settings: MonitorSettings,
    *,
    on_judgement: Callable[[Judgement], None],
    on_alarm: Callable[[Alarm], None],
    on_outage: Callable[[HistoryError], None],
    poll_s: float,
) -> Judgement:
    """Judge a source again and again until its run has ended or the user interrupts.

    Most files do not say that their run has ended: they are watched until the user interrupts.
    A run outlives its tracking server's restarts and locks, so the watch does too.

    Args:
        source: What is watched.
        settings: How it is judged.
        on_judgement: Called after every reading that brought something new.
        on_alarm: Called once for each alarm, again where a restart of the run had taken it back.
        on_outage: Called once where a source that was read before cannot be, until it can again,
            and where a file holds no row yet.
        poll_s: Seconds between two readings.

    Raises:
        HistoryError: The source cannot be read at first, or not for `OUTAGE_LIMIT_S`.
    """
    told: set[tuple[str, str]] = set()
    last: Judgement | None = None
    last_read, is_out = time.monotonic(), False
    try:
        while True:
            try:
                judgement, log = judge_source(source, settings)
            except HistoryError as error:
                is_lost = last is None or time.monotonic() - last_read > OUTAGE_LIMIT_S
                if is_lost and not isinstance(error, NothingLoggedError):
                    raise
                if not is_out:
                    on_outage(error)
                is_out = True
                time.sleep(poll_s)
                continue
            last_read, is_out = time.monotonic(), False
            if last is None or judgement.steps != last.steps:
                on_judgement(judgement)
            last = judgement
            raised = {(alarm.rule, str(alarm.severity)): alarm for alarm in judgement.alarms}
            for key, alarm in raised.items():
                if key not in told:
                    on_alarm(alarm)
            told = set(raised)  # what a restart took back is told when it comes again
            if log.is_finished:
                return judgement
            time.sleep(poll_s)
    except KeyboardInterrupt:
        if last is None:
            raise
        return last
