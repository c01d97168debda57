"""`rlrisk serve` whose processes are forked from one that has imported everything.

Importing MLflow, DBOS and the rest takes seconds of a processor; a thousand deaths would spend
their time there. API, worker and signer run the same `service.serve.serve` as ever, and their
deaths are as sudden; only their birth is cheaper. The sampling process is started as always.

    python -m tests.benchmarks.forked_service FOLDER --config FILE --port N --signing-key FILE

``FOLDER`` gets a file ``ROLE-PID`` for each process that was started.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from mlflow_rlrisk.commands.serve import serve as command
from service import serve as module
from tests.service.running_service import RunningService

PRELOADED = (
    *("mlflow", "mlflow.artifacts", "dbos"),
    *("service.worker", "service.signing.signer", "service.app"),
    *("service.dashboard", "service.signing.overrides", "mlflow_rlrisk.sinks.attest"),
    *("mlflow_rlrisk.sinks.html", "mlflow_rlrisk.sinks.plots", "mlflow_rlrisk.sinks.prompt_table"),
    *("matplotlib.figure", "pandas", "pyarrow.parquet", "gunicorn.workers.gthread"),
    "mlflow.store.artifact.mlflow_artifacts_repo",
)
RESTART_S = 0.1


class Forked:
    """What `subprocess.Popen` would have told of it."""

    def __init__(self, pid: int) -> None:
        self.pid, self.returncode = pid, None

    def poll(self) -> int | None:
        if self.returncode is None:
            found, status = os.waitpid(self.pid, os.WNOHANG)
            if found:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float) -> int:
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("forked", timeout)
            time.sleep(0.05)
        return self.returncode or 0

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def main() -> int:
    folder = Path(sys.argv[1])
    # Whether several processes count together is asked once, when the library is imported.
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = "named by each API"
    for name in PRELOADED:
        __import__(name)
    del os.environ["PROMETHEUS_MULTIPROC_DIR"]
    module.RESTART_S = module.LONGEST_RESTART_S = RESTART_S
    module._Supervisor._start = lambda self, role: _fork(self, role, folder)
    chosen = command.make_context("serve", sys.argv[2:]).params
    return module.serve(chosen.pop("config"), **chosen)


def _fork(supervisor: Any, role: str, folder: Path) -> Forked:
    parent = os.getpid()
    pid = os.fork()
    if pid:
        (folder / f"{role}-{pid}").touch()
        return Forked(pid)
    code = 1
    try:
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, signal.SIG_DFL)
        os.environ[module.SUPERVISED] = str(parent)
        os.environ[module.SOCKET_VARIABLE] = str(module.default_socket(supervisor._settings))
        chosen = command.make_context("serve", supervisor._commands[role][1:]).params
        code = module.serve(chosen.pop("config"), **chosen)
    except SystemExit as done:
        code = int(done.code or 0)
    finally:
        os._exit(code)


class ForkedService(RunningService):
    """A service that `main` runs."""

    def start(self) -> None:
        (self.config.parent / "pids").mkdir(exist_ok=True)
        command = [sys.executable, "-m", "tests.benchmarks.forked_service"]
        command += [str(self.config.parent / "pids"), "--config", str(self.config)]
        command += ["--port", str(self.port), *self.options]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.environment},
                start_new_session=True,
            )

    def pids_of(self, role: str) -> list[int]:
        """Processes of a role that live; of the API, the one that watches first."""
        if role == "child":
            return self.pids("service.sampling.child")
        assert self.process is not None
        parents = _parents()
        found = []
        for each in (self.config.parent / "pids").glob(f"{role}-*"):
            pid = int(each.name.rsplit("-", 1)[1])
            if parents.get(pid) != self.process.pid:
                each.unlink()
                continue
            found += [pid, *(child for child, parent in parents.items() if parent == pid)]
        return [pid for pid in found if role == "api" or parents.get(pid) == self.process.pid]


def _parents() -> dict[int, int]:
    """Process -> its parent, of all that are there."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            status = (entry / "stat").read_text()
        except OSError:
            continue
        state, parent = status.rsplit(")", 1)[1].split()[:2]
        if state != "Z":
            found[int(entry.name)] = int(parent)
    return found


if __name__ == "__main__":
    sys.exit(main())
