"""The sandbox attacks itself before it is believed.

Each canary tries one way out and returns ``"escaped"`` where it succeeded; that is its expected
result, so that a canary that *passes* has escaped. What a canary could hide is looked at from the
trusted side: the file that was not to be written, the socket that nobody was to reach.
"""

import errno
import secrets
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mlflow_rlrisk.verifiers.code.checks import run_checks
from mlflow_rlrisk.verifiers.code.judgement import CodeGrade
from mlflow_rlrisk.verifiers.code.sandbox_tiers import Servers
from mlflow_rlrisk.verifiers.code.session import Limits
from mlflow_rlrisk.verifiers.code.tasks import CallCase, CodeTask

ESCAPED = "escaped"
_LOOP_TIMEOUT_S = 0.3
_DISCARD = 9

_BODIES: dict[str, str] = {
    "reads a file": "open(path).read()",
    "writes a file": "open(path + '.new', 'w').write('x')",
    "changes a file's mode": "import os; os.chmod(path, 0)",
    "deletes a file": "import os; os.remove(path)",
    "reads the environment": (
        "import os\n"
        "    text = repr(dict(os.environ)) + open('/proc/%d/environ' % os.getppid()).read()\n"
        "    assert text"
    ),
    "connects by TCP": "import socket; socket.create_connection(('127.0.0.1', port), 1)",
    "connects by a local socket": (
        "import socket; socket.socket(socket.AF_UNIX).connect('\\0' + name)"
    ),
    "starts a process": "import os\n    if os.fork() == 0: os._exit(0)",
    "runs a program": "import os; os.posix_spawn('/bin/true', ['true'], {})",
    "signals the fork server": "import os; os.kill(os.getppid(), 0)",
    "traces the fork server": (
        "import ctypes, os\n"
        "    libc = ctypes.CDLL(None); libc.ptrace.restype = ctypes.c_long\n"
        "    assert libc.ptrace(16, os.getppid(), 0, 0) == 0"
    ),
    "makes a namespace": (
        "import ctypes; assert ctypes.CDLL(None).unshare(0x10000000 | 0x00020000) == 0"
    ),
    "takes more memory": "assert len(bytearray(memory)) == memory",
    "opens more files": "import os; [os.dup(0) for _ in range(1000)]",
    "raises its limits": (
        "import resource\n    resource.setrlimit(resource.RLIMIT_NOFILE, (4000, 4000))"
    ),
}
_LOOP = "def attack():\n    while True: pass\n"
_EXIT = "import os\nos._exit(0)\n"
_LEAVE_BEHIND = (
    "def attack(name):\n"
    "    import builtins, glob\n"
    "    found = hasattr(builtins, name) or glob.glob('/tmp/' + name)\n"
    "    setattr(builtins, name, 1)\n"
    "    try: open('/tmp/' + name, 'w').close()\n"
    "    except OSError: pass\n"
    "    return 'escaped' if found else 'nothing'\n"
)


@dataclass(frozen=True, slots=True)
class SelfTest:
    """What the sandbox did to its own attacks.

    Attributes:
        num_attacks: Ways out that were tried.
        escaped: Those that were not stopped.
    """

    num_attacks: int
    escaped: tuple[str, ...]


def run_selftest(servers: Servers, limits: Limits) -> SelfTest:
    """Try every way out.

    Raises:
        SandboxFaultError: The sandbox does not work at all.
    """
    with _surroundings() as (known, is_untouched):
        known["memory"] = 2 * limits.memory_mb << 20
        escaped = [
            attack
            for attack, body in _BODIES.items()
            if _passes(_source(body), known, servers, limits)
        ]
        if not is_untouched():
            escaped.append("reaches the judge's own folder or socket")
    quick = replace(limits, timeout_s=_LOOP_TIMEOUT_S)
    if run_checks(_LOOP, _task(), servers, quick).judgement().grade is not CodeGrade.TIMEOUT:
        escaped.append("outlives its deadline")
    if run_checks(_EXIT, _task(), servers, limits).judgement().grade is not CodeGrade.ERROR:
        escaped.append("passes by its exit status")
    mark = {"name": f"rlrisk_{secrets.token_hex(8)}"}
    if any(_passes(_LEAVE_BEHIND, mark, servers, limits) for _ in range(2)):
        escaped.append("leaves something behind for the next program")
    honest = "def attack():\n    return 'escaped'\n"
    if not _passes(honest, {}, servers, limits):
        escaped.append("an honest program does not pass")
    return SelfTest(len(_BODIES) + 5, tuple(escaped))


@contextmanager
def _surroundings() -> Iterator[tuple[dict[str, Any], Any]]:
    """A folder and two sockets that nobody in the sandbox may reach."""
    name = f"rlrisk-{secrets.token_hex(8)}"
    with (
        tempfile.TemporaryDirectory() as folder,
        _loopback() as tcp,
        socket.socket(socket.AF_UNIX) as local,
    ):
        local.bind("\0" + name)
        local.listen()
        local.setblocking(False)
        path = Path(folder) / "secret"
        path.write_text(secrets.token_hex(16))
        path.chmod(0o644)
        Path(folder).chmod(0o755)

        def is_untouched() -> bool:
            for listener in filter(None, (tcp, local)):
                try:
                    listener.accept()[0].close()
                except BlockingIOError:
                    continue
                return False
            return [*Path(folder).iterdir()] == [path] and path.stat().st_mode & 0o777 == 0o644

        port = tcp.getsockname()[1] if tcp else _DISCARD
        yield {"path": str(path), "port": port, "name": name}, is_untouched


@contextmanager
def _loopback() -> Iterator[socket.socket | None]:
    """A listener; ``None`` where this process itself has no network, not even loopback."""
    try:
        listener = socket.create_server(("127.0.0.1", 0))
    except OSError as error:
        if error.errno not in (errno.ENETUNREACH, errno.EACCES, errno.EPERM):
            raise
        yield None
        return
    with listener:
        listener.setblocking(False)
        yield listener


def _source(body: str) -> str:
    return f"def attack(path, port, name, memory):\n    {body}\n    return {ESCAPED!r}\n"


def _task(**kwargs: Any) -> CodeTask:
    case = CallCase(args=(), kwargs=kwargs, expected=(ESCAPED,))
    return CodeTask(entry_point="attack", calls=(case,))


def _passes(source: str, kwargs: dict[str, Any], servers: Servers, limits: Limits) -> bool:
    tally = run_checks(source, _task(**kwargs), servers, limits)
    return tally.judgement().grade is CodeGrade.PASS
