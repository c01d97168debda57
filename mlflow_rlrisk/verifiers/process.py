"""The parent's side of one worker process: start, call with a time limit, kill.

Every exchange has a deadline for writing and reading together. A worker that misses it is killed
with everything it started (its process group); the caller starts it again.
"""

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mlflow_rlrisk.errors import SandboxUnavailableError, VerifierError
from mlflow_rlrisk.verifiers import frames
from mlflow_rlrisk.verifiers.loading import LoadedVerifier, open_verifier
from mlflow_rlrisk.verifiers.specs import parse_spec

START_TIMEOUT_S = 120.0
"""A verifier may import a deep-learning framework, which takes most of a minute on a cold disk."""
STDERR_TAIL_BYTES = 2000
"""What is kept of a worker's output, to say why it died; the rest is read and dropped."""
_CHUNK_BYTES = 1 << 16
WORKER_MARK = "IN_RLRISK_VERIFIER_WORKER"
"""Holds the id of the process where that is a worker: a script that is imported there for a
function in it, and assesses at its top level, would start workers of workers without end."""

# The worker sees the import path of its parent, whatever environment or `-P` it runs under.
_BOOTSTRAP = (
    "import os, sys, json; sys.path[:] = json.loads(sys.argv.pop()); "
    f"os.environ['{WORKER_MARK}'] = str(os.getpid()); "
    "from mlflow_rlrisk.verifiers.worker import main; main()"
)


def load_verifier(
    spec: str | Callable[..., Any], *, timeout_s: float = START_TIMEOUT_S
) -> LoadedVerifier:
    """Load the verifier once, to see that it can be loaded and what it is.

    Built-in ones are looked at here, all others in a worker process that ends again.

    Raises:
        VerifierError: The spec names nothing, or what it names cannot be imported or called; the
            reason of the worker is in the message.
    """
    parsed = parse_spec(spec)
    if parsed.kind == "builtin":
        return open_verifier(parsed)[1]
    worker = WorkerProcess(parsed.text, start_timeout_s=timeout_s)
    try:
        return worker.start()
    finally:
        worker.kill()


class WorkerTimeoutError(Exception):
    """The worker did not answer in time; it has been killed."""


class WorkerDiedError(Exception):
    """The worker ended or broke the protocol; the message says how."""


