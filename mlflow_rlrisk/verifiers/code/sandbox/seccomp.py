"""The seccomp allow-list of a sandboxed process, written as classic BPF.

Three answers: allowed; ``ENOSYS`` (the C library falls back, Python raises `OSError`); and death by
SIGSYS for calls that only an attack makes, so that the judge learns of the attempt. A process
cannot be started, which ends daemons, pipe holders and fork bombs at the root; threads can.
"""

import ctypes
import errno
import platform
import signal
import struct
from collections.abc import Iterator
from functools import cache

from mlflow_rlrisk.verifiers.code.sandbox.syscalls import ALLOWED, FATAL, FILTERED

ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""Machine -> column of the tables, AUDIT_ARCH value."""

_LIBC = ctypes.CDLL(None, use_errno=True)
_ALLOW, _KILL_PROCESS, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_LOAD, _JUMP_EQ, _JUMP_GE, _JUMP_SET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER_AT, _ARCH_AT, _ARGS_AT = 0, 4, 16
_X32_BIT = 0x40000000
_CLONE_THREAD = 0x10000
_AF_UNIX = 1
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _PR_SET_NAME = 38, 22, 15
_IOCTLS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
"""TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX."""

_ANY_PID = 0x7FFFFFFE
"""No process has this number; Linux ends at 2**22."""

Instruction = tuple[int, int, int, int]


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def is_known_machine() -> bool:
    """True where the tables have the numbers of this machine."""
    return platform.machine() in ARCHITECTURES


def build(pid: int) -> bytes:
    """The filter for the process ``pid``, which may signal itself and nobody else.

    Raises:
        OSError: There is no table for this machine.
    """
    own = struct.pack("HBBI", _JUMP_EQ, 1, 0, pid)
    return _template().replace(struct.pack("HBBI", _JUMP_EQ, 1, 0, _ANY_PID), own)


@cache
def _template() -> bytes:
    """The filter with `_ANY_PID` in the place of the process; made once, before any fork.

    Raises:
        OSError: There is no table for this machine.
    """
    if not is_known_machine():
        raise OSError(errno.ENOSYS, f"no table of system calls for {platform.machine()}")
    column, arch = ARCHITECTURES[platform.machine()]
    code: list[Instruction] = [
        (_LOAD, 0, 0, _ARCH_AT),
        (_JUMP_EQ, 1, 0, arch),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, _NUMBER_AT),
        (_JUMP_GE, 0, 1, _X32_BIT),
        (_RETURN, 0, 0, _KILL_PROCESS),
    ]
    for table, action in ((ALLOWED, _ALLOW), (FATAL, _KILL_PROCESS)):
        for numbers in table.values():
            if numbers[column] >= 0:
                code += [(_JUMP_EQ, 0, 1, numbers[column]), (_RETURN, 0, 0, action)]
    for name, rule in _rules(_ANY_PID).items():
        number = FILTERED[name][column]
        if number >= 0:
            code += [(_JUMP_EQ, 0, len(rule), number), *rule]
    code.append((_RETURN, 0, 0, _ERRNO | errno.ENOSYS))
    return b"".join(struct.pack("HBBI", *instruction) for instruction in code)


def install(program: bytes) -> None:
    """Put the filter on this process for good.

    Raises:
        OSError: The kernel refuses.
    """
    buffer = ctypes.create_string_buffer(program, len(program))
    header = _Program(len(program) // 8, ctypes.addressof(buffer))
    if _LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "no_new_privs")
    if _LIBC.prctl(_PR_SET_SECCOMP, 2, ctypes.byref(header), 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "seccomp")


def _rules(pid: int) -> dict[str, list[Instruction]]:
    """What follows once the number has matched; every path returns."""
    allow, die = (_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _KILL_PROCESS)
    no_such_call, refused = ((_RETURN, 0, 0, _ERRNO | code) for code in (errno.ENOSYS, errno.EPERM))
    return {
        "clone": [_argument(0), (_JUMP_SET, 0, 1, _CLONE_THREAD), allow, die],
        "clone3": [no_such_call],  # its flags lie in memory that a filter cannot read
        "kill": list(_own_signal(pid, 1, allow, die)),
        "tgkill": list(_own_signal(pid, 2, allow, die)),
        "tkill": [refused],
        "prlimit64": [
            _argument(2),
            (_JUMP_EQ, 0, 3, 0),
            (_LOAD, 0, 0, _ARGS_AT + 8 * 2 + 4),
            (_JUMP_EQ, 0, 1, 0),
            allow,
            refused,
        ],
        # The C library asks its name service daemon by a local socket and gets on without it.
        "socket": [_argument(0), (_JUMP_EQ, 0, 1, _AF_UNIX), refused, die],
        "socketpair": [_argument(0), (_JUMP_EQ, 0, 1, _AF_UNIX), allow, die],
        "sendto": [
            _argument(4),
            (_JUMP_EQ, 0, 3, 0),
            (_LOAD, 0, 0, _ARGS_AT + 8 * 4 + 4),
            (_JUMP_EQ, 0, 1, 0),
            allow,
            die,
        ],
        "recvfrom": [allow],
        "ioctl": [_argument(1), *_one_of(_IOCTLS, allow), refused],
        "prctl": [_argument(0), (_JUMP_EQ, 0, 1, _PR_SET_NAME), allow, refused],
    }


def _argument(index: int) -> Instruction:
    """Load the low half of an argument; both machines are little-endian."""
    return (_LOAD, 0, 0, _ARGS_AT + 8 * index)


def _one_of(values: tuple[int, ...], then: Instruction) -> Iterator[Instruction]:
    for value in values:
        yield from ((_JUMP_EQ, 0, 1, value), then)


def _own_signal(
    pid: int, signal_index: int, allow: Instruction, die: Instruction
) -> Iterator[Instruction]:
    """To itself, but not SIGKILL: that one is to mean that the machine ended the process."""
    yield _argument(0)
    yield (_JUMP_EQ, 1, 0, pid)
    yield die
    yield _argument(signal_index)
    yield (_JUMP_EQ, 0, 1, int(signal.SIGKILL))
    yield die
    yield allow
