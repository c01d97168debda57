"""The dashboard: what people look at. Pages are read-only, need no script, load nothing foreign.

With tokens configured a browser signs in by HTTP basic authentication: any user name, the token
as password. Every page is a GET, so that there is nothing a foreign site could make it do.
"""

import logging
from collections.abc import Mapping

from flask import Blueprint, Response, g, redirect, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy.exc import SQLAlchemyError
from werkzeug.exceptions import HTTPException

from mlflow_rlrisk import __version__
from mlflow_rlrisk.errors import (
    AuditError,
    ConfigError,
    HistoryError,
    ModelReferenceError,
    ReportError,
    SinkError,
)
from service.dashboard.job_view import job_row
from service.dashboard.ladder import build_ladder
from service.dashboard.lists import model_rows, override_rows
from service.dashboard.model_view import model_values
from service.dashboard.page import REFRESH_S, answer, stylesheet
from service.dashboard.run_view import run_values
from service.dashboard.version_view import (
    attestation_values,
    registry_tags,
    report_body,
    warnings,
)
from service.deps import Dependencies
from service.problems import Problem, answer_to, without_paths
from service.registry.reader import RegistryReader
from service.registry.rl_runs import rl_runs
from service.registry.stored_lineage import StoredLineage
from service.tables.overrides import OverrideTable
from service.tables.tokens import ANYBODY, Scope

logger = logging.getLogger(__name__)

ENTRIES_A_PAGE = 100
DECISIONS_OF_A_VERSION = 20
JOBS_SHOWN = 100
MAX_VERSION = 2**31 - 1
OVERRIDES_SHOWN = 20
STYLE_LIFE_S = 3600


def blueprint(deps: Dependencies) -> Blueprint:
    """The pages over the registry and the jobs of ``deps``.

    Raises:
        ConfigError: ``deps`` has no registry.
    """
    if deps.registry is None:
        raise ConfigError("registry", None, "the dashboard reads a registry")
    pages = Blueprint("dashboard", __name__)
    _guard(pages, deps)
    _errors(pages)
    _model_pages(pages, deps.registry)
    _run_pages(pages, deps.registry)
    _job_page(pages, deps)
    _audit_page(pages, deps.registry, deps)
    return pages


def _guard(pages: Blueprint, deps: Dependencies) -> None:
    @pages.before_request
    def identify() -> ResponseReturnValue | None:
        if deps.tokens is None or request.endpoint == f"{pages.name}.style":  # "Sign in" has it too
            g.caller = ANYBODY
            return None
        given = request.authorization
        token = (given.password or given.token or "") if given is not None else ""
        g.caller = deps.tokens.identify(token, deps.clock()) if token else None
        if g.caller is not None and g.caller.may(Scope.READ):
            return None
        if g.caller is not None:
            return _problem("Not allowed", "This token may not read.", 403)
        text = "Sign in with a token of the scope read as the password; the user name is free."
        refused = _problem("Sign in", text, 401)
        refused.headers["WWW-Authenticate"] = 'Basic realm="rlrisk", charset="UTF-8"'
        return refused

    @pages.get("/assets/dashboard.css")
    def style() -> Response:
        response = Response(stylesheet(), mimetype="text/css")
        response.headers["Cache-Control"] = f"private, max-age={STYLE_LIFE_S}"
        return response


def _errors(pages: Blueprint) -> None:
    @pages.errorhandler(ModelReferenceError)
    def absent(error: ModelReferenceError) -> Response:
        return _problem("Not found", without_paths(str(error)), 404)

    @pages.errorhandler(SinkError)
    @pages.errorhandler(HistoryError)
    def away(error: Exception) -> Response:
        return _problem("MLflow does not answer", without_paths(str(error)), 502)

    @pages.errorhandler(SQLAlchemyError)
    def no_storage(error: SQLAlchemyError) -> Response:
        logger.error("the database failed", exc_info=error)
        return _problem("The database does not answer", "Load the page again in a while.", 503)

    @pages.errorhandler(Exception)
    def unexpected(error: Exception) -> ResponseReturnValue:
        if isinstance(error, HTTPException | Problem):
            return answer_to(error)
        logger.error("the page failed", exc_info=error)
        return _problem("The service failed", "Its log says how.", 500)


def _problem(title: str, sentence: str, status: int) -> Response:
    return _page("problem.html.j2", status=status, title=title, sentence=sentence)


def _page(
    template: str, /, *, status: int = 200, refresh_to: str | None = None, **values: object
) -> Response:
    return answer(template, status=status, refresh_to=refresh_to, version=__version__, **values)


