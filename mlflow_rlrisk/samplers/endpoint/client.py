"""One HTTP client for many threads: a call ends with a checked answer or with why there is none.

What may pass (a busy or dying server, a lost, damaged or malformed answer) is tried again, with
growing pauses; what will not pass (a wrong key, an unknown model, a bad request) is not.
"""

import json
import logging
import random
import socket
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from mlflow_rlrisk.errors import MissingDependencyError, SamplerError
from mlflow_rlrisk.plurals import counted
from mlflow_rlrisk.samplers.endpoint.options import EndpointOptions

logger = logging.getLogger(__name__)

T = TypeVar("T")

RETRIED = frozenset({408, 409, 425, 429})
"""Statuses below 500 that may pass: timeout, conflict, too early, too many requests."""
FIRST_BACKOFF_S = 0.5
CONNECT_S = 30.0
MAX_BODY_BYTES = 512 * 2**20
"""A longer answer is no answer; 20 logprobs for each of 10^5 tokens take less."""
SHOWN = 300
"""Characters of an endpoint's own message that an error shows."""


class AnswerError(ValueError):
    """An answer is damaged or lacks what it must have; asking again may mend it."""


class EndpointRefusedError(SamplerError):
    """The endpoint refuses the request itself; the same request would be refused again."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message, status)
        self.message, self.status = message, status

    def __str__(self) -> str:
        return self.message


class EndpointFailedError(SamplerError):
    """The endpoint gave no usable answer to any of the tries."""


class _StoppedError(SamplerError):
    """The run is over; nobody waits for this answer."""


class EndpointClient:
    """Posts JSON to one endpoint; safe to use from many threads."""

    def __init__(self, options: EndpointOptions) -> None:
        """Prepare the connections; nothing is sent.

        Raises:
            MissingDependencyError: The ``openai`` extra is not installed.
        """
        try:
            import httpx2
        except ImportError as error:
            raise MissingDependencyError("sampling from an endpoint", "openai") from error
        self._options = options
        self._key = options.api_key
        self._base = options.base_url.rstrip("/")
        self._stopped = threading.Event()
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._transport_error = httpx2.TransportError
        timeout = httpx2.Timeout(options.timeout_s, connect=min(options.timeout_s, CONNECT_S))
        limits = httpx2.Limits(
            max_connections=options.concurrency, max_keepalive_connections=options.concurrency
        )
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        self._http = httpx2.Client(timeout=timeout, limits=limits, headers=headers)

    def post(self, path: str, body: Mapping[str, Any], read: Callable[[Any], T]) -> T:
        """Ask until there is an answer that ``read`` accepts.

        Args:
            path: Below the base URL, with a leading slash.
            body: Sent as JSON.
            read: Turns the parsed JSON into the result; raises `AnswerError` where it lacks
                something.

        Raises:
            EndpointRefusedError: The endpoint answered 4xx.
            EndpointFailedError: All tries failed; says how.
        """
        url, fault = self._base + path, ""
        for attempt in range(self._options.max_retries + 1):
            wait_s = 0.0
            try:
                status, headers, content = self._send(url, body)
            except self._transport_error as error:
                fault = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            else:
                if status < 300:
                    try:
                        return read(json.loads(content))
                    except (AnswerError, ValueError, RecursionError) as error:
                        fault = f"its answer is no use: {error}"
                else:
                    fault = f"HTTP {status}: {self._shown(content)}"
                    if status < 500 and status not in RETRIED:
                        raise EndpointRefusedError(f"{url} refuses: {fault}", status)
                    wait_s = _retry_after_s(headers)
            logger.debug("%s: %s (try %d)", url, fault, attempt + 1)
            if attempt < self._options.max_retries:
                self._pause(attempt, wait_s)
        raise EndpointFailedError(
            f"{url}: no answer in {counted(self._options.max_retries + 1, 'try', 'tries')}; the "
            f"last: {fault}"
        )

    def stop(self) -> None:
        """End the calls under way with a `SamplerError`, and all later ones.

        Their sockets are shut down, which wakes the threads that read from them, but not closed: a
        number that is free again may be given to another file, on which such a thread would wait.
        """
        self._stopped.set()
        for connected in list(self._sockets):
            _shut_down(connected)

    def close(self) -> None:
        """Let go of all connections, when no call is under way any more."""
        self.stop()
        self._http.close()

    def _watch(self, event: str, info: Mapping[str, Any]) -> None:
        """Remember sockets, for `stop`; one that was connected meanwhile is stopped here."""
        if event in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
            connected = info["return_value"].get_extra_info("socket")
            self._sockets.add(connected)
            if self._stopped.is_set():
                _shut_down(connected)

    def _send(self, url: str, body: Mapping[str, Any]) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and body; a body that drips for longer than the timeout is given up."""
        self._refuse_stopped()
        started = time.monotonic()
        content = bytearray()
        trace = {"trace": self._watch}
        with self._http.stream("POST", url, json=body, extensions=trace) as response:
            for chunk in response.iter_bytes():
                content += chunk
                self._refuse_stopped()
                if time.monotonic() - started > self._options.timeout_s:
                    raise self._transport_error(f"no end within {self._options.timeout_s:g} s")
                if len(content) > MAX_BODY_BYTES:
                    raise self._transport_error(f"more than {MAX_BODY_BYTES} bytes")
            return response.status_code, response.headers, bytes(content)

    def _pause(self, attempt: int, wait_s: float) -> None:
        """Back off, each thread a little otherwise, or they would all come back at once."""
        ceiling = min(self._options.max_backoff_s, FIRST_BACKOFF_S * 2.0**attempt)
        backoff = ceiling * random.uniform(0.5, 1.0)
        self._stopped.wait(max(backoff, min(wait_s, self._options.timeout_s)))

    def _refuse_stopped(self) -> None:
        if self._stopped.is_set():
            raise _StoppedError("sampling was stopped")

    def _shown(self, content: bytes) -> str:
        text = " ".join(content[: 4 * SHOWN].decode("utf-8", "replace").split())
        if self._key:
            text = text.replace(self._key, "***")
        return text[:SHOWN] or "(empty)"


def _shut_down(connected: socket.socket) -> None:
    with suppress(OSError):  # the other side may have closed it
        connected.shutdown(socket.SHUT_RDWR)


def _retry_after_s(headers: Mapping[str, str]) -> float:
    """Seconds that ``Retry-After`` asks for, as a number or a date; 0 where it does not."""
    text = headers.get("retry-after", "")
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        until = parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return 0.0
    if until.tzinfo is None:
        until = until.replace(tzinfo=UTC)
    return max(0.0, (until - datetime.now(UTC)).total_seconds())
