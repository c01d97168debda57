"""Every route but health asks here who calls and whether the token allows it."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar, cast

from flask import current_app, g, request

from service.deps import Dependencies
from service.problems import Problem
from service.tables.tokens import ANYBODY, Caller, Scope

_P = ParamSpec("_P")
_R = TypeVar("_R")


def dependencies() -> Dependencies:
    """The parts that the application was made with."""
    return cast("Dependencies", current_app.extensions["rlrisk"])


def caller() -> Caller:
    """Who calls; only inside a route that `requires` a scope."""
    return cast("Caller", g.caller)


def requires(scope: Scope) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Let a route be called with this scope only.

    Raises:
        Problem: ``unauthorized`` or ``forbidden``, before the body is read.
    """

    def decorate(view: Callable[_P, _R]) -> Callable[_P, _R]:
        @wraps(view)
        def checked(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            g.caller = _identified()
            if not g.caller.may(scope):
                raise Problem("forbidden", f"the scope {scope} is needed")
            return view(*args, **kwargs)

        return checked

    return decorate


def _identified() -> Caller:
    parts = dependencies()
    if parts.tokens is None:
        return ANYBODY
    kind, _, text = request.headers.get("Authorization", "").partition(" ")
    found = parts.tokens.identify(text.strip(), parts.clock()) if kind.lower() == "bearer" else None
    if found is None:
        raise Problem("unauthorized", headers={"WWW-Authenticate": 'Bearer realm="rlrisk"'})
    return found
