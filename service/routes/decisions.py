"""``POST /v1/decisions``: may this version start RL under this policy, by what is known of it?

The newest report of the version decides. A version without one is inconclusive, which must not
promote. This is advice to a pipeline; the registry's gate asks for signed statements of its own.
"""

from collections import OrderedDict
from threading import Lock

from flask import Blueprint
from spectree import Response as Answers

from mlflow_rlrisk import PolicyConfig, RiskReport, decide
from service.assessment_table import Assessment
from service.auth import dependencies, requires
from service.metrics import ServiceMetrics
from service.openapi import API
from service.problems import FieldFault, Problem
from service.references import alias_of, version_of
from service.schemas import DecisionRequest, DecisionView
from service.settings import DEFAULT_POLICY, ServiceSettings
from service.tokens import Scope
from service.upstream import version_of_alias

CACHE_SIZE = 1024


class _Decided:
    """Decisions by report and policy: both are fixed for good, and reading a report is slow."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str], DecisionView] = OrderedDict()
        self._lock = Lock()

    def get(self, key: tuple[str, str]) -> DecisionView | None:
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
            return found

    def put(self, key: tuple[str, str], view: DecisionView) -> None:
        with self._lock:
            self._kept[key] = view
            while len(self._kept) > CACHE_SIZE:
                self._kept.popitem(last=False)


def blueprint(settings: ServiceSettings, metrics: ServiceMetrics) -> Blueprint:
    """Decisions under the operator's policies."""
    routes = Blueprint("decisions", __name__, url_prefix="/v1/decisions")
    policies = {name: settings.policy(name) for name in {*settings.policies, DEFAULT_POLICY}}
    decided = _Decided()

    @routes.post("")
    @requires(Scope.READ)
    @API.validate(resp=Answers(HTTP_200=DecisionView), tags=["decisions"])
    def create(json: DecisionRequest) -> DecisionView:
        """Decide by the newest report of the version."""
        policy = policies.get(json.policy)
        if policy is None:
            fault = FieldFault(
                pointer="/policy", code="unknown_name", message=f"known: {sorted(policies)}"
            )
            raise Problem("invalid-field", errors=[fault])
        name, version = _version(settings, json.model)
        view = _decide(decided, name, version, json.policy, policy)
        metrics.decisions.labels(view.outcome).inc()
        return view

    return routes


def _version(settings: ServiceSettings, reference: str) -> tuple[str, str]:
    if (named := version_of(reference)) is not None:
        return named
    if (aliased := alias_of(reference)) is not None:
        return aliased[0], version_of_alias(settings, *aliased)
    raise Problem("model-uri-refused", "models:/name/version or models:/name@alias is needed")


def _decide(
    decided: _Decided, name: str, version: str, policy_name: str, policy: PolicyConfig
) -> DecisionView:
    reference = f"models:/{name}/{version}"
    found = dependencies().jobs.latest_report(name, version)
    if found is None:
        return DecisionView(
            model=reference,
            outcome="inconclusive",
            reasons=["the service has no report of this version"],
            next_steps=["assess it: POST /v1/assessments"],
            policy=policy_name,
            policy_digest=policy.digest(),
            report_digest=None,
            assessment_id=None,
            risk_level=None,
        )
    key = (found.id, policy_name)
    known = decided.get(key)
    if known is None:
        known = _judged(found, reference, policy_name, policy)
        decided.put(key, known)
    return known


def _judged(
    found: Assessment, reference: str, policy_name: str, policy: PolicyConfig
) -> DecisionView:
    text = dependencies().jobs.report(found.id)
    assert text is not None  # it is stored in the transaction that makes it succeed
    report = RiskReport.from_json(text)
    decision = decide(report, policy).to_dict()
    return DecisionView.model_validate(
        decision
        | {
            "model": reference,
            "policy": policy_name,
            "assessment_id": found.id,
            "risk_level": str(report.risk_level),
        }
    )
