"""Time contenders in turn within one run, so that a noisy machine is noisy for all of them."""

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any


def seconds_by_name(
    contenders: Mapping[str, Callable[[], object]], reps: int, *, is_warm: bool = False
) -> dict[str, list[float]]:
    """CPU seconds of each contender in each round, after one that is not counted unless warm."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for round_number in range(0 if is_warm else -1, reps):
        for name, run in contenders.items():
            start = time.process_time()
            run()
            if round_number >= 0:
                seconds[name].append(time.process_time() - start)
    return seconds


def table(
    title: str, seconds: Mapping[str, list[float]], scale: Mapping[str, float], ours: str
) -> dict[str, Any]:
    """Print one row for each contender; times are scaled up from what was really run.

    Args:
        title: What was measured.
        seconds: Of each contender, by `seconds_by_name`.
        scale: Full size over size that was run, 1 where absent.
        ours: The contender that the others are compared with.

    Returns:
        The rows as JSON: median seconds and the median over rounds of "times ours".
    """
    full = {name: [each * scale.get(name, 1.0) for each in runs] for name, runs in seconds.items()}
    print(f"\n{title}\n{'':34}{'median s':>12}{'x ours':>10}   scaled from")
    rows = {}
    for name, runs in full.items():
        ratio = median(run / own for run, own in zip(runs, full[ours], strict=True))
        factor = scale.get(name, 1.0)
        note = "" if factor == 1.0 else f"1/{factor:g} of the size"
        print(f"{name:34}{median(runs):12.5f}{ratio:10.4g}   {note}")
        rows[name] = {"median_s": median(runs), "times_ours": ratio, "scaled_by": factor}
    return {"title": title, "rows": rows}


def goal(name: str, reached: float, wanted: float) -> bool:
    """Print whether a goal was reached, in words."""
    verdict = "reached" if reached >= wanted else "MISSED"
    print(f"  {name}: {reached:.0f}x, goal {wanted:.0f}x -> {verdict}")
    return reached >= wanted


def finish(results: list[dict[str, Any]], destination: Path | None) -> None:
    """Print the load of the machine and write the results, where a file is named."""
    print(f"\nload average {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores, CPU time, 1 thread")
    if destination is not None:
        destination.parent.mkdir(parents=True, exist_ok=True)
        destination.write_text(json.dumps(results, indent=2) + "\n")
