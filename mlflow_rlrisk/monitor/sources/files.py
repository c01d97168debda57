"""Stored histories: JSONL, ``trainer_state.json``, CSV and TensorBoard folders.

One JSON object a line with a step and the trainer's own names, flat or, as verl's file logger
writes it, below ``data``. Lines that cannot be read are left out and counted.
"""

import codecs
import csv
import io
import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlflow_rlrisk.errors import HistoryError
from mlflow_rlrisk.monitor.history import LogRow
from mlflow_rlrisk.monitor.sources.points import NothingLoggedError, StoredLog
from mlflow_rlrisk.monitor.sources.tensorboard import EVENTS, event_folders, read_events
from mlflow_rlrisk.plurals import counted

STEP_NAMES = (
    "step",
    "global_step",
    "global_step/max_steps",
    "training/global_step",
    "trainer/global_step",
    "train/global_step",
    "train/step",
    "rollout/step",
    "progress/batch",
    "iteration",
)
"""Where trainers write the step, the first that a row has; ``5/150`` is step 5 of 150."""
COUNTERS = ("_step", "Step")
"""W&B's count of the calls that logged: the steps of a log that has no others."""
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
LARGEST_STEP = 2**63 - 1
"""What MLflow and TensorBoard can store."""
NESTED = ("data", "metrics")
"""Keys below which a row's metrics may stand."""


class FileSource:
    """A file or folder, by its content."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def title(self) -> str:
        """The path."""
        return str(self.path)

    def read(self) -> StoredLog:
        """The whole log; raises `HistoryError` where it cannot be read."""
        if self.path.is_dir():
            return self._read_folder()
        if self.path.name.startswith(EVENTS):
            return StoredLog(rows=read_events(self.path))
        text = read_text(self.path)
        if self.path.suffix.lower() == ".csv":
            notes: list[str] = []
            return _log_of(str(self.path), _csv_rows(self.path, text, notes), notes)
        return self._read_json(text)

    def _read_folder(self) -> StoredLog:
        state = self.path / "trainer_state.json"
        if state.is_file():
            return FileSource(state).read()
        folders = event_folders(self.path)
        if len(folders) == 1:
            return StoredLog(rows=read_events(folders[0]))
        states = self.path.glob("checkpoint-*/trainer_state.json")
        newest = max(
            states, key=lambda each: _first_step([each.parent.name[11:]]) or 0, default=None
        )
        if newest is not None:
            return FileSource(newest).read()
        if folders:
            raise HistoryError(
                f"{self.path} holds the events of {len(folders)} runs: name one of "
                + ", ".join(str(folder) for folder in folders[:4])
            )
        raise HistoryError(f"{self.path}: neither trainer_state.json nor TensorBoard events")

    def _read_json(self, text: str) -> StoredLog:
        try:
            whole = json.loads(text)
        except (ValueError, RecursionError):
            whole = None
        if isinstance(whole, dict) and isinstance(whole.get("log_history"), list):
            history = map(_with_nan, whole["log_history"])
            log = _log_of(str(self.path), history, [])
            return replace(log, is_finished=_has_ended(whole) or None)
        if isinstance(whole, list):
            return _log_of(str(self.path), whole, [])
        notes: list[str] = []
        return _log_of(str(self.path), _json_lines(text, notes), notes)


def _has_ended(state: Mapping[str, Any]) -> bool:
    """Whether the Trainer of ``trainer_state.json`` was done: its last step, or its last words."""
    step, last = (_first_step([state.get(name)]) for name in ("global_step", "max_steps"))
    words = state["log_history"][-1:]
    is_said = any(isinstance(each, Mapping) and "train_runtime" in each for each in words)
    return is_said or (step is not None and last is not None and 0 < last <= step)


def read_text(path: Path) -> str:
    """A log as text, whatever its byte order mark says; undecodable bytes cost their line.

    Raises:
        HistoryError: The file cannot be read.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise HistoryError(f"{path} cannot be read: {error}") from error
    text = raw.decode("utf-16" if raw.startswith(UTF_16) else "utf-8-sig", errors="replace")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _with_nan(record: Any) -> Any:
    """A row of ``log_history`` in which NaN stands for null: TRL logs it where all was NaN."""
    if not isinstance(record, Mapping):
        return record
    return {name: math.nan if value is None else value for name, value in record.items()}


