"""Which GPU an assessment has to itself: a lease by file lock, one file a device of this machine.

The lock is handed on to the sampling process, so that a device counts as taken until that process
is gone, even where the worker that claimed it was killed.
"""

import contextlib
import fcntl
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from mlflow_rlrisk import AssessmentConfig, ConfigError

VISIBLE = "CUDA_VISIBLE_DEVICES"
POLL_S = 1.0
_DEVICE = re.compile(r"nvidia[0-9]+")


@dataclass(frozen=True, slots=True)
class Claim:
    """Devices that nobody else uses, and the descriptors of their locks."""

    devices: tuple[str, ...]
    locks: tuple[int, ...]

    @property
    def environment(self) -> dict[str, str]:
        """What makes CUDA see these devices and no other one."""
        return {VISIBLE: ",".join(self.devices), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def devices_here(environment: Mapping[str, str]) -> tuple[str, ...]:
    """GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` names them."""
    if VISIBLE in environment:
        return tuple(each.strip() for each in environment[VISIBLE].split(",") if each.strip())
    found = [entry for entry in os.listdir("/dev") if _DEVICE.fullmatch(entry)]
    return tuple(str(index) for index in range(len(found)))


def num_needed(config: AssessmentConfig, devices: tuple[str, ...]) -> int:
    """GPUs that one assessment takes: none on a CPU, else as many as the model is spread over."""
    if config.device == "cpu" or (config.device == "auto" and not devices):
        return 0
    return int(config.backend_options.get("tensor_parallel_size", 1))


@contextlib.contextmanager
def claimed(
    config: AssessmentConfig,
    *,
    keep_waiting: Callable[[], None],
    devices: tuple[str, ...] | None = None,
    folder: Path | None = None,
) -> Iterator[Claim]:
    """Have the devices of one assessment to oneself.

    Args:
        config: Says how many.
        keep_waiting: Called while others have them; what it raises ends the wait.
        devices: Those of this machine; found where absent.
        folder: Where the locks are; one of this user where absent.

    Raises:
        ConfigError: More devices are needed than there are.
    """
    here = devices_here(os.environ) if devices is None else devices
    num = num_needed(config, here)
    if num > len(here):
        raise ConfigError("device", config.device, f"{num} GPUs are needed, {len(here)} are here")
    place = _own_folder() if folder is None else folder
    with contextlib.ExitStack() as held:
        while True:
            free = _try_to_lock(here, num, place, held)
            if free is not None:
                break
            keep_waiting()
            time.sleep(POLL_S)
        yield Claim(tuple(free), tuple(free.values()))


def _try_to_lock(
    devices: tuple[str, ...], num: int, folder: Path, held: contextlib.ExitStack
) -> dict[str, int] | None:
    """Lock the first ``num`` free devices, or none: half a claim would block others."""
    locks: dict[str, int] = {}
    with contextlib.ExitStack() as tentative:
        for device in devices:
            if len(locks) == num:
                break
            name = re.sub(r"[^A-Za-z0-9-]", "-", device)
            lock = os.open(
                folder / f"gpu-{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
            )
            tentative.callback(os.close, lock)
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                locks[device] = lock
        if len(locks) < num:
            return None
        held.push(tentative.pop_all())
    return locks


def _own_folder() -> Path:
    folder = Path(tempfile.gettempdir(), f"rlrisk-gpus-{os.geteuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if folder.is_symlink() or status.st_uid != os.geteuid():
        raise ConfigError("TMPDIR", str(folder), "it belongs to somebody else")
    return folder
