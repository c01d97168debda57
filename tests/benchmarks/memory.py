"""Peak memory of one call in this process (Linux)."""

from collections.abc import Callable
from pathlib import Path


def resident_growth_mb(run: Callable[[], object]) -> float:
    """Most resident memory during ``run`` above what was resident before it, MB."""
    Path("/proc/self/clear_refs").write_text("5")
    before = _status_mb("VmRSS")
    run()
    return _status_mb("VmHWM") - before


def _status_mb(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"no {field} in /proc/self/status")
