"""Gunicorn's thread worker; what it refuses itself is a problem document, not a page of HTML.

Such a request never reaches the application: its first line or its headers cannot be read. And
where it is to stop it waits for answers that are under way, not for connections that are only open.
"""

import contextlib
import socket
import uuid
from typing import Any

from gunicorn.http.errors import LimitRequestHeaders, LimitRequestLine, ParseException
from gunicorn.workers.gthread import ThreadWorker

from service.problems import MEDIA_TYPE, SLUGS, Problem, document_of
from service.streams import stopping

LINGER_S = 0.5
LOOK_S = 1.0
MAX_READS, READ_BYTES = 16, 65536


class ProblemWorker(ThreadWorker):  # type: ignore[misc]
    """Answers what it cannot parse as the application answers what it does not take."""

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Begin to stop; streams end, what else was asked is answered."""
        stopping.set()
        super().handle_exit(sig, frame)

    def handle_quit(self, sig: int, frame: Any) -> None:
        """Stop at once; Python would still wait for the threads of streams."""
        stopping.set()
        super().handle_quit(sig, frame)

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """Look often: idle connections are closed between two looks, and keep us from the end."""
        super().wait_for_and_dispatch_events(min(timeout, LOOK_S))

    def handle_error(
        self, req: Any, client: socket.socket, addr: tuple[str, int] | None, exc: Exception
    ) -> None:
        """Answer in the request's place; the connection is closed after it."""
        request_id = uuid.uuid4().hex
        if isinstance(exc, ParseException):
            self.log.warning("unreadable request %s: %s", request_id, exc)
        else:
            self.log.exception("the request %s failed before it was one", request_id)
        with contextlib.suppress(OSError):  # whoever sent it need not wait for the answer
            client.sendall(_answer(Problem(_slug(exc)), request_id))
            _read_the_rest(client)


def _read_the_rest(client: socket.socket) -> None:
    """Linger a little: closing over unread bytes takes the answer from who is still sending."""
    client.shutdown(socket.SHUT_WR)
    client.settimeout(LINGER_S)
    for _ in range(MAX_READS):
        if not client.recv(READ_BYTES):
            return


def _slug(exc: Exception) -> str:
    if isinstance(exc, LimitRequestHeaders):
        return "header-too-large"
    if isinstance(exc, LimitRequestLine):
        return "uri-too-long"
    return "bad-request" if isinstance(exc, ParseException) else "internal"


def _answer(problem: Problem, request_id: str) -> bytes:
    # The address is one of the things that could not be read; RFC 9457 leaves `instance` open.
    body = document_of(problem, instance="", request_id=request_id).model_dump_json().encode()
    status, title = SLUGS[problem.slug]
    lines = (
        f"HTTP/1.1 {status} {title}",
        f"Content-Type: {MEDIA_TYPE}",
        f"Content-Length: {len(body)}",
        f"X-Request-Id: {request_id}",
        "X-Content-Type-Options: nosniff",
        "Cache-Control: no-store",
        "Connection: close",
    )
    return "\r\n".join((*lines, "", "")).encode("ascii") + body
