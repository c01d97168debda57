"""The Flask application: limits, request ids and logs around the routes."""

import logging
import os
import re
import time
from collections.abc import Mapping
from typing import Any

from flask import Flask, Response, g, jsonify, request

from service.deps import LOOPBACK, Dependencies
from service.metrics import ServiceMetrics
from service.openapi import document
from service.problems import Problem, register_problems
from service.routes import (
    assessments,
    decisions,
    events,
    health,
    models,
    monitoring,
    overrides,
    webhooks,
)
from service.settings import ServiceSettings
from service.strict_json import StrictRequest

logger = logging.getLogger(__name__)

MAX_HEADER_BYTES = 8 * 1024
FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")
_HEADER = "HTTP_"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


class _Application(Flask):
    request_class = StrictRequest


def create_app(settings: ServiceSettings, deps: Dependencies) -> Flask:
    """Make the application.

    Args:
        settings: What the operator configured; names that callers use are looked up in it.
        deps: Database, tokens, registry, clock.
    """
    app = _Application(__name__, static_folder=None)
    app.url_map.merge_slashes = False  # a doubled slash is another address, not a page elsewhere
    app.config["MAX_CONTENT_LENGTH"] = settings.limits.max_body_bytes
    app.config["TRUSTED_HOSTS"] = _hosts(settings, deps)
    app.extensions["rlrisk"] = deps
    metrics = ServiceMetrics(deps.jobs)
    register_problems(app)
    _frame(app, metrics)
    for blueprint in (
        health.blueprint(settings, metrics),
        assessments.blueprint(settings),
        events.blueprint(deps.max_streams),
        decisions.blueprint(settings, metrics, deps.jobs.engine.url),
        models.blueprint(),
        monitoring.blueprint(settings),
        overrides.blueprint(settings),
        webhooks.blueprint(settings),
    ):
        app.register_blueprint(blueprint)
    if deps.registry is not None:
        from service import dashboard

        app.register_blueprint(dashboard.blueprint(deps))
    described = document(app)

    @app.get("/openapi.json")
    def openapi() -> Response:
        return jsonify(described)

    return app


def _hosts(settings: ServiceSettings, deps: Dependencies) -> list[str] | None:
    """Without tokens only loopback names: a page elsewhere must not get here by its own name.

    Beside the operator's names they count too, for the machine's own look at ``/livez``.
    """
    if settings.allowed_hosts or deps.tokens is None:
        return [*settings.allowed_hosts, *LOOPBACK]
    return None


def _frame(app: Flask, metrics: ServiceMetrics) -> None:
    """What every request passes before and after its route."""

    @app.before_request
    def arrive() -> None:
        given = request.headers.get("X-Request-Id", "")
        g.request_id = given if _REQUEST_ID.fullmatch(given) else os.urandom(16).hex()
        g.arrived = time.perf_counter()
        if _header_bytes(request.environ) > MAX_HEADER_BYTES:
            raise Problem("header-too-large")
        if (request.content_length or 0) > app.config["MAX_CONTENT_LENGTH"]:
            raise Problem("too-large")
        if request.mimetype in FORMS:  # spectree would give the route no body at all
            raise Problem("media-type")

    @app.after_request
    def leave(answer: Response) -> Response:
        answer.headers["X-Request-Id"] = g.get("request_id", "")
        answer.headers["X-Content-Type-Options"] = "nosniff"
        answer.headers.setdefault("Cache-Control", "no-store")
        route = request.url_rule.rule if request.url_rule else "unknown"
        method = request.method if request.url_rule else "other"
        seconds = time.perf_counter() - g.get("arrived", time.perf_counter())
        metrics.answered(method, route, str(answer.status_code), seconds)
        who = getattr(g.get("caller"), "id", None)
        logger.info(
            "%s %s %s",
            method,
            route,
            answer.status_code,
            extra={"seconds": round(seconds, 6), "caller": who},
        )
        return answer


def _header_bytes(environ: Mapping[str, Any]) -> int:
    """Of names and values, as WSGI gives them."""
    return sum(
        len(name) - len(_HEADER) + len(value)
        for name, value in environ.items()
        if name.startswith(_HEADER)
    )
