"""``POST /v1/webhooks/mlflow``: MLflow tells that something happened in its registry.

No token: the signature says who it is. The answer comes as soon as the hint is stored; a worker
reads the registry and starts what is due, so that neither a slow MLflow nor a full queue loses it.
"""

import os
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from flask import Blueprint, g, request
from pydantic import ValidationError
from spectree import Response as Answers

from service.auth import dependencies
from service.openapi import API
from service.problems import FieldFault, Problem
from service.schemas import DeliveryView
from service.settings import ServiceSettings
from service.tables.deliveries import DeliveryTable, Hint
from service.triggering.triggers import load_triggers
from service.triggering.webhooks import EVENTS, MlflowEvent, Secrets, check_signature

MAX_BODY = 256 * 1024
DEFAULT_WORKSPACE = "default"

_P = ParamSpec("_P")
_R = TypeVar("_R")


def blueprint(settings: ServiceSettings) -> Blueprint:
    """The webhooks of a service.

    Raises:
        ConfigError: A trigger is unusable.
    """
    routes = Blueprint("webhooks", __name__, url_prefix="/v1/webhooks")
    triggers, secrets = load_triggers(settings), Secrets(settings.webhook_secret_file)

    @routes.post("/mlflow")
    @_signed(secrets)
    @API.validate(
        json=MlflowEvent,
        skip_validation=True,  # the signature is over the bytes, which are parsed after it
        resp=Answers(HTTP_202=DeliveryView, HTTP_200=DeliveryView),
        tags=["webhooks"],
        security={},
    )
    def receive() -> tuple[dict[str, str], int]:
        """Take a signed delivery once: 202 where a trigger may want it, else 200."""
        event = _event(request.get_data())
        is_here = event.workspace in (None, os.environ.get("MLFLOW_WORKSPACE", DEFAULT_WORKSPACE))
        is_wanted = is_here and any(each.may_want(event.kind, event.data) for each in triggers)
        hint = Hint(
            id=g.delivery_id,
            event=event.kind,
            model=str(event.data.get("name", ""))[:256],
            version=str(event.data.get("version", ""))[:32],
        )
        if not DeliveryTable(dependencies().jobs.engine).take(hint, is_wanted=is_wanted):
            raise Problem("replayed-delivery", "nothing is started a second time")
        status = "accepted" if is_wanted else "ignored"
        return {"delivery_id": hint.id, "status": status}, 202 if is_wanted else 200

    return routes


def _signed(secrets: Secrets) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Let a route be called by who knows a secret only; nothing of the body is read before."""

    def decorate(view: Callable[_P, _R]) -> Callable[_P, _R]:
        @wraps(view)
        def checked(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            if (request.content_length or 0) > MAX_BODY:
                raise Problem("too-large", f"more than {MAX_BODY} bytes")
            g.delivery_id = check_signature(
                request.headers, request.get_data(), secrets.current(), dependencies().clock()
            )
            return view(*args, **kwargs)

        return checked

    return decorate


def _event(body: bytes) -> MlflowEvent:
    try:
        event = MlflowEvent.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        if first["type"] == "json_invalid":
            raise Problem("invalid-json") from error
        pointer = "".join(f"/{part}" for part in first["loc"])[:256]
        fault = FieldFault(pointer=pointer, code=first["type"], message=first["msg"])
        raise Problem("invalid-field", errors=[fault]) from error
    for name in ("name", "version"):
        given = event.data.get(name)
        if event.kind in EVENTS and not isinstance(given, str):
            raise _fault("/data", "missing", "name and version are needed")
        if isinstance(given, str) and "\0" in given:  # which PostgreSQL does not keep
            raise _fault(f"/data/{name}", "null", "U+0000 is in no name of MLflow's")
    return event


def _fault(pointer: str, code: str, message: str) -> Problem:
    return Problem(
        "invalid-field", errors=[FieldFault(pointer=pointer, code=code, message=message)]
    )