def _csv_rows(path: Path, text: str, notes: list[str]) -> Iterator[dict[str, str]]:
    default_limit = csv.field_size_limit(sys.maxsize)  # completions stand beside the metrics
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""))
        _refuse_twins(path, reader.fieldnames or ())
        for row in reader:
            present = [name for name, value in row.items() if value is not None]
            if len(present) < len(row) and reader.line_num > text.count("\n"):
                notes.append(
                    f"line {reader.line_num} is not complete yet: {present[-1]} is left out"
                )
                row = {**row, present[-1]: ""}
            yield row
    except csv.Error as error:
        raise HistoryError(f"{path} is not CSV: {error}") from error
    finally:
        csv.field_size_limit(default_limit)


def _refuse_twins(path: Path, columns: Sequence[str]) -> None:
    """Refuse two columns for one metric, as in an export of several runs."""
    first_of: dict[str, str] = {}
    for column in filter(None, columns):
        metric = _metric(column)
        if metric in first_of:
            raise HistoryError(
                f"{path}: the columns {first_of[metric]!r} and {column!r} are one metric: the log "
                "of one run is needed, each metric once"
            )
        first_of[metric] = column


def _json_lines(text: str, notes: list[str]) -> Iterator[Any]:
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    broken = []
    for position, (number, line) in enumerate(lines):
        try:
            yield json.loads(line)
        except (ValueError, RecursionError):
            if position == len(lines) - 1 and not text.endswith("\n"):
                notes.append(f"line {number} is not complete yet and left out")
            else:
                broken.append(number)
    if broken:
        shown = ", ".join(map(str, broken[:5]))
        notes.append(
            f"unreadable: {counted(len(broken), 'line is', 'lines are')} no JSON and left out "
            f"(line {shown})"
        )


def _log_of(where: str, records: Iterable[Any], notes: list[str]) -> StoredLog:
    flats, others = [], 0
    for record in records:
        if isinstance(record, Mapping):
            flats.append(_flat(record))
        else:
            others += 1
    steps = [_step(flat) for flat in flats]
    if all(step is None for step in steps):
        steps = [_counted(flat) for flat in flats]
    rows = [
        LogRow(step, _numbers(flat))
        for step, flat in zip(steps, flats, strict=True)
        if step is not None
    ]
    without_step = len(flats) - len(rows)
    if not rows and (without_step or others):
        raise HistoryError(
            f"{where}: no row has a step; one of {', '.join(STEP_NAMES[:5])} ... is needed"
        )
    if not rows:
        raise NothingLoggedError(f"{where} holds no rows" + "".join(f"; {note}" for note in notes))
    if without_step:
        notes.append(
            f"no step: {counted(without_step, 'row has none and is', 'rows have none and are')} "
            "left out"
        )
    if others:
        notes.append(
            f"no object: {counted(others, 'row is no JSON object', 'rows are no JSON objects')} "
            "and left out"
        )
    return StoredLog(rows=rows, notes=tuple(notes))


def _flat(record: Mapping[Any, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in record.items():
        if key in NESTED and isinstance(value, Mapping):
            flat.update(value)
        elif isinstance(key, str):
            flat[_metric(key)] = value
    return flat


def _metric(column: str) -> str:
    """The metric of a column of W&B's CSV export, ``run name - metric``."""
    return column.split(" - ")[-1]


def _step(flat: Mapping[str, Any]) -> int | None:
    by_name = {name.lower(): value for name, value in flat.items() if name not in COUNTERS}
    return _first_step(by_name.get(name) for name in STEP_NAMES)


def _counted(flat: Mapping[str, Any]) -> int | None:
    return _first_step(flat.get(name) for name in COUNTERS)


def _first_step(values: Iterable[Any]) -> int | None:
    for value in values:
        number = _number(value.partition("/")[0] if isinstance(value, str) else value)
        if number is not None and 0 <= number <= LARGEST_STEP and number == int(number):
            return int(number)
    return None


def _numbers(flat: Mapping[str, Any]) -> dict[str, float]:
    values = {name: _number(value, allow_nan=True) for name, value in flat.items()}
    steps = {*STEP_NAMES, *COUNTERS}
    return {n: v for n, v in values.items() if v is not None and n.lower() not in steps}


def _number(value: Any, *, allow_nan: bool = False) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    except OverflowError:
        number = float("inf")
    is_finite = abs(number) < float("inf")  # false for NaN too
    return number if is_finite or allow_nan else None
