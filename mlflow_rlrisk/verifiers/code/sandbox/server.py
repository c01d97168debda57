"""The fork server: started by exec, single-threaded, forks one process for each check.

It holds no secret: sources, arguments and tests go past it, straight into the socket of the forked
process. Each check brings a supervisor socket. Closing it, as the death of a judge does, kills
the process; its end is told over it. Every child is reaped here.
"""

import fcntl
import gc
import importlib
import json
import os
import resource
import selectors
import signal
import socket
import sys
from dataclasses import dataclass
from typing import Any

from mlflow_rlrisk.verifiers.code.sandbox import confine, guest, landlock, seccomp, tester
from mlflow_rlrisk.verifiers.code.sandbox.wire import pack

PRELOADED = (
    "bisect",
    "cmath",
    "collections",
    "copy",
    "dataclasses",
    "datetime",
    "decimal",
    "enum",
    "fractions",
    "functools",
    "heapq",
    "itertools",
    "json",
    "math",
    "operator",
    "random",
    "re",
    "statistics",
    "string",
    "threading",
    "typing",
)
"""What programs import most often; a forked process finds them in memory."""
MAX_DESCRIPTORS = 4096
_CHANNEL, _REPORT, _RULESET = 3, 4, 5
_SETUP_FAILED, _SERVING_FAILED = 213, 1


@dataclass(frozen=True, slots=True)
class _Child:
    pid: int
    pidfd: int
    supervisor: socket.socket


def main(settings: str, control_fd: int) -> None:
    """Serve one judge until it closes the control socket."""
    config = json.loads(settings)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # Ctrl-C is the judge's affair
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    limit = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MAX_DESCRIPTORS)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    os.environ.clear()
    os.environ["HOME"] = "/"
    os.chdir("/")
    sys.path += config["import_path"]
    for name in (*PRELOADED, *config["preload"]):
        importlib.import_module(name)
    ruleset = None
    if config["landlock"]:
        ruleset = landlock.make_ruleset(config["readable"], config["writable"])
    if config["seccomp"]:
        seccomp.build(0)  # made here, found in memory by every fork
    confine.hide_from_siblings()
    gc.collect()
    gc.freeze()
    walls = confine.Walls(
        ruleset=ruleset, has_seccomp=config["seccomp"], has_scratch=config["scratch"]
    )
    _Server(socket.socket(fileno=control_fd), walls).run()


class _Server:
    def __init__(self, control: socket.socket, walls: confine.Walls) -> None:
        self.control, self.walls = control, walls
        self.selector = selectors.DefaultSelector()
        self.children: dict[int, _Child] = {}

    def run(self) -> None:
        self.selector.register(self.control, selectors.EVENT_READ, None)
        self.control.send(b"up")
        while True:
            for key, _ in self.selector.select():
                child: _Child | None = key.data
                if child is None:
                    if not self._take_request():
                        return self._end()
                elif child.pid not in self.children:
                    continue  # reaped earlier in this round
                elif key.fileobj is child.supervisor:
                    os.kill(child.pid, signal.SIGKILL)
                    self.selector.unregister(child.supervisor)
                else:
                    self._reap(child)

    def _take_request(self) -> bool:
        try:
            message, fds, _, _ = socket.recv_fds(self.control, 1 << 16, 8)
        except OSError:
            return False
        if not message:
            return False
        supervisor, *rest = fds
        with socket.socket(fileno=supervisor) as opened:
            try:
                self._fork(json.loads(message), opened.dup(), rest)
            except OSError as error:  # out of processes or memory: the judge is told
                _tell(opened, {"fault": f"fork: {error}"})
        for fd in rest:
            os.close(fd)
        return True

    def _fork(self, request: dict[str, Any], supervisor: socket.socket, fds: list[int]) -> None:
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            _be_child(request, fds, self.walls, parent)
        child = _Child(pid, os.pidfd_open(pid), supervisor)
        self.children[pid] = child
        self.selector.register(child.pidfd, selectors.EVENT_READ, child)
        self.selector.register(supervisor, selectors.EVENT_READ, child)

    def _reap(self, child: _Child) -> None:
        _, status, usage = os.wait4(child.pid, 0)
        del self.children[child.pid]
        self.selector.unregister(child.pidfd)
        os.close(child.pidfd)
        if child.supervisor in self.selector.get_map():
            self.selector.unregister(child.supervisor)
        _tell(
            child.supervisor,
            {"status": status, "cpu_s": usage.ru_utime + usage.ru_stime, "kib": usage.ru_maxrss},
        )
        child.supervisor.close()

    def _end(self) -> None:
        for child in self.children.values():
            os.kill(child.pid, signal.SIGKILL)
        for child in self.children.values():
            os.waitpid(child.pid, 0)


def _tell(supervisor: socket.socket, message: dict[str, Any]) -> None:
    try:
        supervisor.send(json.dumps(message).encode())
    except OSError:
        return  # nobody listens any more


def _be_child(request: dict[str, Any], fds: list[int], walls: confine.Walls, parent: int) -> None:
    """In the forked process; never returns."""
    is_tester = request["kind"] == "tester"
    status = _SETUP_FAILED
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        walls = _arrange(request["kind"], fds, walls)
        confine.die_with_parent(parent)
        confine.confine(walls, memory_bytes=request["memory_bytes"], cpu_s=request["cpu_s"])
    except BaseException as error:  # noqa: BLE001  (nothing may fall back into the server's loop)
        fault = pack({"fault": f"{type(error).__name__}: {error}"})
        os.write(_REPORT if is_tester else _CHANNEL, fault)
        os._exit(status)
    status = _SERVING_FAILED
    try:
        if is_tester:
            tester.serve(_CHANNEL, _REPORT)
        else:
            guest.serve(_CHANNEL)
        status = 0
    finally:
        os._exit(status)


def _arrange(kind: str, fds: list[int], walls: confine.Walls) -> confine.Walls:
    """Put the descriptors of this child in their places and close all others."""
    null = os.open(os.devnull, os.O_RDWR)
    places = dict.fromkeys((0, 1, 2, _REPORT, _RULESET), null) | {_CHANNEL: fds[0]}
    if kind == "stdio":
        places[0], places[1] = fds[1], fds[2]
    if kind == "tester":
        places[_REPORT] = fds[1]
    if walls.ruleset is not None:
        places[_RULESET] = walls.ruleset
    lifted = {place: fcntl.fcntl(fd, fcntl.F_DUPFD, 64) for place, fd in places.items()}
    for place, fd in lifted.items():
        os.dup2(fd, place)
    os.closerange(_RULESET + 1, MAX_DESCRIPTORS)
    return confine.Walls(
        ruleset=None if walls.ruleset is None else _RULESET,
        has_seccomp=walls.has_seccomp,
        has_scratch=walls.has_scratch,
    )
