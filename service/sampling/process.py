"""Starts the sampling process of an assessment, listens to it, and ends it when it must end."""

import contextlib
import errno
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow_rlrisk.errors import VerifierError
from mlflow_rlrisk.verifiers.specs import parse_spec
from service.commit_points import CommitPoint, reached
from service.sampling.child import RESULT, ROOMLESS, TASK
from service.sampling.gpu_claim import Claim
from service.settings import ServiceSettings

ENVIRONMENT = (
    *("PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONPATH"),
    *("VIRTUAL_ENV", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "TOKENIZERS_PARALLELISM"),
    *("CUDA_HOME", "NVIDIA_VISIBLE_DEVICES", "PYTORCH_CUDA_ALLOC_CONF"),
)
"""What the sampling process may see of the worker's environment: no credential, no address."""
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "DO_NOT_TRACK": "1"}
LOG = "child.log"
POLL_S = 0.25
KILL_AFTER_S = 5.0


class StoppedError(Exception):
    """The assessment was cancelled, taken over, or the worker is to stop; no result counts."""


class WallLimitError(Exception):
    """It ran longer than the operator allows."""


class ChildLostError(Exception):
    """The process died without a result."""


def run_child(
    folder: Path,
    task: Mapping[str, Any],
    settings: ServiceSettings,
    *,
    claim: Claim,
    on_line: Callable[[dict[str, Any]], bool],
) -> dict[str, Any]:
    """Run one task in a process of its own.

    Args:
        folder: Folder of the assessment; shards in it are kept and used again.
        task: What to do.
        settings: For limits and environment.
        claim: The GPUs that it has to itself.
        on_line: Called with every line of progress, and with ``{}`` while there is none; false
            ends the process.

    Returns:
        ``{"report": ...}`` or ``{"error": {"code", "message"}}``.

    Raises:
        StoppedError: ``on_line`` said so.
        WallLimitError: Too long.
        ChildLostError: It died.
        OSError: There is no room in the folder.
    """
    (folder / RESULT).unlink(missing_ok=True)
    # Short, because sockets of helper processes lie there; its own, because others' are secret.
    with tempfile.TemporaryDirectory(prefix="rlrisk-", ignore_cleanup_errors=True) as scratch:
        walls = walls_of(task, settings, writable=(str(folder), scratch))
        part = folder / f"{TASK}.part"
        part.write_text(json.dumps({**task, "walls": walls}), encoding="utf-8")
        part.replace(folder / TASK)
        own = {name: scratch for name in ("HOME", "TMPDIR", "RAY_TMPDIR", "XDG_CACHE_HOME")}
        with (folder / LOG).open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "service.sampling.child", str(folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=sampling_environment(settings) | own | claim.environment,
                # In this session, so that its niceness counts; `leave_terminal` says more.
                process_group=0,
                pass_fds=claim.locks,
            )
        reached(CommitPoint.CHILD_STARTED)
        deadline = time.monotonic() + settings.limits.wall_s
        try:
            _listen(process, deadline, on_line)
        finally:
            _end(process)
    if process.returncode == ROOMLESS:
        raise OSError(errno.ENOSPC, "the sampling process has no room")
    try:
        result: dict[str, Any] = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ChildLostError(f"the sampling process ended with {process.returncode}") from error
    return result


def walls_of(
    task: Mapping[str, Any], settings: ServiceSettings, *, writable: Sequence[str]
) -> dict[str, Any]:
    """Arguments of `service.sampling.walls.raise_walls`."""
    named = (task["model_path"], task["prompts"], _source_of(task["verifier"]))
    return {
        "backend": task["config"]["backend"],
        "is_offline": settings.sampling_network == "none",
        "readable": [*(each for each in named if os.path.exists(each)), *settings.readable],
        "writable": [*writable, *settings.writable],
    }


def _source_of(verifier: str) -> str:
    """The file or folder that a spec names; a dialect may stand before it."""
    try:
        spec = parse_spec(verifier)
    except VerifierError:  # the sampling process says what is wrong with it
        return ""
    return spec.target if spec.kind in ("file", "evaluate") else ""


def sampling_environment(settings: ServiceSettings) -> dict[str, str]:
    """What a process that runs foreign code sees of this one's environment."""
    wanted = (*ENVIRONMENT, *settings.environment)
    return {name: os.environ[name] for name in wanted if name in os.environ} | OFFLINE


def _listen(
    process: "subprocess.Popen[bytes]", deadline: float, on_line: Callable[[dict[str, Any]], bool]
) -> None:
    lines: queue.Queue[bytes | None] = queue.Queue()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    while True:
        if time.monotonic() > deadline:
            raise WallLimitError
        try:
            line = lines.get(timeout=POLL_S)
        except queue.Empty:
            line = b"{}"
        if line is None:
            return
        if not on_line(json.loads(line)):
            raise StoppedError


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End the process and everything that it started."""
    if process.stdin is not None:
        process.stdin.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=KILL_AFTER_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def free_memory_bytes() -> int | None:
    """Memory that is free for new work; ``None`` where the system does not say."""
    try:
        with open("/proc/meminfo", encoding="ascii") as stream:
            for line in stream:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        return None
    return None


def forget(folder: Path) -> None:
    """Remove what a finished assessment no longer needs: its shards are in MLflow."""
    shutil.rmtree(folder, ignore_errors=True)
