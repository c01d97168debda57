"""``rlrisk serve``: gunicorn, the worker, or a supervisor over both."""

import ctypes
import logging
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

from flask import Flask
from gunicorn.app.base import BaseApplication
from gunicorn.glogging import Logger

from mlflow_rlrisk import ConfigError
from service.announcing import Announce, announcer
from service.configured_files import refuse_missing
from service.deps import Dependencies
from service.listening import check_address, check_port
from service.logs import log_as_json
from service.registry.reader import RegistryReader
from service.registry.upstream import point_mlflow, wait_briefly
from service.restarts import Pauses
from service.settings import ServiceSettings, load_settings
from service.signing.client import SOCKET_VARIABLE, default_socket, signer_of
from service.tables.assessments import AssessmentTable
from service.tables.opening import open_database
from service.tables.tokens import TokenTable

logger = logging.getLogger(__name__)

Role = Literal["all", "api", "worker", "signer"]
SUPERVISED = "RLRISK_SUPERVISED_BY"
SHARED_COUNTS = "PROMETHEUS_MULTIPROC_DIR"
"""Names the folder into which several API processes count; `prometheus_client` looks for it."""
COMMAND = "from mlflow_rlrisk.cli import run; run()"
MEMORY = Path("/dev/shm")
GRACE_S = 30
READ_LIMIT_S = 5
TICK_S = 0.2
RESTART_S, LONGEST_RESTART_S, HEALTHY_S = 1.0, 30.0, 60.0
"""Pause before a process is started again: the first, the longest; the life that resets it."""
MLFLOW_BOUNDS = {
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
}
"""MLflow's own settings where the operator set none; its defaults wait for 7 times 120 s."""
_PR_SET_PDEATHSIG = 1


def serve(
    config: str | Path,
    *,
    host: str,
    port: int,
    role: Role,
    processes: int,
    threads: int,
    worker_name: str | None,
    signing_keys: Sequence[Path] = (),
    as_json: bool = False,
) -> int:
    """Run until SIGTERM or SIGINT; returns the exit code.

    Raises:
        ConfigError: The settings are unusable, a key cannot be read, the port is taken, or the
            address is not loopback and no token exists.
    """
    settings = load_settings(config)
    if role != "api" and SUPERVISED not in os.environ:
        refuse_missing(settings)  # at the operator's start: one lost later takes none of the others
    log_as_json(settings.log_level)
    _end_with_supervisor()
    _bound_mlflow()
    _check_keys(role, signing_keys)
    announce = announcer(role, as_json=as_json)
    if role == "signer":
        from service.signing.signer import run_signer

        run_signer(settings, signing_keys, announce)
        _leave()
    if role == "worker":
        from service.worker import run_worker

        run_worker(settings, name=worker_name, announce=announce)
        _leave()
    check_address(settings, host)
    if role == "api":
        _Gunicorn(settings, host, port, processes, threads, announce).run()
        return 0
    check_port(host, port)
    listens: dict[str, str | int] = {
        "host": host,
        "port": port,
        "processes": processes,
        "threads": threads,
    }
    common = ["serve", "--config", str(config), *(["--json"] if as_json else [])]
    return _Supervisor(_commands(common, listens, worker_name, signing_keys), settings).run()


def _check_keys(role: Role, signing_keys: Sequence[Path]) -> None:
    """Find out at the start whether the keys can be used, and by whom."""
    from mlflow_rlrisk.attestation.keys import SigningKey

    if role == "signer" and not signing_keys:
        raise ConfigError("signing_key", None, "a signer needs --signing-key FILE")
    if role in ("api", "worker") and signing_keys:
        need = "only --role signer and --role all take a key; name its signer_socket in the config"
        raise ConfigError("signing_key", [str(each) for each in signing_keys], need)
    for each in signing_keys:
        SigningKey.load(each)


def _leave() -> NoReturn:
    """End now: a thread that waits for MLflow would keep the process; its work is done again."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _bound_mlflow() -> None:
    """An MLflow that hangs delays what is asked of it and does not block it for ever."""
    for name, value in MLFLOW_BOUNDS.items():
        os.environ.setdefault(name, value)


def _commands(
    common: Sequence[str],
    listens: Mapping[str, str | int],
    worker_name: str | None,
    signing_keys: Sequence[Path],
) -> dict[str, list[str]]:
    """Role -> the arguments of its process, in the order of starting; one has the keys."""
    named = [] if worker_name is None else ["--worker-name", worker_name]
    keys = [part for each in signing_keys for part in ("--signing-key", str(each))]
    signer = {"signer": [*common, "--role", "signer", *keys]} if keys else {}
    api = [part for name, value in listens.items() for part in (f"--{name}", str(value))]
    return {
        **signer,
        "worker": [*common, "--role", "worker", *named],
        "api": [*common, "--role", "api", *api],
    }


def application(settings: ServiceSettings, threads: int) -> Flask:
    """The application over the real database and the real MLflow.

    Without a single token everybody is let in; `check_address` keeps that to loopback. Streams
    leave half of the threads to all other requests; a single thread has none for them.
    """
    from service.app import create_app  # its metrics look for SHARED_COUNTS when imported

    wait_briefly()
    engine = open_database(settings.database)
    tokens = TokenTable(engine)
    deps = Dependencies(
        jobs=AssessmentTable(engine),
        tokens=tokens if tokens.list() else None,
        registry=_registry(settings),
        signer=signer_of(settings),
        max_streams=threads // 2,
    )
    return create_app(settings, deps)


class _PlainLogger(Logger):  # type: ignore[misc]
    """Gunicorn's own words go where ours go; requests are logged by the application."""

    def setup(self, cfg: Any) -> None:
        self.error_log.handlers[:] = []
        self.error_log.propagate = True
        self.access_log.disabled = True


