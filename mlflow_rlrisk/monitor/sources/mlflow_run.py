"""The metrics and settings of an MLflow run, live or finished."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from mlflow_rlrisk.errors import HistoryError
from mlflow_rlrisk.monitor.sources.points import Point, StoredLog, rows_from_points
from mlflow_rlrisk.monitor.tracks import RunFacts, scales_by_batch
from mlflow_rlrisk.monitor.trainers import KNOWN

if TYPE_CHECKING:
    from mlflow import MlflowClient

FINISHED = ("FINISHED", "FAILED", "KILLED")


class MlflowRunSource:
    """One run of the tracking server in use."""

    def __init__(
        self,
        run_id: str,
        *,
        extra_metric: str | None = None,
        client: "MlflowClient | None" = None,
    ) -> None:
        self.run_id = run_id
        self.extra_metric = extra_metric
        self._client = client

    @property
    def title(self) -> str:
        """The run."""
        return f"run {self.run_id}"

    def read(self) -> StoredLog:
        """Everything that is logged by now; raises `HistoryError` where MLflow refuses."""
        import mlflow
        from mlflow.exceptions import MlflowException

        client = self._client or mlflow.MlflowClient()
        try:
            run = client.get_run(self.run_id)
            # The status first: what is logged before the run ends is read after it.
            is_finished = run.info.status in FINISHED
            points = self._points(client, run.data.metrics)
        except (MlflowException, OSError) as error:
            text = error.message if isinstance(error, MlflowException) else str(error)
            raise HistoryError(f"run {self.run_id} cannot be read: {text}") from error
        return StoredLog(
            rows=rows_from_points(points),
            facts=facts_from_params(run.data.params),
            is_finished=is_finished,
        )

    def _points(self, client: "MlflowClient", metrics: Mapping[str, float]) -> list[Point]:
        wanted = [name for name in metrics if name in KNOWN or name == self.extra_metric]
        return [
            Point(float(each.timestamp), int(each.step), name, float(each.value))
            for name in wanted
            for each in client.get_metric_history(self.run_id, name)
        ]


def facts_from_params(params: Mapping[str, str]) -> RunFacts:
    """What TRL and verl log of their settings, as far as the rules need it.

    >>> facts_from_params({"num_generations": "16", "beta": "0.04"}).regularised
    True
    """
    given = {name.replace("/", "."): value for name, value in params.items()}
    actor = "actor_rollout_ref.actor"
    bonuses = [
        number
        for name in ("beta", "entropy_coef", f"{actor}.entropy_coeff")
        if (number := _number(given.get(name))) is not None
    ]
    uses = [
        given.get(name, "").lower() == "true"
        for name in (f"{actor}.use_kl_loss", "algorithm.use_kl_in_reward", "use_adaptive_entropy")
        if name in given
    ]
    size = _number(given.get("num_generations") or given.get("actor_rollout_ref.rollout.n"))
    return RunFacts(
        group_size=int(size) if size is not None and 2 <= size < math.inf else None,
        batch_scaled=scales_by_batch(given),
        regularised=any(uses) or any(b != 0.0 for b in bonuses) if bonuses or uses else None,
        loss_agg_mode=given.get(f"{actor}.loss_agg_mode"),
    )


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None
