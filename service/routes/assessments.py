"""``/v1/assessments``: ask for one, look at it, cancel it, read its report."""

import re

from flask import Blueprint, Response, request, url_for
from spectree import Response as Answers

from mlflow_rlrisk import RiskReport, render
from service.auth import caller, dependencies, requires
from service.openapi import API, KEY_HEADER, KEY_PATTERN
from service.problems import Problem, without_paths
from service.registry.references import check_form
from service.sampling.sandboxes import fault_of, judges
from service.schemas import (
    AssessmentPage,
    AssessmentRequest,
    AssessmentView,
    ListQuery,
    ReportQuery,
)
from service.settings import ServiceSettings
from service.submission import body_digest, resolved
from service.tables.assessment_rows import Assessment, KeyConflictError, QueueFullError, State
from service.tables.tokens import TRIGGERED, Scope

_KEY = re.compile(KEY_PATTERN)
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
MIN_RETRY_S, MAX_RETRY_S = 5, 3600
REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def blueprint(settings: ServiceSettings) -> Blueprint:
    """The assessments of a service."""
    routes = Blueprint("assessments", __name__, url_prefix="/v1/assessments")

    @routes.post("")
    @requires(Scope.ASSESS)
    @API.validate(
        resp=Answers(HTTP_202=AssessmentView, HTTP_200=AssessmentView), tags=["assessments"]
    )
    def submit(json: AssessmentRequest) -> tuple[AssessmentView, int, dict[str, str]]:
        """Accept an assessment; answered after it is stored.

        With an ``Idempotency-Key`` the same request again gives the same assessment (200).
        """
        found, is_new = _submit(settings, json)
        place = url_for("assessments.show", assessment_id=found.id)
        return AssessmentView.of(found), 202 if is_new else 200, {"Location": place}

    @routes.get("")
    @requires(Scope.READ)
    @API.validate(resp=Answers(HTTP_200=AssessmentPage), tags=["assessments"])
    def index(query: ListQuery) -> AssessmentPage:
        """The caller's assessments and triggered ones, newest first; an admin sees all."""
        rows = dependencies().jobs.page(
            owners=caller().owners,
            model=query.model,
            state=query.state,
            before=query.before,
            before_id=query.before_id,
            limit=query.limit,
        )
        return AssessmentPage(
            assessments=[AssessmentView.of(row) for row in rows], **query.following(rows)
        )

    @routes.get("/<assessment_id>")
    @requires(Scope.READ)
    @API.validate(resp=Answers(HTTP_200=AssessmentView), tags=["assessments"])
    def show(assessment_id: str) -> AssessmentView:
        """One assessment with its progress."""
        return AssessmentView.of(visible(assessment_id))

    @routes.delete("/<assessment_id>")
    @requires(Scope.ASSESS)
    @API.validate(resp=Answers(HTTP_200=AssessmentView), tags=["assessments"])
    def cancel(assessment_id: str) -> AssessmentView:
        """Cancel it; one at its end stays as it is. One that a trigger started needs ``admin``."""
        wanted = visible(assessment_id)
        if wanted.owner == TRIGGERED and not caller().may(Scope.ADMIN):
            raise Problem("forbidden", "a trigger started it: the scope admin is needed")
        found = dependencies().jobs.cancel(wanted.id)
        assert found is not None  # rows are never deleted
        return AssessmentView.of(found)

    @routes.get("/<assessment_id>/report")
    @requires(Scope.READ)
    @API.validate(tags=["assessments"])
    def report(assessment_id: str, query: ReportQuery) -> Response:
        """The report, as JSON or as the page."""
        return _report(visible(assessment_id), query)

    return routes


def visible(assessment_id: str) -> Assessment:
    """The assessment, where the caller may see it.

    Raises:
        Problem: ``not-found``, also for somebody else's.
    """
    found = None
    if _UUID.fullmatch(assessment_id):
        found = dependencies().jobs.find(assessment_id)
    if found is None or not caller().sees(found.owner):
        raise Problem("not-found")
    return found


def _submit(settings: ServiceSettings, asked: AssessmentRequest) -> tuple[Assessment, bool]:
    key = request.headers.get(KEY_HEADER)
    if key is not None and not _KEY.fullmatch(key):
        raise Problem("bad-request", f"{KEY_HEADER}: 1 to 128 visible ASCII characters")
    limits, jobs = settings.limits, dependencies().jobs
    owner, digest = caller().id, body_digest(asked)
    try:
        # What was accepted once is told again, also where it would not be accepted today.
        if known := jobs.repeated(owner=owner, body_digest=digest, key=key):
            return known, False
        check_form(asked.model, settings)
        wanted = resolved(settings, asked)
        _check_sandbox(settings, asked.verifier)
        return jobs.submit(
            wanted,
            owner=owner,
            body_digest=digest,
            key=key,
            max_open=limits.max_open,
            max_open_per_owner=limits.max_open_per_token,
        )
    except KeyConflictError as error:
        raise Problem("idempotency-conflict") from error
    except QueueFullError as error:
        wait = jobs.mean_duration_s() or 60.0
        seconds = round(min(max(wait, MIN_RETRY_S), MAX_RETRY_S))
        raise Problem("quota", headers={"Retry-After": str(seconds)}) from error


def _check_sandbox(settings: ServiceSettings, verifier: str) -> None:
    if verifier not in judges(settings):
        return
    fault = fault_of(dependencies().jobs.engine, verifier, settings)
    if fault is not None:
        retry = {"Retry-After": str(MAX_RETRY_S)}
        raise Problem("sandbox-unavailable", without_paths(fault)[:1000], headers=retry)


def _report(found: Assessment, query: ReportQuery) -> Response:
    text = dependencies().jobs.report(found.id) if found.state is State.SUCCEEDED else None
    if text is None:
        raise Problem("not-finished", f"the assessment is {found.state}")
    best = request.accept_mimetypes.best_match(["application/json", "text/html"])
    if (query.format or ("html" if best == "text/html" else "json")) == "json":
        return Response(text, mimetype="application/json")
    page = Response(render(RiskReport.from_json(text)), mimetype="text/html")
    page.headers["Content-Security-Policy"] = REPORT_POLICY
    return page