def _limit_reading(worker: Any) -> None:
    """Let nobody hold a thread by sending nothing; gunicorn waits for a request's end for ever.

    Accepted sockets inherit the limit. A sender of a byte at a time needs a proxy in front.
    """
    for listener in worker.sockets:
        listener.sock.setsockopt(
            socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", READ_LIMIT_S, 0)
        )


def _end_with_first(_: Any, worker: Any) -> None:
    """Linux ends an API process with the first one; else it would keep the port from the next."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != worker.ppid:  # it died before we asked
            os._exit(1)


def _emptied(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700, parents=True)  # an error where it is another user's, or a link


class _Gunicorn(BaseApplication):  # type: ignore[misc]
    def __init__(
        self,
        settings: ServiceSettings,
        host: str,
        port: int,
        processes: int,
        threads: int,
        announce: Announce,
    ) -> None:
        self._settings, self._announce = settings, announce
        shown = f"[{host}]" if ":" in host and not host.startswith("[") else host
        self._options: dict[str, Any] = {
            "bind": f"{shown}:{port}",
            "worker_class": "service.problem_worker.ProblemWorker",
            "workers": processes,
            "threads": threads,
            "graceful_timeout": GRACE_S,
            "keepalive": 5,
            "limit_request_line": 8190,
            "limit_request_field_size": 8190,
            "limit_request_fields": 64,
            "logger_class": _PlainLogger,
            "post_fork": _end_with_first,
            "post_worker_init": self._ready,
            "proc_name": "rlrisk-api",
            "control_socket_disable": True,
        }
        if processes > 1 and SHARED_COUNTS not in os.environ:
            # In memory where there is such a place: a process that writes to a file mapped from a
            # full disk dies.
            parent = MEMORY if os.access(MEMORY, os.W_OK) else Path(settings.data_dir).absolute()
            folder = parent / f"rlrisk-metrics-{os.getuid()}-{port}"
            os.environ[SHARED_COUNTS] = str(folder)
            # Once the port is ours, so that what still serves there keeps its counts; in the first
            # process only, for a `finally` would remove them at the end of each.
            self._options["when_ready"] = lambda _: _emptied(folder)
            self._options["on_exit"] = lambda _: shutil.rmtree(folder, ignore_errors=True)
        super().__init__()

    def load_config(self) -> None:
        for name, value in self._options.items():
            if name in self.cfg.settings:
                self.cfg.set(name, value)

    def _ready(self, worker: Any) -> None:
        _limit_reading(worker)
        if worker.age == 1:  # the first of them; the socket is that of all
            url, signs = f"http://{self._options['bind']}", signer_of(self._settings) is not None
            self._announce(pid=worker.ppid, url=url, dashboard=f"{url}/", signs=signs)

    def load(self) -> Flask:
        return application(self._settings, self._options["threads"])


class _Supervisor:
    """Keeps API, worker and signer alive; a process that dies is started again."""

    def __init__(self, commands: Mapping[str, list[str]], settings: ServiceSettings) -> None:
        self._commands, self._settings = commands, settings
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._pauses = Pauses(first_s=RESTART_S, longest_s=LONGEST_RESTART_S, healthy_s=HEALTHY_S)
        self._due: dict[str, float] = {}
        self._stops = False

    def run(self) -> int:
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, self._stop)
        while not self._stops:
            for role in self._commands:
                self._tend(role, time.monotonic())
            time.sleep(TICK_S)
        for child in self._children.values():
            child.send_signal(signal.SIGTERM)
        for child in self._children.values():
            try:
                child.wait(timeout=GRACE_S + 10)
            except subprocess.TimeoutExpired:
                child.kill()
        return 0

    def _tend(self, role: str, now: float) -> None:
        child = self._children.get(role)
        if child is not None and child.poll() is None:
            return
        if child is not None and role not in self._due:
            pause = self._pauses.after(role, now)
            logger.error("the %s ended with %s, again in %g s", role, child.returncode, pause)
            self._due[role] = now + pause
        if not self._stops and now >= self._due.get(role, now):
            self._due.pop(role, None)
            self._children[role] = self._start(role)
            self._pauses.started(role, now)

    def _start(self, role: str) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-c", COMMAND, *self._commands[role]]
        environment = {**os.environ, SUPERVISED: str(os.getpid())}
        if "signer" in self._commands:
            environment[SOCKET_VARIABLE] = str(default_socket(self._settings))
        return subprocess.Popen(command, env=environment)

    def _stop(self, *_: object) -> None:
        self._stops = True


def _registry(settings: ServiceSettings) -> RegistryReader:
    point_mlflow(settings)
    return RegistryReader(tracking_uri=settings.tracking_uri, registry_uri=settings.registry)


def _end_with_supervisor() -> None:
    """Linux ends us with the supervisor, even where that is killed."""
    parent = os.environ.pop(SUPERVISED, None)
    if parent is None or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):  # it died before we asked
        os.kill(os.getpid(), signal.SIGTERM)
