"""Start a fork server: plain, or inside bubblewrap where user namespaces are allowed."""

import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from mlflow_rlrisk.verifiers.code.sandbox import confine

Kind = Literal["A", "B", "none", "tester"]

START_TIMEOUT_S = 20.0
_PACKAGE = "mlflow_rlrisk.verifiers.code.sandbox"
_BOOT = (
    "import sys, types; folder, settings, fd = sys.argv[1:]; name = ''\n"
    f"for part in {_PACKAGE!r}.split('.'):\n"
    "    name = f'{name}.{part}' if name else part\n"
    "    module = sys.modules[name] = types.ModuleType(name); module.__path__ = []\n"
    "module.__path__ = [folder]\n"
    f"from {_PACKAGE} import server\n"
    "server.main(settings, int(fd))\n"
)
"""The packages above are put in place empty, so that nothing of them is imported or in reach."""
_ENVIRONMENT = {
    "PYTHONHASHSEED": "0",  # one order of sets for every check of a program
    "PYTHONUTF8": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "MALLOC_ARENA_MAX": "2",  # threads reserve address space that the memory limit counts
    "OPENBLAS_NUM_THREADS": "1",
}


_OWN_CODE = "/judge"
"""Where our side of the sandbox lies inside it: an installation below /tmp would take that name."""


class SandboxStartError(Exception):
    """A fork server did not come up; the message says why."""


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A fork server and its control socket, which any thread may send to."""

    process: "subprocess.Popen[bytes]"
    control: socket.socket

    def stop(self) -> None:
        """Close the control socket: the server kills its children and ends."""
        self.control.close()
        try:
            self.process.wait(timeout=5.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def start_server(kind: Kind) -> RunningServer:
    """Start a fork server and wait until it answers.

    Raises:
        SandboxStartError: It does not come up.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        command = [*_command(kind), str(theirs.fileno())]
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=_ENVIRONMENT,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                cwd="/",
            )
        except OSError as error:
            ours.close()
            raise SandboxStartError(f"{command[0]}: {error}") from error
    tail = _Tail(process)
    ours.settimeout(START_TIMEOUT_S)
    try:
        is_up = ours.recv(16) == b"up"
    except OSError:
        is_up = False
    if not is_up:
        process.kill()
        process.wait()
        ours.close()
        raise SandboxStartError(tail.text() or "the fork server ended at once")
    ours.settimeout(None)
    return RunningServer(process, ours)


def bwrap_path() -> str | None:
    """Where bubblewrap is, ``None`` where it is not."""
    return shutil.which("bwrap")


def _command(kind: Kind) -> list[str]:
    interpreter = _interpreter()
    python = interpreter.path
    folder = str(Path(confine.__file__).parent)
    readable = _readable(interpreter)
    settings: dict[str, Any] = {
        "import_path": [],
        "preload": [],
        "landlock": kind in ("A", "B"),
        "seccomp": kind != "none",
        "scratch": kind == "A",
        "readable": readable,
        "writable": ["/dev/null", *([str(Path(confine.SCRATCH).parent)] if kind == "A" else [])],
    }
    if kind == "tester":
        settings["import_path"] = [path for path in sys.path if path]
        settings["preload"] = ["numpy"]  # of many tests; never on the clock of the first program
    start = [python, "-s", "-S", "-P", "-c", _BOOT]
    if kind != "A":
        return [*start, folder, json.dumps(settings)]
    walls = _bubblewrap([*readable, python], folder, interpreter.stdlib)
    return [*walls, *start, _OWN_CODE, json.dumps(settings)]


@dataclass(frozen=True, slots=True)
class _Interpreter:
    """The Python that runs in the sandbox, and where its library lies."""

    path: str
    prefix: str
    stdlib: str


@cache
def _interpreter() -> _Interpreter:
    """This Python; where its file is out of reach for this user, another of the same version.

    Raises:
        SandboxStartError: There is none.
    """
    own = os.path.realpath(sys.executable)
    if os.access(own, os.X_OK):
        return _Interpreter(own, sys.base_prefix, sysconfig.get_path("stdlib"))
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    other = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/local/bin:/usr/bin")
    if other is None:
        raise SandboxStartError(f"{own} may not be run by this user, and there is no {name}")
    ask = "import sys, sysconfig; print(sys.base_prefix); print(sysconfig.get_path('stdlib'))"
    done = subprocess.run([other, "-I", "-S", "-c", ask], capture_output=True, check=False)
    if done.returncode:
        raise SandboxStartError(f"{other}: {done.stderr.decode(errors='replace')[-200:]}")
    prefix, stdlib = done.stdout.decode().splitlines()
    return _Interpreter(os.path.realpath(other), prefix, stdlib)


def _readable(interpreter: _Interpreter) -> list[str]:
    """What the interpreter and the extension modules of the standard library load."""
    library = Path(interpreter.prefix) / "lib"
    triple = sysconfig.get_config_var("MULTIARCH") or f"{platform.machine()}-linux-gnu"
    return [
        interpreter.stdlib,
        *map(str, library.glob("libpython*.so*")),
        f"/usr/lib/{triple}",
        f"/lib/{triple}",
        "/lib64",
        "/usr/lib64",
        "/etc/ld.so.cache",
        "/etc/localtime",
        "/usr/share/zoneinfo",
        "/dev/null",
        "/dev/zero",
        "/dev/urandom",
    ]


def _bubblewrap(paths: Sequence[str], own_code: str, stdlib: str) -> list[str]:
    """All namespaces, no network, no /proc, a root that cannot be written."""
    program = bwrap_path()
    if program is None:
        raise SandboxStartError("bubblewrap (bwrap) is not installed")
    command = [program, "--unshare-all", "--unshare-user", "--cap-add", "CAP_SYS_ADMIN"]
    for path in dict.fromkeys(paths):
        if not os.path.exists(path):
            continue
        is_device = path.startswith("/dev/")
        command += ["--dev-bind" if is_device else "--ro-bind", path, path]
    for hidden in ("site-packages", "dist-packages"):
        folder = Path(stdlib) / hidden
        if folder.is_dir():
            command += ["--tmpfs", str(folder)]
    command += ["--ro-bind", own_code, _OWN_CODE, "--dir", confine.SCRATCH]
    if not any(Path(path).is_relative_to("/tmp") for path in paths):
        command += ["--symlink", confine.SCRATCH, "/tmp"]
    return [*command, "--remount-ro", "/", "--new-session", "--"]


class _Tail:
    """Reads standard error to its end, so that a server never blocks on a full pipe."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        assert process.stderr is not None
        self._pipe = process.stderr
        self._kept = bytearray()
        self._thread = threading.Thread(target=self._drain, daemon=True)
        self._thread.start()

    def text(self) -> str:
        """The last line it wrote."""
        self._thread.join(timeout=1.0)
        lines = bytes(self._kept).decode(errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else ""

    def _drain(self) -> None:
        with self._pipe as pipe:
            while chunk := os.read(pipe.fileno(), 1 << 12):
                self._kept += chunk
                del self._kept[:-4000]
