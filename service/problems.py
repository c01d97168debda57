"""Errors as RFC 9457 problem documents: one table of slugs, one place that answers.

No stack, no path and no secret leaves; what the operator needs is in the log under the request id.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

from flask import Flask, Response, g, json, request
from pydantic import BaseModel
from sqlalchemy.exc import SQLAlchemyError
from werkzeug.exceptions import HTTPException

logger = logging.getLogger(__name__)

TYPE_ROOT = "https://mlflow-rlrisk.dev/problems/"
MEDIA_TYPE = "application/problem+json"

SLUGS: Mapping[str, tuple[int, str]] = {
    "invalid-json": (400, "The body is not the JSON that is needed"),
    "bad-request": (400, "The request cannot be understood"),
    "unauthorized": (401, "A bearer token is needed"),
    "bad-signature": (401, "The webhook's signature does not hold"),
    "stale-delivery": (401, "The webhook was signed too long ago"),
    "forbidden": (403, "The token does not allow this"),
    "not-found": (404, "There is no such thing"),
    "method": (405, "The method is not allowed here"),
    "idempotency-conflict": (409, "The idempotency key was used with another body"),
    "replayed-delivery": (409, "The webhook was delivered before"),
    "override-refused": (409, "The override is refused"),
    "not-finished": (409, "The assessment has no report"),
    "too-large": (413, "The request is too large"),
    "uri-too-long": (414, "The address is too long"),
    "media-type": (415, "The body must be application/json"),
    "invalid-field": (422, "A field is unusable"),
    "model-uri-refused": (422, "The model reference is refused"),
    "checkpoint-refused": (422, "The checkpoint is refused"),
    "header-too-large": (431, "The headers are too large"),
    "quota": (429, "Too many assessments wait"),
    "internal": (500, "The service failed"),
    "upstream": (502, "MLflow did not answer as it should"),
    "sandbox-unavailable": (503, "Programs cannot be judged here"),
    "override-unavailable": (503, "Overrides cannot be signed here"),
    "storage-unavailable": (503, "The database does not answer"),
    "disk-full": (507, "There is no room left"),
}
"""Slug -> status and title. The OpenAPI document lists the same."""

_BY_STATUS = {404: "not-found", 405: "method", 413: "too-large", 415: "media-type"}
_PATH = re.compile(r"(?:(?<![\w:/])(?:[A-Za-z]:\\|~?/)|(?<=\bfile:)/)[^\s'\",;()]+")
_USERINFO = re.compile(r"(?<=://)[^/@\s]+@")


class FieldFault(BaseModel):
    """One unusable field."""

    pointer: str
    code: str
    message: str


class ProblemDocument(BaseModel):
    """An error, after RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    request_id: str
    errors: list[FieldFault] = []


class Problem(Exception):  # noqa: N818  (the RFC's word)
    """Ends a request with a problem document."""

    def __init__(
        self,
        slug: str,
        detail: str = "",
        *,
        errors: Sequence[FieldFault] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(slug, detail)
        self.slug, self.detail, self.errors = slug, detail, tuple(errors)
        self.headers = dict(headers or {})


def without_paths(text: str) -> str:
    """``text`` with absolute paths and credentials in addresses taken out."""
    return _PATH.sub("<path>", _USERINFO.sub("", text))


def document_of(problem: Problem, *, instance: str, request_id: str) -> ProblemDocument:
    """What is answered to ``problem``."""
    status, title = SLUGS[problem.slug]
    return ProblemDocument(
        type=TYPE_ROOT + problem.slug,
        title=title,
        status=status,
        detail=problem.detail or title,
        instance=instance,
        request_id=request_id,
        errors=list(problem.errors),
    )


def register_problems(app: Flask) -> None:
    """Answer every error of ``app`` with a problem document."""
    app.register_error_handler(Problem, _answer)
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(SQLAlchemyError, _storage)
    app.register_error_handler(Exception, _unexpected)


def answer_to(error: Problem | HTTPException) -> Response:
    """The document, for pages that have a handler of their own for everything else."""
    return _answer(error) if isinstance(error, Problem) else _http(error)


def _answer(problem: Problem) -> Response:
    document = document_of(problem, instance=request.path, request_id=g.get("request_id", ""))
    body = json.dumps(document.model_dump())
    answer = Response(body, status=document.status, mimetype=MEDIA_TYPE)
    answer.headers.update(problem.headers)
    return answer


def _http(error: HTTPException) -> Response:
    status = error.code or 500
    if status < 400:  # a redirect to the route without a slash
        return Response(error.get_response().data, status, dict(error.get_headers()))
    slug = _BY_STATUS.get(status, "bad-request" if status < 500 else "internal")
    headers: dict[str, Any] = {}
    allowed = getattr(error, "valid_methods", None)
    if allowed:
        headers["Allow"] = ", ".join(sorted(allowed))
    return _answer(Problem(slug, headers=headers))


def _storage(error: SQLAlchemyError) -> Response:
    logger.error("the database failed", exc_info=error)
    text = str(getattr(error, "orig", error)).lower()
    if "full" in text or "no space" in text:
        return _answer(Problem("disk-full"))
    return _answer(Problem("storage-unavailable", headers={"Retry-After": "5"}))


def _unexpected(error: Exception) -> Response:
    logger.error("the request failed", exc_info=error)
    if isinstance(error, OSError) and error.errno == 28:
        return _answer(Problem("disk-full"))
    return _answer(Problem("internal"))
