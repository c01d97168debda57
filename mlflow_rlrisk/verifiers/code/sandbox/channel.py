"""Frames over a socket with a deadline, for either side."""

import os
import select
import time
from typing import Any

from mlflow_rlrisk.verifiers.code.sandbox.wire import HEADER, WireError, pack, unpack

_CHUNK_BYTES = 1 << 18


class ClosedError(Exception):
    """The other side has closed the socket: its process has ended, or ended the talk."""


class DeadlineError(Exception):
    """Nothing came in time."""


class OversizeError(Exception):
    """A frame longer than is taken."""


class Channel:
    """One end of a stream socket; used by one thread.

    Args:
        fd: The descriptor; non-blocking where deadlines are used.
        max_bytes: Longest frame that is read.
    """

    def __init__(self, fd: int, max_bytes: int) -> None:
        self.fd, self.max_bytes = fd, max_bytes
        self.last_sent_bytes = 0
        self._poll = select.poll()

    def send(self, message: Any, deadline: float | None = None) -> None:
        """Write one frame.

        Raises:
            ClosedError, DeadlineError: The other side is gone, or does not read.
        """
        rest = memoryview(pack(message))
        self.last_sent_bytes = len(rest)
        while rest:
            try:
                rest = rest[os.write(self.fd, rest[:_CHUNK_BYTES]) :]
            except BlockingIOError:
                self._wait(select.POLLOUT, deadline)
            except OSError as error:
                raise ClosedError("the process closed its socket") from error

    def receive(self, deadline: float | None = None) -> Any:
        """Read one frame of JSON.

        Raises:
            ClosedError, DeadlineError, OversizeError: As named.
            WireError: No JSON.
        """
        (size,) = HEADER.unpack(self._exactly(HEADER.size, deadline))
        if size > self.max_bytes:
            raise OversizeError(f"{size} bytes, at most {self.max_bytes} are taken")
        return unpack(self._exactly(size, deadline))

    def _exactly(self, size: int, deadline: float | None) -> bytes:
        chunks = bytearray()
        while len(chunks) < size:
            try:
                chunk = os.read(self.fd, min(size - len(chunks), _CHUNK_BYTES))
            except BlockingIOError:
                self._wait(select.POLLIN, deadline)
                continue
            except OSError as error:
                raise ClosedError("the process closed its socket") from error
            if not chunk:
                raise ClosedError("the process closed its socket")
            chunks += chunk
        return bytes(chunks)

    def _wait(self, event: int, deadline: float | None) -> None:
        self._poll.register(self.fd, event)
        left = None if deadline is None else (deadline - time.monotonic()) * 1000
        if (left is not None and left <= 0) or not self._poll.poll(left):
            raise DeadlineError


__all__ = ["Channel", "ClosedError", "DeadlineError", "OversizeError", "WireError"]
