"""`RLRiskCallback`: the monitor inside a TRL run.

This module is loaded by whoever trains with transformers, and by nothing else of the package.
"""

import logging
import math
from collections.abc import Mapping
from typing import Any, Literal

from transformers import TrainerCallback

from mlflow_rlrisk.errors import ConfigError
from mlflow_rlrisk.monitor.alarms import Alarm
from mlflow_rlrisk.monitor.history import LogRow
from mlflow_rlrisk.monitor.judgement import Judgement
from mlflow_rlrisk.monitor.policy import PolicyLike, monitor_policy
from mlflow_rlrisk.monitor.run import Monitor, MonitorSettings
from mlflow_rlrisk.monitor.tracks import RunFacts, scales_by_batch
from mlflow_rlrisk.monitor.wording import alarm_line, no_outcome

logger = logging.getLogger(__name__)


class RLRiskCallback(TrainerCallback):
    """Watches a `GRPOTrainer` run: warns, or stops it with its checkpoint kept.

    Alarms go to the log of this module and, where the run is logged to MLflow, onto that run; at
    the end the annotated chart and, where ``model`` is given, the outcome on the SFT version. An
    error of the monitor itself is logged and never breaks the training.

    Example:
        ``GRPOTrainer(..., callbacks=[RLRiskCallback(action="stop", model="models:/sft/3")])``
    """

    def __init__(
        self,
        policy: PolicyLike = None,
        action: Literal["warn", "stop"] = "warn",
        *,
        model: str | None = None,
        reward_scale: tuple[float, float] | None = None,
        success_metric: str | None = None,
    ) -> None:
        """Check the settings; this is the one place that may raise.

        Args:
            policy: Where the lines are: a `MonitorPolicy`, its settings, or a YAML file.
            action: ``stop`` ends the run where `Judgement.stop` advises it.
            model: The SFT version that the run starts from; gets the outcome.
            reward_scale: Rewards of a wrong and a right answer, where they are not told.
            success_metric: A logged metric that is a success rate.

        Raises:
            ConfigError: A setting is unusable.
        """
        if action not in ("warn", "stop"):
            raise ConfigError("action", action, "must be warn or stop")
        self.action = action
        self.model = model
        self._policy = monitor_policy(policy)
        self._facts = RunFacts(reward_scale=reward_scale, success_metric=success_metric)
        self._monitor = Monitor(MonitorSettings(trainer="trl", policy=self._policy))
        self._run_id: str | None = None
        self.stopped_at: int | None = None

    @property
    def alarms(self) -> tuple[Alarm, ...]:
        """The alarms so far, in the order in which they were sure."""
        return self.judgement.alarms

    @property
    def judgement(self) -> Judgement:
        """The judgement of the run so far."""
        return self._monitor.result()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Learn the run's settings and, where it is resumed, what it logged before."""
        self._guarded(self._begin, args)
        self._guarded(self._recall, state)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Judge what was logged; stop the run where that is due and wanted.

        Every process of a distributed run judges, for they all have to stop; one writes.
        """
        self._guarded(self._judge, state, control, logs or {})

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Leave alarms, chart and outcome in MLflow."""
        if state.is_world_process_zero:
            self._guarded(self._finish)

    def _guarded(self, function: Any, *arguments: Any) -> None:
        """Call a step of the monitor; whatever goes wrong in it must not cost a training run."""
        try:
            function(*arguments)
        except Exception:
            logger.warning("rlrisk: the monitor failed; training goes on", exc_info=True)

    def _begin(self, args: Any) -> None:
        self._run_id = self.stopped_at = None  # of a run before that the same callback watched
        coefficients = [getattr(args, name, 0.0) for name in ("beta", "entropy_coef")]
        adaptive = bool(getattr(args, "use_adaptive_entropy", False))
        size = getattr(args, "num_generations", None)
        facts = RunFacts(
            group_size=size if isinstance(size, int) and size >= 2 else None,
            reward_scale=self._facts.reward_scale,
            success_metric=self._facts.success_metric,
            batch_scaled=scales_by_batch(vars(args)),
            regularised=adaptive or any(value for value in coefficients),
        )
        self._monitor = Monitor(MonitorSettings(trainer="trl", policy=self._policy, facts=facts))

    def _recall(self, state: Any) -> None:
        """Judge the logs before the checkpoint, whose alarms the run was told of when they came."""
        for logs in getattr(state, "log_history", None) or ():
            step, metrics = logs.get("step"), _numbers(logs)
            if isinstance(step, int) and step <= state.global_step:
                self._monitor.update(LogRow(step, metrics))

    def _judge(self, state: Any, control: Any, logs: Mapping[str, Any]) -> None:
        metrics = _numbers(logs)
        if not metrics:
            return
        if state.is_world_process_zero:
            self._run_id = self._run_id or _active_run()
        alarms = self._monitor.update(LogRow(int(state.global_step), metrics))
        for alarm in alarms:
            logger.warning("rlrisk: %s", alarm_line(alarm))
        if not alarms:
            return
        judgement = self.judgement
        if self.action == "stop" and judgement.stop.step is not None and self.stopped_at is None:
            self.stopped_at = int(state.global_step)
            control.should_save = True
            control.should_training_stop = True
            logger.warning(
                "rlrisk: stopped after step %d, checkpoint kept: %s",
                self.stopped_at,
                judgement.stop.reason,
            )
        if self._run_id is not None:
            self._guarded(_tag_run, self._run_id, judgement)

    def _finish(self) -> None:
        judgement = self.judgement
        if self._run_id is not None:
            from mlflow_rlrisk.sinks.monitor_run import log_judgement

            self._guarded(log_judgement, self._run_id, judgement)
        if self.model is None:
            return
        if judgement.outcome is None:
            logger.warning("rlrisk: %s: %s", self.model, no_outcome(judgement))
            return
        from mlflow_rlrisk.sinks.version_outcome import record_outcome

        record_outcome(self.model, judgement.outcome, run=self._run_id or judgement.identity)


def _numbers(logs: Mapping[str, Any]) -> dict[str, float]:
    """What is a number among logs, the step aside; TRL logs ``None`` where all was NaN."""
    return {
        name: math.nan if value is None else float(value)
        for name, value in logs.items()
        if isinstance(value, int | float | None) and not isinstance(value, bool) and name != "step"
    }


def _active_run() -> str | None:
    """The MLflow run that the trainer logs to, if it does."""
    import sys

    mlflow = sys.modules.get("mlflow")
    run = mlflow.active_run() if mlflow is not None else None
    return None if run is None else str(run.info.run_id)


def _tag_run(run_id: str, judgement: Judgement) -> None:
    import mlflow

    from mlflow_rlrisk.sinks.monitor_run import judgement_tags

    client = mlflow.MlflowClient()
    for key, value in judgement_tags(judgement).items():
        client.set_tag(run_id, key, value)