def _model_pages(pages: Blueprint, registry: RegistryReader) -> None:
    @pages.get("/")
    def models() -> Response:
        page = registry.models(request.args.get("after"))
        return _page("models.html.j2", models=model_rows(registry, page), next=page.next_token)

    @pages.get("/models/<path:name>", merge_slashes=False)
    def model(name: str) -> Response:
        versions = registry.versions(name)
        stored = {each.version: registry.report(each) for each in versions}
        ladder = build_ladder(versions, stored)
        runs = [rung.stored.run_id for rung in reversed(ladder.compared) if rung.stored.run_id]
        lineage, problem = _lineage(registry, runs)
        if copies := _copies(lineage, name):
            ladder = build_ladder(versions, stored, copies)
        values = model_values(ladder, lineage, name)
        return _page("model.html.j2", name=name, problem=problem, **values)

    @pages.get("/models/<path:name>/versions/<int:number>", merge_slashes=False)
    def version(name: str, number: int) -> Response:
        if number > MAX_VERSION:  # which no registry can even look for
            raise ModelReferenceError(f"version {number} of {name!r}: there is none")
        record = registry.version(name, str(number))
        stored = registry.report(record)
        body = None if stored.report is None else report_body(stored.report)
        attestation = registry.gate.attestation(record)
        decisions, fault = _decisions(registry, record.name, record.version)
        undrawn = "The stored report holds values that cannot be drawn."
        return _page(
            "version.html.j2",
            record=record,
            reference=f"models:/{record.name}/{record.version}",
            source=without_paths(record.source),
            body=body,
            problem=without_paths(stored.problem or undrawn),
            report_run=stored.run_id,
            warnings=warnings(record, stored, attestation),
            attestation=attestation_values(attestation),
            decisions=decisions,
            decisions_problem=fault,
            shown_decisions=DECISIONS_OF_A_VERSION,
            tags=registry_tags(record),
        )


def _copies(lineage: StoredLineage | None, name: str) -> set[str]:
    """Versions of the model that the lineage run found to be copies of others."""
    start = f"models:/{name}/"
    found = () if lineage is None else lineage.rescaled
    return {each.name.removeprefix(start) for each in found if each.name.startswith(start)}


def _lineage(registry: RegistryReader, runs: list[str]) -> tuple[StoredLineage | None, str | None]:
    """The stored lineage, or why it is not shown; the ladder stands without it."""
    try:
        return registry.lineage(runs), None
    except (ReportError, SinkError, ModelReferenceError) as error:
        return None, f"The lineage run is not shown: {without_paths(str(error))}"


def _decisions(
    registry: RegistryReader, name: str, version: str
) -> tuple[list[object] | None, str]:
    try:
        entries = registry.gate.log()
    except (AuditError, ConfigError) as error:
        return None, f"The gate's decisions are not shown: {without_paths(str(error))}"
    own = [e for e in entries if (e.entry.model, e.entry.version) == (name, version)]
    return list(own), ""


def _run_pages(pages: Blueprint, registry: RegistryReader) -> None:
    @pages.get("/runs")
    def runs() -> ResponseReturnValue:
        if run_id := request.args.get("id", "").strip():
            return redirect(url_for(".run", run_id=run_id), 303)
        return _page("runs.html.j2", runs=rl_runs(registry.client))

    @pages.get("/runs/<run_id>")
    def run(run_id: str) -> Response:
        watched = registry.run(run_id)
        is_live = "live" in request.args and not watched.is_finished
        return _page(
            "run.html.j2",
            refresh_to=url_for(".run", run_id=run_id, live=1) if is_live else None,
            is_live=is_live,
            refresh_s=REFRESH_S,
            **run_values(watched),
        )


def _job_page(pages: Blueprint, deps: Dependencies) -> None:
    @pages.get("/jobs")
    def jobs() -> Response:
        rows = deps.jobs.page(owners=g.caller.owners, limit=JOBS_SHOWN)
        counts: Mapping[str, int] = deps.jobs.counts()
        is_live = "live" in request.args
        return _page(
            "jobs.html.j2",
            refresh_to=url_for(".jobs", live=1) if is_live else None,
            is_live=is_live,
            refresh_s=REFRESH_S,
            jobs=[job_row(row) for row in rows],
            counts=[(state, count) for state, count in counts.items() if count],
        )


def _audit_page(pages: Blueprint, registry: RegistryReader, deps: Dependencies) -> None:
    @pages.get("/audit")
    def audit() -> Response:
        asked = override_rows(OverrideTable(deps.jobs.engine).page(limit=OVERRIDES_SHOWN))
        model, outcome = request.args.get("model", ""), request.args.get("outcome", "")
        number = max(request.args.get("page", 1, type=int), 1)
        try:
            entries = registry.gate.log()
        except (AuditError, ConfigError) as error:
            is_broken = isinstance(error, AuditError)
            problem = without_paths(str(error))
            return _page("audit.html.j2", problem=problem, is_broken=is_broken, overrides=asked)
        found = [
            each
            for each in entries
            if (not model or each.entry.model == model)
            and (not outcome or each.entry.outcome == outcome)
        ]
        first = (number - 1) * ENTRIES_A_PAGE
        shown = found[first : first + ENTRIES_A_PAGE]
        return _page(
            "audit.html.j2",
            overrides=asked,
            problem=None,
            model=model,
            outcome=outcome,
            total=len(entries),
            num_found=len(found),
            first=first + 1,
            last=first + len(shown),
            entries=shown,
            older=number + 1 if first + ENTRIES_A_PAGE < len(found) else None,
        )
