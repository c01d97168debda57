"""Run a command as an ordinary container would: no namespaces, no mounts, few capabilities.

There is no container engine in the test environment; this refuses the same system calls with the
same errors, by seccomp, and drops the capabilities that container engines drop.
"""

import ctypes
import errno
import os
import platform
import struct
import sys

from mlflow_rlrisk.verifiers.code.sandbox import seccomp
from mlflow_rlrisk.verifiers.code.sandbox.syscalls import FATAL, FILTERED

REFUSED = (
    "unshare",
    "setns",
    "mount",
    "umount2",
    "pivot_root",
    "move_mount",
    "open_tree",
    "fsopen",
    "fsmount",
    "keyctl",
    "add_key",
    "request_key",
    "bpf",
    "perf_event_open",
    "userfaultfd",
    "io_uring_setup",
    "init_module",
    "reboot",
)
CLONE_NEW_ANYTHING = 0x7E020000
CONTAINER_CAPABILITIES = 0xA80425FB
"""What Docker leaves to root."""


def main() -> None:
    column, arch = seccomp.ARCHITECTURES[platform.machine()]
    refuse = (0x06, 0, 0, 0x00050000 | errno.EPERM)
    code = [(0x20, 0, 0, 4), (0x15, 1, 0, arch), (0x06, 0, 0, 0x80000000), (0x20, 0, 0, 0)]
    for name in REFUSED:
        code += [(0x15, 0, 1, FATAL[name][column]), refuse]
    code += [
        (0x15, 0, 1, FILTERED["clone3"][column]),
        (0x06, 0, 0, 0x00050000 | errno.ENOSYS),
        (0x15, 0, 4, FILTERED["clone"][column]),
        (0x20, 0, 0, 16),
        (0x45, 0, 1, CLONE_NEW_ANYTHING),
        refuse,
        (0x06, 0, 0, 0x7FFF0000),
        (0x06, 0, 0, 0x7FFF0000),
    ]
    libc = ctypes.CDLL(None, use_errno=True)
    if os.geteuid() == 0:
        kept = CONTAINER_CAPABILITIES
        for capability in range(41):
            if not kept >> capability & 1:
                libc.prctl(24, capability, 0, 0, 0)
        header = struct.pack("Ii", 0x20080522, 0)
        assert libc.capset(header, struct.pack("6I", kept, kept, 0, 0, 0, 0)) == 0
    seccomp.install(b"".join(struct.pack("HBBI", *each) for each in code))
    os.execvp(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