class WorkerProcess:
    """One worker and its pipes; used by one thread at a time, only `stop` by any."""

    def __init__(self, spec: str, *, start_timeout_s: float) -> None:
        self.spec = spec
        self.start_timeout_s = start_timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._tail = bytearray()
        self._drain: threading.Thread | None = None
        self._lock = threading.Lock()
        self._is_stopped = False
        self._num_calls = 0

    @property
    def is_running(self) -> bool:
        """True between `start` and the end of the process or `kill`."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> LoadedVerifier:
        """Start the process and load the verifier in it.

        Raises:
            VerifierError: It cannot be loaded; the message has the worker's reason.
        """
        if os.environ.get(WORKER_MARK) == str(os.getpid()):
            raise VerifierError(
                "the file of the verifier starts an assessment when it is imported; put that under "
                "if __name__ == '__main__':"
            )
        self.kill()  # one that died while it was idle still has its pipes
        import_path = json.dumps(list(map(str, sys.path)))
        with self._lock:  # no process may appear after `stop`
            if self._is_stopped:
                raise VerifierError("the verifier pool was closed while it graded")
            process = self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _BOOTSTRAP, import_path],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                process_group=0,  # Ctrl-C is the parent's; killpg reaches grandchildren
            )
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            os.set_blocking(pipe.fileno(), False)
        self._tail = bytearray()
        self._drain = threading.Thread(target=_keep_tail, args=(process, self._tail), daemon=True)
        self._drain.start()
        try:
            reply = self.call({"spec": self.spec}, self.start_timeout_s)
        except WorkerTimeoutError as error:
            raise VerifierError(
                f"verifier {self.spec} did not load within {self.start_timeout_s:g} s"
                f"{_asks_hub(self.spec)}"
            ) from error
        except WorkerDiedError as error:
            raise VerifierError(f"verifier {self.spec} cannot be loaded: {error}") from error
        if "loaded" not in reply:
            self.kill()
            is_sandbox = reply.get("code") == SandboxUnavailableError.code
            kind = SandboxUnavailableError if is_sandbox else VerifierError
            raise kind(f"verifier {self.spec} cannot be loaded: {reply.get('raised')}")
        return LoadedVerifier(**reply["loaded"])

    def call(self, message: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        """Send one message and read the answer.

        Raises:
            WorkerTimeoutError, WorkerDiedError: In both cases the process is gone.
            TypeError, ValueError: The message is not plain data; nothing was sent.
        """
        self._num_calls += 1
        frame = frames.encode({"number": self._num_calls, **message})
        try:
            reply: Any = json.loads(self._exchange(frame, time.monotonic() + timeout_s))
            if not isinstance(reply, dict) or reply.get("to") != self._num_calls:
                raise ValueError("a reply to no question")
        except WorkerTimeoutError:
            self.kill()
            raise
        except (OSError, EOFError, ValueError) as error:
            raise WorkerDiedError(self._last_words(error)) from error
        answer: dict[str, Any] = reply
        return answer

    def stop(self) -> None:
        """End the process for good, from any thread: a call under way ends as if it had died.

        The pipes stay open until `kill`, because another thread may be waiting on them.
        """
        with self._lock:
            self._is_stopped = True
            if self._process is not None:
                _kill_group(self._process)

    def kill(self) -> None:
        """End the process and whatever it started, and close its pipes; idempotent."""
        process, self._process = self._process, None
        if process is None:
            return
        _kill_group(process)
        process.wait()
        if self._drain is not None:
            self._drain.join(timeout=1.0)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()

    def _exchange(self, frame: bytes, deadline: float) -> bytes:
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise EOFError("the worker is not running")
        unsent, received = memoryview(frame), bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdin, selectors.EVENT_WRITE)
            selector.register(process.stdout, selectors.EVENT_READ)
            while True:
                left = deadline - time.monotonic()
                ready = selector.select(left) if left > 0 else []
                if not ready:
                    raise WorkerTimeoutError
                for key, _ in ready:
                    if key.fileobj is process.stdin:
                        unsent = unsent[os.write(key.fd, unsent[:_CHUNK_BYTES]) :]
                        if not unsent:
                            selector.unregister(process.stdin)
                        continue
                    chunk = os.read(key.fd, _CHUNK_BYTES)
                    if not chunk:
                        raise EOFError("the worker closed its pipe")
                    received += chunk
                    if _is_complete(received):
                        return bytes(received[frames.HEADER.size :])

    def _last_words(self, error: Exception) -> str:
        process = self._process
        if process is None:
            return str(error)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=1.0)  # the pipe may close a moment before the process ends
        code = process.returncode
        self.kill()
        if code is None:
            how = f"the worker broke the protocol ({error})"
        elif code < 0:
            how = f"the worker was killed by {_signal_name(-code)}"
        else:
            how = f"the worker exited with status {code}"
        tail = bytes(self._tail).decode(errors="replace").strip()
        return f"{how}; its last output: ...{tail[-300:]}" if tail else how


def _asks_hub(spec: str) -> str:
    """What may have taken so long: a module of evaluate that has no path."""
    parsed = parse_spec(spec)
    if parsed.kind != "evaluate" or Path(parsed.target).exists():
        return ""
    return (
        "; it asks the Hugging Face Hub: HF_HUB_OFFLINE=1 asks nobody, nor does "
        "evaluate:path/to/module"
    )


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _is_complete(received: bytearray) -> bool:
    if len(received) < frames.HEADER.size:
        return False
    (size,) = frames.HEADER.unpack_from(received)
    if size > frames.MAX_FRAME_BYTES:
        raise ValueError("bytes that are no reply")
    return bool(len(received) - frames.HEADER.size >= size)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _keep_tail(process: subprocess.Popen[bytes], tail: bytearray) -> None:
    """Read a worker's output to its end, so that it never blocks on a full pipe."""
    assert process.stderr is not None
    with process.stderr as pipe:
        while chunk := os.read(pipe.fileno(), _CHUNK_BYTES):
            tail += chunk
            del tail[:-STDERR_TAIL_BYTES]
