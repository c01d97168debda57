"""Which RL runs the tracking server has: those that were judged, and those that look like one.

A run looks like RL where its metrics have the names by which a known trainer logs rewards. Names
and tags are foreign; nothing here is believed, only shown.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from mlflow_rlrisk.monitor.trainers import detect
from mlflow_rlrisk.sinks.monitor_run import ALARMS_TAG, MONITOR_TAG, MONITORED_AT_TAG
from service.registry.answers import answers

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

MAX_EXPERIMENTS = 1000
RUNS_READ = 200
"""Newest runs that are looked through; each comes with the last value of every metric."""
RUNS_SHOWN = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class RLRun:
    """An RL run as the list shows it.

    Attributes:
        trainer: Whose metric names it has; ``None`` where it was judged and has none by now.
        advice: What the monitor wrote to it; ``None`` where it was not judged.
        alarms: Likewise, such as ``R1@128 warn``.
        judged_at: When, as the tag says.
    """

    run_id: str
    name: str
    status: str
    started_at: datetime
    trainer: str | None
    advice: str | None
    alarms: str
    judged_at: str

    @property
    def level(self) -> str:
        """The advice as a level: ``high`` means stop."""
        if self.advice is None:
            return "unknown"
        if self.advice.startswith("stop"):
            return "high"
        return "low" if self.alarms in ("", "none") else "medium"


def rl_runs(client: "MlflowClient") -> list[RLRun]:
    """RL runs of all experiments, the newest first, at most `RUNS_SHOWN`.

    Raises:
        SinkError: The tracking server does not answer.
    """
    with answers("the runs"):
        experiments = client.search_experiments(max_results=MAX_EXPERIMENTS)
        places = [each.experiment_id for each in experiments]
        found = {run.run_id: run for run in _found(client, places)} if places else {}
    newest = sorted(found.values(), key=lambda run: run.started_at, reverse=True)
    return newest[:RUNS_SHOWN]


def _found(client: "MlflowClient", places: list[str]) -> Iterator[RLRun]:
    order = ["attributes.start_time DESC"]
    judged = f"tags.`{MONITORED_AT_TAG}` LIKE '%'"
    for run in client.search_runs(places, judged, max_results=RUNS_SHOWN, order_by=order):
        yield _run(run, _trainer(run))
    for run in client.search_runs(places, max_results=RUNS_READ, order_by=order):
        if (trainer := _trainer(run)) is not None:
            yield _run(run, trainer)


def _trainer(run: "Run") -> str | None:
    adapter = detect(run.data.metrics)
    if adapter is None or adapter.series_of("reward", set(run.data.metrics)) is None:
        return None  # supervised trainers log an entropy as well
    return adapter.name


def _run(run: "Run", trainer: str | None) -> RLRun:
    tags = run.data.tags
    return RLRun(
        run_id=run.info.run_id,
        name=run.info.run_name or run.info.run_id,
        status=run.info.status,
        started_at=datetime.fromtimestamp((run.info.start_time or 0) / 1000, UTC),
        trainer=trainer,
        advice=tags.get(MONITOR_TAG),
        alarms=tags.get(ALARMS_TAG, ""),
        judged_at=tags.get(MONITORED_AT_TAG, ""),
    )
