"""Calls of MLflow that come to an end; its own limits are limits of silence.

A byte now and then keeps a single read from ever being late, so the whole of a call is timed from
outside. A call that is late is given up: whoever waited for it goes on, and its thread ends with
the next byte that it gets. Only downloads stay, until the other side lets go: MLflow reads them
in threads of its own.
"""

import contextlib
import ctypes
import http.client
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from flask import g, has_app_context

if TYPE_CHECKING:
    from mlflow import MlflowClient

CALL_LIMIT_S = 120.0
"""For the whole of a worker's call that carries no files."""
REQUEST_LIMIT_S = 30.0
"""For all calls together that one request of the API or one page makes."""
SLOWEST_BYTES_PER_S = 100_000
"""A file that goes more slowly than this is not waited for."""
MAX_UNDER_WAY = 64
CHECK_S = 1.0
_WAITS_IN = (socket.__file__, ssl.__file__, http.client.__file__)
_UPLOADS = ("log_artifact", "log_artifacts")

_T = TypeVar("_T")


class LateError(TimeoutError):
    """The answer came to no end in its time, or an earlier one did not; the argument says which."""


class _GivenUpError(BaseException):
    """Ends the thread of a call that nobody waits for; no library takes it for a fault of its."""


class _Call(threading.Thread, Generic[_T]):
    """One call, which can be given up."""

    def __init__(self, call: Callable[[], _T], about: str | None) -> None:
        super().__init__(name="mlflow", daemon=True)
        self.about = about
        self.future: Future[_T] = Future()
        self._call = call
        self._ending = threading.Lock()
        self._is_over = False
        self.is_late = False

    def run(self) -> None:
        with contextlib.suppress(_GivenUpError):
            try:
                value = self._call()
            except _GivenUpError:
                raise
            except BaseException as error:  # noqa: BLE001  (carried to who waits)
                self.future.set_exception(error)
            else:
                self.future.set_result(value)
            with self._ending:
                self._is_over = True

    def give_up(self) -> None:
        """Raise in its thread where that waits for a connection; it sees it at the next byte.

        Elsewhere it is let be: an import that is broken off would stay broken.
        """
        with self._ending:  # once it is over another thread may have its number
            if self._is_over or self.ident is None:
                return
            frame = sys._current_frames().get(self.ident)
            if frame is not None and frame.f_code.co_filename in _WAITS_IN:
                error = ctypes.py_object(_GivenUpError)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self.ident), error)


_counting = threading.Lock()
_under_way: set[_Call[Any]] = set()


def bounded(
    call: Callable[[], _T],
    limit_s: float,
    *,
    keep_waiting: Callable[[], None] = lambda: None,
    about: str | None = None,
) -> _T:
    """What ``call`` gives, in a thread of its own.

    A call that is given up may still do the one thing that it waits for, so it must not write
    where anybody reads.

    Args:
        call: Asks MLflow.
        limit_s: For the whole of it, retries included.
        keep_waiting: Called every second; what it raises gives the call up.
        about: What it changes. While a call about it that was given up has not ended, no other
            is begun.

    Raises:
        LateError: It was late, too many that were have not ended, or one ``about`` the same has
            not. What the call raises passes.
    """
    deadline = time.monotonic() + limit_s
    if limit_s <= 0:
        raise LateError("no time is left to ask")
    begun = _begun(call, about)
    try:
        while not wait(
            [begun.future], timeout=max(0.0, min(CHECK_S, deadline - time.monotonic()))
        ).done:
            keep_waiting()
            if time.monotonic() >= deadline:
                raise LateError(f"no end of its answer within {limit_s:g} s")
    except BaseException:
        begun.is_late = True
        begun.give_up()
        raise
    with _counting:
        _under_way.discard(begun)
    return begun.future.result()


def num_under_way() -> int:
    """Calls that have not ended; those that are late are given up once more."""
    with _counting:
        _under_way.difference_update([each for each in _under_way if not each.is_alive()])
        for each in _under_way:
            if each.is_late:
                each.give_up()
        return len(_under_way)


def _begun(call: Callable[[], _T], about: str | None) -> _Call[_T]:
    if num_under_way() >= MAX_UNDER_WAY:
        raise LateError(f"{MAX_UNDER_WAY} calls to it do not end")
    with _counting:
        if about is not None and any(each.about == about for each in _under_way):
            raise LateError("an earlier call about the same has not ended")
        begun = _Call(call, about)
        begun.start()
        _under_way.add(begun)
    return begun


def call_limit_s() -> float:
    """Seconds for one call: what is left to the request that is served, or a worker's limit."""
    if not has_app_context():
        return CALL_LIMIT_S
    until: float = g.setdefault("mlflow_until", time.monotonic() + REQUEST_LIMIT_S)
    return until - time.monotonic()


def timed(client: "MlflowClient", *, about: str | None = None) -> "MlflowClient":
    """The same client, but every call ends by `call_limit_s`, or raises `LateError`.

    Args:
        client: Whose calls.
        about: What they change, as `bounded` takes it.
    """
    return cast("MlflowClient", _TimedClient(client, about))


class _TimedClient:
    def __init__(self, client: "MlflowClient", about: str | None) -> None:
        self._client, self._about = client, about

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        return partial(self._ask, name, found) if callable(found) else found

    def _ask(self, name: str, method: Callable[..., Any], *args: Any, **named: Any) -> Any:
        limit_s = call_limit_s()
        if name in _UPLOADS:
            limit_s += _num_bytes(Path(args[1])) / SLOWEST_BYTES_PER_S
        return bounded(partial(method, *args, **named), limit_s, about=self._about)


def _num_bytes(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(each.stat().st_size for each in files if each.is_file())
