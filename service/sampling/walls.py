"""Walls around the sampling process, put up before anything of a checkpoint is read.

No network: a network namespace of its own with nothing but loopback in it, else a seccomp filter
that gives no socket but local ones. One of them stands, or nothing is sampled. Files: Landlock,
where the kernel has it, lets it read Python, the system and what its task names, and write into
its own folders; it also keeps it from reading the memory and environment of other processes.
"""

import ctypes
import errno
import fcntl
import logging
import os
import platform
import socket
import struct
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from mlflow_rlrisk.verifiers.code.sandbox import landlock, seccomp
from mlflow_rlrisk.verifiers.code.sandbox.syscalls import FILTERED

logger = logging.getLogger(__name__)

NEED_LOOPBACK = ("vllm", "ray")
"""Backends whose own processes talk over 127.0.0.1: a namespace serves them, a filter does not."""
SYSTEM = (
    *("/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/etc", "/opt", "/proc", "/sys"),
    *("/dev", "/run/nvidia-persistenced", "/var/lib/ca-certificates"),
)
DEVICES = (
    *("null", "zero", "full", "random", "urandom", "tty", "shm", "pts", "dri", "kfd"),
    *("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset", "nvidia-caps"),
)
"""What may be written to below ``/dev``; ``nvidia<number>`` as well."""

_LIBC = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_PR_SET_NO_NEW_PRIVS = 38
_CAPABILITY_VERSION_3 = 0x20080522
_SIOCSIFFLAGS, _IFF_UP_RUNNING = 0x8914, 0x41
_IO_URING_SETUP = 425
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_LOAD, _JUMP_EQ, _JUMP_GE, _RETURN = 0x20, 0x15, 0x35, 0x06


class WallError(OSError):
    """The network cannot be walled off, so that nothing may be sampled."""


def raise_walls(
    *, backend: str, is_offline: bool, readable: Iterable[str], writable: Iterable[str]
) -> list[str]:
    """Put this process behind its walls for good; it must have one thread only.

    Args:
        backend: Name of the sampler, for what it needs.
        is_offline: No network.
        readable: Files and folders beside Python and the system.
        writable: Folders, also readable.

    Returns:
        What stands, as words for the log.

    Raises:
        WallError: There is no way here to take the network away.
    """
    walls = []
    if not sys.platform.startswith("linux"):
        if is_offline:
            raise WallError(errno.ENOSYS, "walls need Linux; network: host does without")
        return walls
    is_filtered = False
    if is_offline:
        try:
            _own_network()
            walls.append("own network")
        except OSError as error:
            if backend in NEED_LOOPBACK:
                need = f"{backend} needs user namespaces, or network: host"
                raise WallError(error.errno, f"{need}: {error.strerror}") from error
            is_filtered = True
    _drop_privileges()
    if landlock.abi() > 0:
        ruleset = landlock.make_ruleset(
            [*SYSTEM, *_python(), *readable],
            [*_devices(), *writable],
            left_free=landlock.EXECUTE | landlock.IOCTL_DEVICE,
            written=landlock.WRITE_ANYTHING,
            has_tcp_rules=False,
        )
        landlock.restrict_self(ruleset)
        os.close(ruleset)
        walls.append("files")
    if is_filtered:
        try:
            seccomp.install(_local_sockets_only())
        except OSError as error:
            raise WallError(error.errno, f"seccomp: {error.strerror}") from error
        walls.append("local sockets only")
    return walls


def _own_network() -> None:
    """A network namespace with loopback only, and a user namespace so that nobody need be root."""
    user, group = os.getuid(), os.getgid()
    if _LIBC.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1", encoding="ascii")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1", encoding="ascii")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP_RUNNING))


def _drop_privileges() -> None:
    if _LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise WallError(ctypes.get_errno(), "no_new_privs")
    if _LIBC.capset(struct.pack("Ii", _CAPABILITY_VERSION_3, 0), bytes(24)) != 0:
        raise WallError(ctypes.get_errno(), "capset")


def _python() -> Sequence[str]:
    """Where modules come from; not the working directory, which may hold keys and settings."""
    here, named = os.getcwd(), os.environ.get("PYTHONPATH", "").split(os.pathsep)
    places = [each for each in sys.path[1:] if each and (each != here or each in named)]
    packages = [str(Path(__file__).parents[1]), str(Path(landlock.__file__).parents[3])]
    return [sys.prefix, sys.base_prefix, sys.exec_prefix, *places, *named, *packages]


def _devices() -> list[str]:
    numbered = [name for name in os.listdir("/dev") if name.removeprefix("nvidia").isdigit()]
    return [f"/dev/{name}" for name in (*DEVICES, *numbered)]


def _local_sockets_only() -> bytes:
    """A filter that lets everything pass but sockets of the network and io_uring, which has them.

    Raises:
        OSError: There is no table of system calls for this machine.
    """
    if not seccomp.is_known_machine():
        raise OSError(errno.ENOSYS, f"no table of system calls for {platform.machine()}")
    column, arch = seccomp.ARCHITECTURES[platform.machine()]
    code = [
        (_LOAD, 0, 0, 4),
        (_JUMP_EQ, 1, 0, arch),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, 0),
        (_JUMP_GE, 0, 1, 0x40000000),
        (_RETURN, 0, 0, _KILL),
        (_JUMP_EQ, 0, 1, _IO_URING_SETUP),
        (_RETURN, 0, 0, _ERRNO | errno.ENOSYS),
        (_JUMP_EQ, 0, 3, FILTERED["socket"][column]),
        (_LOAD, 0, 0, 16),
        (_JUMP_EQ, 1, 0, int(socket.AF_UNIX)),
        (_RETURN, 0, 0, _ERRNO | errno.ENETUNREACH),
        (_RETURN, 0, 0, _ALLOW),
    ]
    return b"".join(struct.pack("HBBI", *instruction) for instruction in code)
