"""The OpenAPI 3.1 document, made by spectree from the models that also check the requests."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from flask import Flask, request
from flask import Response as FlaskResponse
from pydantic import BaseModel, ValidationError
from spectree import Response as Answers
from spectree import SecurityScheme, SpecTree
from spectree.models import SecureType, SecuritySchemeData

from mlflow_rlrisk import __version__
from service.problems import MEDIA_TYPE, SLUGS, FieldFault, Problem, ProblemDocument

_Model = TypeVar("_Model", bound=BaseModel)
_ALWAYS = (500, 503, 507)
_CHECKED = (400, 401, 403, 404, 413, 415, 422, 429, 409, 502)
_OPEN_PATHS = ("/livez", "/readyz", "/metrics", "/openapi.json")
_SIGNED_PATHS = ("/v1/webhooks/mlflow",)
_OWN_KINDS: dict[str, dict[str, Any]] = {
    "events": {"text/event-stream": {"type": "string"}},
    "report": {"application/json": {"type": "object"}, "text/html": {"type": "string"}},
}
"""Last word of a path -> media types and schemas of its 200."""
KEY_HEADER, KEY_PATTERN = "Idempotency-Key", "^[!-~]{1,128}$"
_KEY = {
    "name": KEY_HEADER,
    "in": "header",
    "required": False,
    "schema": {"type": "string", "pattern": KEY_PATTERN},
    "description": "The same key and body again: the same assessment.",
}
_OWN_PARAMETERS: dict[str, list[dict[str, Any]]] = {"post__v1_assessments": [_KEY]}
"""Operation -> headers that it reads itself."""


def _refuse(_request: Any, _response: Any, error: Any, _instance: Any, _adapter: Any) -> None:
    """Answer a request that its model does not take with ``invalid-field``."""
    if error is not None:
        raise _refusal(error)


def _refusal(error: ValidationError) -> Problem:
    faults = [
        FieldFault(
            pointer="".join(f"/{part}" for part in each["loc"])[:256],
            code=each["type"],
            message=each["msg"],
        )
        for each in error.errors(include_url=False, include_context=False, include_input=False)
    ]
    return Problem("invalid-field", errors=faults)


def _failed(_request: Any, _response: Any, error: Any, _instance: Any, _adapter: Any) -> None:
    """An answer that its own model does not take is our fault and must not leave."""
    if error is not None:
        raise error


API = SpecTree(
    "flask",
    before=_refuse,
    after=_failed,
    title="mlflow-rlrisk",
    version=__version__,
    mode="strict",
    page_templates={},  # pages that load scripts from elsewhere
    security_schemes=[
        SecurityScheme(
            name="bearer", data=SecuritySchemeData(type=SecureType.HTTP, scheme="bearer")
        )
    ],
    security={"bearer": []},
    naming_strategy=lambda model: model.__name__,
    nested_naming_strategy=lambda _, child: child,
)


def documented(
    view: Callable[[], FlaskResponse], *, body: type[BaseModel], answer: type[BaseModel], tag: str
) -> Callable[[], FlaskResponse]:
    """Put a route into the document that reads its body by `body_of` and writes its answer itself.

    For what is asked a thousand times a second: spectree's own way checks every answer again and
    collects cookies, headers and query first, which takes a third of the time.
    """
    described = API.validate(
        json=body, resp=Answers(HTTP_200=answer), tags=[tag], skip_validation=True
    )(view)

    @wraps(described)
    def plain() -> FlaskResponse:
        return view()

    return plain


def body_of(model: type[_Model]) -> _Model:
    """The body of the request that is being answered.

    Raises:
        Problem: ``invalid-field``, and what `StrictRequest.get_json` raises.
    """
    try:
        return model.model_validate(request.get_json())
    except ValidationError as error:
        raise _refusal(error) from error


def document(app: Flask) -> dict[str, Any]:
    """The document of ``app``; every operation lists the problems that it may answer."""
    API.app = app
    with app.app_context():
        found: dict[str, Any] = API._generate_spec()
    schemas = found["components"]["schemas"]
    problem = ProblemDocument.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas |= problem.pop("$defs", {})
    schemas["Problem"] = problem
    schemas.pop("ValidationError", None)
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    titles: dict[int, list[str]] = {}
    for slug, (status, _) in SLUGS.items():
        titles.setdefault(status, []).append(slug)
    for path, operations in found["paths"].items():
        for operation in operations.values():
            operation["parameters"] += _OWN_PARAMETERS.get(operation["operationId"], [])
            operation["responses"] |= _not_by_a_model(path)
            operation["responses"].pop("422", None)
            for status in (*_ALWAYS, *(() if path in _OPEN_PATHS else _CHECKED)):
                operation["responses"].setdefault(
                    str(status), {"description": ", ".join(titles[status]), "content": content}
                )
            if path in (*_OPEN_PATHS, *_SIGNED_PATHS):
                operation["security"] = []
    return found


def _not_by_a_model(path: str) -> dict[str, Any]:
    """The answers that routes make themselves."""
    kinds = _OWN_KINDS.get(path.rpartition("/")[2])
    if kinds is None:
        return {}
    content = {kind: {"schema": schema} for kind, schema in kinds.items()}
    return {"200": {"description": "OK", "content": content}}
