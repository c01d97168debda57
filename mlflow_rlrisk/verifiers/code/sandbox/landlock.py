"""Landlock: which files a sandboxed process may open, and no TCP, from the kernel's own rules.

Made once by the fork server, put on by each process that it forks. Every right that the running
kernel knows is handled, so that a newer kernel refuses more and never less.
"""

import ctypes
import os
import struct
from collections.abc import Iterable
from pathlib import Path

_LIBC = ctypes.CDLL(None, use_errno=True)
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION_FLAG, _PATH_BENEATH = 1, 1
_READ = 1 << 2 | 1 << 3
_FILE_RIGHTS = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 14 | 1 << 15
_WRITE = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 7 | 1 << 8 | 1 << 14
"""Write, remove, make folders and regular files, truncate."""
EXECUTE, IOCTL_DEVICE = 1 << 0, 1 << 15
WRITE_ANYTHING = 0b111_1111_1111_0000 | 1 << 1
"""Write, remove, make whatever there is, move between folders, truncate."""
_NUM_FS_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_FIRST_WITH_TCP, _FIRST_WITH_SCOPES = 4, 6


def abi() -> int:
    """Version of Landlock in the running kernel, 0 where there is none."""
    version = _syscall(_CREATE_RULESET, 0, 0, _VERSION_FLAG)
    return max(version, 0)


def make_ruleset(
    readable: Iterable[str],
    writable: Iterable[str],
    *,
    left_free: int = 0,
    written: int = _WRITE,
    has_tcp_rules: bool = True,
) -> int:
    """A ruleset as file descriptor; paths that are not there are left out.

    Args:
        readable: Files and folders that may be read.
        writable: Those that may be written to as well.
        left_free: Rights that the rules do not speak of.
        written: What may be done with the writable ones.
        has_tcp_rules: No TCP, where the kernel can say so.

    Raises:
        OSError: The kernel has no Landlock or refuses the rules.
    """
    version = abi()
    if version == 0:
        raise OSError("the kernel has no Landlock")
    rights = ((1 << _NUM_FS_RIGHTS.get(version, 16)) - 1) & ~left_free
    attributes = struct.pack("Q", rights)
    if version >= _FIRST_WITH_TCP:
        attributes += struct.pack("Q", 0b11 if has_tcp_rules else 0)
    if version >= _FIRST_WITH_SCOPES:
        attributes += struct.pack("Q", 0b11)
    ruleset = _syscall(_CREATE_RULESET, attributes, len(attributes), 0)
    if ruleset < 0:
        raise OSError(ctypes.get_errno(), "landlock_create_ruleset")
    for paths, allowed in ((readable, _READ), (writable, _READ | written)):
        for path in paths:
            _allow(ruleset, path, allowed & rights)
    return ruleset


def restrict_self(ruleset: int) -> None:
    """Put the rules on this process for good; needs no_new_privs.

    Raises:
        OSError: The kernel refuses.
    """
    if _syscall(_RESTRICT_SELF, ruleset, 0) != 0:
        raise OSError(ctypes.get_errno(), "landlock_restrict_self")


def _allow(ruleset: int, path: str, allowed: int) -> None:
    if not os.path.exists(path):  # false too where this user may not look
        return
    if not Path(path).is_dir():
        allowed &= _FILE_RIGHTS
    try:
        parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except PermissionError:
        return
    try:
        rule = struct.pack("=Qi", allowed, parent)
        if _syscall(_ADD_RULE, ruleset, _PATH_BENEATH, rule, 0) != 0:
            raise OSError(ctypes.get_errno(), f"landlock_add_rule {path}")
    finally:
        os.close(parent)


def _syscall(number: int, *arguments: int | bytes) -> int:
    converted = [
        ctypes.c_char_p(each) if isinstance(each, bytes) else ctypes.c_long(each)
        for each in arguments
    ]
    return int(_LIBC.syscall(ctypes.c_long(number), *converted))
