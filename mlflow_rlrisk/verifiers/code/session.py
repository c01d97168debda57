"""One sandboxed process as the judge sees it: a channel, a supervisor, and how it ended."""

import json
import os
import signal
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from mlflow_rlrisk.verifiers.code.launch import RunningServer
from mlflow_rlrisk.verifiers.code.sandbox.channel import Channel

MAX_RESULT_BYTES = 4 << 20
"""Longest reply of a candidate; a longer one is graded ``resource``."""
REAP_TIMEOUT_S = 10.0


class SandboxFaultError(Exception):
    """The sandbox failed, not the candidate; the check is tried again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one process may use.

    Attributes:
        timeout_s: Wall time of a program with all its calls; of each run where a program reads
            standard input.
        memory_mb: Address space in MiB, interpreter included.
        max_output_bytes: Standard output of one run.
    """

    timeout_s: float = 5.0
    memory_mb: int = 512
    max_output_bytes: int = 4 << 20


@dataclass(frozen=True, slots=True)
class Ending:
    """How a process ended.

    Attributes:
        status: Wait status of the operating system.
        cpu_s: Processor time in seconds.
        kib: Largest resident memory.
    """

    status: int
    cpu_s: float
    kib: int

    @property
    def signal_number(self) -> int:
        """The signal that ended it, 0 for none."""
        return os.WTERMSIG(self.status) if os.WIFSIGNALED(self.status) else 0

    @property
    def exit_code(self) -> int:
        """Its exit status, -1 where a signal ended it."""
        return os.WEXITSTATUS(self.status) if os.WIFEXITED(self.status) else -1

    @property
    def signal_name(self) -> str:
        """Name of the signal that ended it."""
        try:
            return signal.Signals(self.signal_number).name
        except ValueError:
            return f"signal {self.signal_number}"


class Process:
    """A process forked by the server for one check; a context manager that ends it."""

    def __init__(
        self, server: RunningServer, request: Mapping[str, Any], limits: Limits, fds: Sequence[int]
    ) -> None:
        self.deadline = time.monotonic() + limits.timeout_s
        self._supervisor, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        message = {
            "memory_bytes": limits.memory_mb << 20,
            "cpu_s": int(limits.timeout_s) + 2,
            **request,
        }
        with theirs:
            try:
                socket.send_fds(
                    server.control, [json.dumps(message).encode()], [theirs.fileno(), *fds]
                )
            except OSError as error:
                self._supervisor.close()
                # Its socket closes before it is gone: the next try must not find it running.
                server.process.kill()
                server.process.wait()
                raise SandboxFaultError(f"the fork server is gone: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._supervisor.fileno() >= 0:
            try:
                self.end()
            except SandboxFaultError:
                if error is None and kind is None:
                    raise

    def end(self, *, grace_s: float = 0.0) -> Ending:
        """Kill the process where it has not ended within ``grace_s``, and wait until it is reaped.

        Raises:
            SandboxFaultError: The fork server does not tell, or could not fork at all.
        """
        self._supervisor.settimeout(grace_s or None)
        try:
            if grace_s == 0.0:
                self._kill()
                self._supervisor.settimeout(REAP_TIMEOUT_S)
            try:
                answer = self._supervisor.recv(4096)
            except TimeoutError:
                if grace_s == 0.0:
                    raise
                self._kill()
                self._supervisor.settimeout(REAP_TIMEOUT_S)
                answer = self._supervisor.recv(4096)
        except OSError as error:
            raise SandboxFaultError(f"the fork server does not answer: {error}") from error
        finally:
            self._supervisor.close()
        if not answer:
            raise SandboxFaultError("the fork server ended")
        told = json.loads(answer)
        if "fault" in told:
            raise SandboxFaultError(told["fault"])
        return Ending(told["status"], told["cpu_s"], told["kib"])

    def _kill(self) -> None:
        self._supervisor.shutdown(socket.SHUT_WR)


@contextmanager
def linked() -> Iterator[tuple[Channel, socket.socket]]:
    """A channel of the judge's, and the far end that is handed to one process."""
    near, far = socket.socketpair()
    with near, far:
        near.setblocking(False)
        yield Channel(near.fileno(), MAX_RESULT_BYTES), far
