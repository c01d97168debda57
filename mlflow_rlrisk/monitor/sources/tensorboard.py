"""Scalars of a TensorBoard folder, in the order in which they were written."""

import logging
from pathlib import Path
from typing import Any

from mlflow_rlrisk.errors import HistoryError, MissingDependencyError
from mlflow_rlrisk.monitor.history import LogRow
from mlflow_rlrisk.monitor.sources.points import Point, rows_from_points

EVENTS = "events.out.tfevents."
"""How the names of its files begin."""


def event_folders(path: Path) -> list[Path]:
    """Folders at or below ``path`` that hold event files."""
    return sorted({file.parent for file in path.rglob(f"{EVENTS}*")})


def read_events(path: Path) -> list[LogRow]:
    """Every scalar of a run, of a folder or of one file of it.

    Raises:
        MissingDependencyError: The package tensorboard is not installed.
        HistoryError: There is no scalar.
    """
    try:
        from tensorboard.backend.event_processing import event_accumulator
    except ImportError as error:
        raise MissingDependencyError("reading a TensorBoard folder", "tensorboard") from error
    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    # Nothing is thinned out, and what a restart wrote again is kept: `History` sees to that.
    accumulator: Any = event_accumulator.EventAccumulator(
        str(path), size_guidance={event_accumulator.SCALARS: 0}, purge_orphaned_data=False
    )
    accumulator.Reload()
    points = [
        Point(event.wall_time, int(event.step), name, float(event.value))
        for name in accumulator.Tags()[event_accumulator.SCALARS]
        for event in accumulator.Scalars(name)
    ]
    if not points:
        raise HistoryError(f"{path}: no scalar is in its TensorBoard events")
    return rows_from_points(points)
