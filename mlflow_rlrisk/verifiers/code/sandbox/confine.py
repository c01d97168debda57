"""Take everything from a freshly forked process that its task does not need. There is no way back.

The order matters: a private scratch folder needs the capability that is dropped next, Landlock
needs no_new_privs, and seccomp comes last because it forbids all of the above.
"""

import ctypes
import os
import resource
import struct
from dataclasses import dataclass

from mlflow_rlrisk.verifiers.code.sandbox import landlock, seccomp

SCRATCH = "/sandbox/scratch"
"""Mounted anew for every process where there are namespaces (tier A)."""
SCRATCH_OPTIONS = b"size=16m,nr_inodes=1024,mode=0700"
MAX_OPEN_FILES = 64
MAX_FILE_BYTES = 16 << 20
STACK_BYTES = 64 << 20

_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_CLONE_NEWNS = 0x00020000
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 2, 4, 8
_SIGKILL = 9
_CAPABILITY_VERSION_3 = 0x20080522


@dataclass(frozen=True, slots=True, kw_only=True)
class Walls:
    """What the fork server puts around each process.

    Attributes:
        ruleset: Landlock ruleset, ``None`` for none.
        has_seccomp: The allow-list is installed.
        has_scratch: A private tmpfs is mounted on `SCRATCH`; needs namespaces.
    """

    ruleset: int | None
    has_seccomp: bool
    has_scratch: bool


def confine(walls: Walls, *, memory_bytes: int, cpu_s: int) -> None:
    """Put this process behind the walls.

    Raises:
        OSError: One of them cannot be put up; the process must end.
    """
    if walls.has_scratch:
        _checked(_LIBC.unshare(_CLONE_NEWNS), "unshare")
        flags = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
        mounted = _LIBC.mount(b"tmpfs", SCRATCH.encode(), b"tmpfs", flags, SCRATCH_OPTIONS)
        _checked(mounted, "mount of the scratch folder")
        os.chdir(SCRATCH)
    _set_limits(memory_bytes, cpu_s)
    _checked(_LIBC.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0), "dumpable")
    _checked(_LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    _drop_capabilities()
    if walls.ruleset is not None:
        landlock.restrict_self(walls.ruleset)
        os.close(walls.ruleset)
    if walls.has_seccomp:
        seccomp.install(seccomp.build(os.getpid()))


def die_with_parent(parent: int) -> None:
    """Have the kernel end this process when the fork server ends.

    Raises:
        OSError: The parent is gone, or the kernel refuses.
    """
    _checked(_LIBC.prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0), "pdeathsig")
    if os.getppid() != parent:
        raise OSError("the fork server is gone")


def hide_from_siblings() -> None:
    """No process of the same user may trace this one or read its memory."""
    _checked(_LIBC.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0), "dumpable")


def _set_limits(memory_bytes: int, cpu_s: int) -> None:
    for what, soft, hard in (
        (resource.RLIMIT_AS, memory_bytes, memory_bytes),
        (resource.RLIMIT_DATA, memory_bytes, memory_bytes),
        (resource.RLIMIT_STACK, STACK_BYTES, STACK_BYTES),
        (resource.RLIMIT_CPU, cpu_s, cpu_s + 1),
        (resource.RLIMIT_NOFILE, MAX_OPEN_FILES, MAX_OPEN_FILES),
        (resource.RLIMIT_FSIZE, MAX_FILE_BYTES, MAX_FILE_BYTES),
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_MEMLOCK, 0, 0),
        (resource.RLIMIT_MSGQUEUE, 0, 0),
    ):
        ceiling = resource.getrlimit(what)[1]
        limited = hard if ceiling == resource.RLIM_INFINITY else min(hard, ceiling)
        resource.setrlimit(what, (min(soft, limited), limited))


def _drop_capabilities() -> None:
    _LIBC.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)  # kernels before 4.3: none
    header = struct.pack("Ii", _CAPABILITY_VERSION_3, 0)
    _checked(_LIBC.capset(header, bytes(24)), "capset")


def _checked(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
