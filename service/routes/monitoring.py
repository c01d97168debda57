"""``POST /v1/runs/{run_id}/monitor``: judge an RL run that is logged in MLflow."""

import re

from flask import Blueprint
from spectree import Response as Answers

from mlflow_rlrisk import ConfigError, MlflowRunSource, RLRiskError, judge_source, log_judgement
from mlflow_rlrisk.monitor import Judgement, MonitorSettings, RunFacts
from service.auth import caller, requires
from service.openapi import API
from service.problems import FieldFault, Problem, without_paths
from service.registry.bounded_calls import timed
from service.registry.upstream import RETRY, mlflow_problems, point_mlflow
from service.schemas import JudgementView, MonitorRequest
from service.settings import ServiceSettings
from service.tables.tokens import Scope

_RUN = re.compile(r"[0-9a-f]{32}")


def blueprint(settings: ServiceSettings) -> Blueprint:
    """Judgements of runs."""
    routes = Blueprint("monitoring", __name__, url_prefix="/v1/runs")

    @routes.post("/<run_id>/monitor")
    @requires(Scope.READ)
    @API.validate(resp=Answers(HTTP_200=JudgementView), tags=["runs"])
    def judge(run_id: str, json: MonitorRequest) -> JudgementView:
        """Alarms with evidence, what is missing, whether to stop; ``write`` needs ``assess``."""
        if json.write and not caller().may(Scope.ASSESS):
            raise Problem("forbidden", f"to write to the run the scope {Scope.ASSESS} is needed")
        if not _RUN.fullmatch(run_id):
            raise Problem("not-found")
        judgement = _judge(settings, run_id, json)
        return JudgementView.model_validate({"run_id": run_id, **judgement.to_dict()})

    return routes


def _judge(settings: ServiceSettings, run_id: str, asked: MonitorRequest) -> Judgement:
    client = timed(point_mlflow(settings))
    with mlflow_problems():
        # Tells a run that is not there from a log that cannot be judged, and from nonsense.
        found = client.get_run(run_id).info.run_id
        if found != run_id:
            raise ValueError(f"asked for run {run_id}, got {found}")
    facts = RunFacts(group_size=asked.group_size, success_metric=asked.success_metric)
    try:
        chosen = MonitorSettings(trainer=asked.trainer, facts=facts)
        source = MlflowRunSource(run_id, extra_metric=asked.success_metric, client=client)
        judgement, _ = judge_source(source, chosen)
        if asked.write:
            with mlflow_problems():
                log_judgement(run_id, judgement, client=client)
    except ConfigError as error:
        fault = FieldFault(pointer=f"/{error.field}", code="unusable", message=error.need)
        raise Problem("invalid-field", errors=[fault]) from error
    except RLRiskError as error:
        raise Problem("upstream", without_paths(str(error))[:500], headers=RETRY) from error
    return judgement
