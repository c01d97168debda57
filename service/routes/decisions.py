"""``POST /v1/decisions``: may this version start RL under this policy, by what is known of it?

The newest report of the version decides. A version without one is inconclusive, which must not
promote; so is one that the registry no longer has, or has under its name again but as another. What
promotes was asked of the registry after the request came, so while MLflow is away nothing promotes.
This is advice to a pipeline; the registry's gate asks for signed statements of its own.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from threading import Lock
from typing import Self

from flask import Blueprint, Response
from sqlalchemy import URL

from mlflow_rlrisk import PolicyConfig, PromotionRefusedError, RiskReport, decide
from service.auth import dependencies, requires
from service.metrics import ServiceMetrics
from service.openapi import body_of, documented
from service.problems import FieldFault, Problem, without_paths
from service.registry.references import NAMES, alias_of, version_of
from service.registry.standing import RegistryStanding, Standing
from service.schemas import DecisionRequest, DecisionView
from service.settings import DEFAULT_POLICY, ServiceSettings
from service.tables.assessment_rows import Assessment
from service.tables.tokens import Scope
from service.unchanged import Unchanged

CACHE_SIZE = 1024
_MODELS = "models:/"
LOGGED_MODEL = f"{_MODELS}m-"


@dataclass(frozen=True, slots=True)
class _Answer:
    """What is sent, and the outcome that it tells."""

    body: bytes
    outcome: str

    @classmethod
    def of(cls, view: DecisionView) -> Self:
        return cls(view.model_dump_json().encode(), view.outcome)


@dataclass(frozen=True, slots=True)
class _Judged:
    """A report under a policy, and the run and LoggedModel that it is about."""

    view: DecisionView
    answer: _Answer
    run_id: str | None
    model_id: str | None


class _Decided:
    """Decisions by report and policy: both are fixed for good, and reading a report is slow."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str], _Judged] = OrderedDict()
        self._lock = Lock()

    def get(self, key: tuple[str, str]) -> _Judged | None:
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
            return found

    def put(self, key: tuple[str, str], judged: _Judged) -> None:
        with self._lock:
            self._kept[key] = judged
            while len(self._kept) > CACHE_SIZE:
                self._kept.popitem(last=False)


@dataclass(frozen=True, slots=True)
class _Bench:
    """What decisions are made with."""

    policies: Mapping[str, PolicyConfig]
    decided: _Decided
    standing: RegistryStanding
    unchanged: Unchanged


def blueprint(settings: ServiceSettings, metrics: ServiceMetrics, database: URL) -> Blueprint:
    """Decisions under the operator's policies; ``database`` is that of the assessments."""
    routes = Blueprint("decisions", __name__, url_prefix="/v1/decisions")
    bench = _Bench(
        policies={name: settings.policy(name) for name in {*settings.policies, DEFAULT_POLICY}},
        decided=_Decided(),
        standing=RegistryStanding(settings),
        unchanged=Unchanged(database),
    )

    def create() -> Response:
        """Decide by the newest report of the version."""
        asked = body_of(DecisionRequest)
        if asked.policy not in bench.policies:
            fault = FieldFault(
                pointer="/policy", code="unknown_name", message=f"known: {sorted(bench.policies)}"
            )
            raise Problem("invalid-field", errors=[fault])
        try:
            answer = _decide(bench, *_version(bench.standing, asked.model), asked.policy)
        except PromotionRefusedError as error:  # an alias whose proof no longer holds
            answer = _Answer.of(_refused(asked, bench.policies[asked.policy], error))
        metrics.decided(answer.outcome)
        return Response(answer.body, mimetype="application/json")

    described = documented(create, body=DecisionRequest, answer=DecisionView, tag="decisions")
    routes.post("")(requires(Scope.READ)(described))
    return routes


def _version(standing: RegistryStanding, reference: str) -> tuple[str, str]:
    if (named := version_of(reference)) is not None:
        return named
    if (aliased := alias_of(reference)) is not None:
        return aliased[0], standing.version_of_alias(*aliased)
    need = f"models:/name/version or models:/name@alias is needed; {NAMES}"
    raise Problem("model-uri-refused", need)


def _decide(bench: _Bench, name: str, version: str, policy: str) -> _Answer:
    jobs = dependencies().jobs
    found = bench.unchanged.get((name, version), lambda: jobs.latest_report(name, version))
    if found is None:
        return _Answer.of(_unassessed(f"models:/{name}/{version}", policy, bench.policies[policy]))
    judged = bench.decided.get((found.id, policy))
    if judged is None:
        judged = _judged(found, f"models:/{name}/{version}", policy, bench.policies[policy])
        bench.decided.put((found.id, policy), judged)
    if judged.answer.outcome != "promote":
        return judged.answer
    why = _objection(bench.standing.of(name, version), judged, found)
    if why is None:
        return judged.answer
    again = {"outcome": "inconclusive", "reasons": [why], "next_steps": ["assess what is there"]}
    return _Answer.of(judged.view.model_copy(update=again))


def _unassessed(reference: str, policy_name: str, policy: PolicyConfig) -> DecisionView:
    said = {
        "outcome": "inconclusive",
        "reasons": ["the service has no report of this version"],
        "next_steps": ["assess it: POST /v1/assessments"],
    }
    return _without_report(reference, policy_name, policy, said)


def _refused(
    asked: DecisionRequest, policy: PolicyConfig, error: PromotionRefusedError
) -> DecisionView:
    said = {
        "outcome": error.outcome,
        "reasons": [without_paths(str(error))],
        "next_steps": ["assess the version by its number: POST /v1/assessments"],
    }
    return _without_report(asked.model, asked.policy, policy, said)


def _without_report(
    reference: str, policy_name: str, policy: PolicyConfig, said: Mapping[str, object]
) -> DecisionView:
    empty = dict.fromkeys(("report_digest", "assessment_id", "risk_level"))
    about = {"model": reference, "policy": policy_name, "policy_digest": policy.digest()}
    return DecisionView.model_validate({**empty, **about, **said})


def _objection(standing: Standing | None, judged: _Judged, found: Assessment) -> str | None:
    """Why the report does not speak for what the registry has under this name and number."""
    if standing is None:
        return "the registry has no such version any more"
    if not standing.is_ready:
        return "the registry does not count this version as ready"
    is_other_run = None not in (standing.run_id, judged.run_id) and standing.run_id != judged.run_id
    is_other_model = (
        judged.model_id is not None
        and standing.source.startswith(LOGGED_MODEL)
        and standing.source != f"{_MODELS}{judged.model_id}"
    )
    is_younger = found.finished_at is not None and standing.created_at > found.finished_at
    if is_other_run or is_other_model or is_younger:
        return "another version was registered under this name and number after the assessment"
    return None


def _judged(found: Assessment, reference: str, policy_name: str, policy: PolicyConfig) -> _Judged:
    text = dependencies().jobs.report(found.id)
    assert text is not None  # it is stored in the transaction that makes it succeed
    report = RiskReport.from_json(text)
    decision = decide(report, policy).to_dict()
    view = DecisionView.model_validate(
        decision
        | {
            "model": reference,
            "policy": policy_name,
            "assessment_id": found.id,
            "risk_level": str(report.risk_level),
        }
    )
    return _Judged(view, _Answer.of(view), report.provenance.run_id, report.provenance.model_id)
