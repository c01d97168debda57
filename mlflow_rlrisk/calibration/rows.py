"""One row a checkpoint: what was measured before RL, and what RL then made of it.

Runs of one checkpoint are no independent outcomes, so they are averaged into one row.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from mlflow_rlrisk.calibration.formula import index_of
from mlflow_rlrisk.config import ComponentConfig
from mlflow_rlrisk.errors import ConfigError, PromptSetError, StatisticsError
from mlflow_rlrisk.metrics.catalogue import spec_of
from mlflow_rlrisk.prompts.sources import parse_json

FAILED_RULE = (
    "half of the checkpoint's runs or more failed; a run failed where it is recorded as failed or "
    "collapsed, or where it gained no more than the least gain asked for"
)
_SECONDS = 3600.0
_LARGEST = 1e100
_Finite = Annotated[float, Field(gt=-_LARGEST, lt=_LARGEST, allow_inf_nan=False)]
_Share = Annotated[float, Field(ge=0.0, le=1.0)]
_Name = Annotated[str, Field(min_length=1)]
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeRow:
    """A checkpoint with its outcome.

    Attributes:
        lineage: What it is a sibling in; siblings are never both fitted on and tested on.
        checkpoint: Its name.
        index: The risk index under the formula that is calibrated.
        metrics: Figures before RL by full name.
        failed: Whether RL from it failed.
        final: Success at the end of RL, mean over runs.
        gain: ``final`` less the start, mean over runs.
        hours: Length of one run, or its cost in device hours; ``None`` where it is not known.
        num_runs: Runs.
        is_preregistered: Whether the report is older than the outcome; ``None`` where times are
            not known.
    """

    lineage: str
    checkpoint: str
    index: float
    metrics: Mapping[str, float]
    failed: bool
    final: float
    gain: float
    hours: float | None
    num_runs: int
    is_preregistered: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A checkpoint that could not be used, and why."""

    checkpoint: str
    reason: str


class _Strict(BaseModel):
    """``"no"`` is no boolean here, and ``"0.5"`` no number; keys for others are allowed."""

    model_config = ConfigDict(strict=True, extra="ignore")


class _Final(_Strict):
    pass_at_1: _Share


class _Gain(_Strict):
    pass_at_1: _Finite


class _Run(_Strict):
    final: _Final
    gain: _Gain
    failed: bool
    seconds: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] | None = None

    @model_validator(mode="after")
    def _starts_from_a_share(self) -> Self:
        start = self.final.pass_at_1 - self.gain.pass_at_1
        if not -_ROUNDING <= start <= 1.0 + _ROUNDING:
            raise ValueError(f"final less gain is {start:g}: no share that a run can start from")
        return self


class _Row(_Strict):
    lineage: _Name
    checkpoint: _Name
    metrics: dict[str, _Finite]
    outcomes: list[_Run]

    @field_validator("metrics")
    @classmethod
    def _are_what_their_names_say(cls, metrics: dict[str, float]) -> dict[str, float]:
        for name, value in metrics.items():
            spec = spec_of(name)
            low, high = (None, None) if spec is None else (spec.lower, spec.upper)
            if (low is not None and value < low - _ROUNDING) or (
                high is not None and value > high + _ROUNDING
            ):
                raise ValueError(f"{name} is {value:g}, which lies beyond {low} to {high}")
        return metrics


def read_rows(
    path: Path,
    components: Mapping[str, ComponentConfig],
    *,
    min_gain: float | None = None,
) -> tuple[list[OutcomeRow], list[LeftOut]]:
    """Rows of a JSONL file, one object a line.

    A line names ``lineage`` and ``checkpoint`` and holds ``metrics`` (full name to value) and
    ``outcomes``, a list of runs with ``final`` and ``gain`` (each ``{"pass_at_1": share}``),
    ``failed`` and, where known, ``seconds``. More keys are allowed. The index is computed from
    the metrics under ``components``, whatever index the line holds.

    Args:
        path: The file.
        components: Lines of the index that is calibrated.
        min_gain: A run that gains no more than this failed; ``None`` takes ``failed`` alone.

    Raises:
        ConfigError: The file cannot be read, or a line has another form.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # names may hold U+2028
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("data", str(path), f"cannot be read: {error}") from error
    rows: list[OutcomeRow] = []
    left_out: list[LeftOut] = []
    seen: set[tuple[str, str]] = set()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        row = _parsed(path, number, line)
        if (row.lineage, row.checkpoint) in seen:
            raise ConfigError(
                "data", f"{path}:{number}", f"{row.checkpoint} of {row.lineage} occurs twice"
            )
        seen.add((row.lineage, row.checkpoint))
        found = _outcome(row, components, min_gain)
        if isinstance(found, LeftOut):
            left_out.append(found)
        else:
            rows.append(found)
    return rows, left_out


def _parsed(path: Path, number: int, line: str) -> _Row:
    try:
        return _Row.model_validate(parse_json(line, "the line"))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "line"
        raise ConfigError("data", f"{path}:{number}", f"{where}: {first['msg']}") from error
    except PromptSetError as error:
        raise ConfigError("data", f"{path}:{number}", str(error)) from error


def _outcome(
    row: _Row, components: Mapping[str, ComponentConfig], min_gain: float | None
) -> OutcomeRow | LeftOut:
    if not row.outcomes:
        return LeftOut(checkpoint=row.checkpoint, reason="no run is recorded")
    try:
        index = index_of(row.metrics, components)
    except StatisticsError as error:
        return LeftOut(checkpoint=row.checkpoint, reason=str(error))
    runs: list[dict[str, Any]] = [
        {
            "final": run.final.pass_at_1,
            "gain": run.gain.pass_at_1,
            "failed": run.failed,
            "hours": None if run.seconds is None else run.seconds / _SECONDS,
        }
        for run in row.outcomes
    ]
    return merged(row.lineage, row.checkpoint, index, row.metrics, runs, min_gain=min_gain)


def merged(
    lineage: str,
    checkpoint: str,
    index: float,
    metrics: Mapping[str, float],
    runs: list[dict[str, Any]],
    *,
    min_gain: float | None,
    is_preregistered: bool | None = None,
) -> OutcomeRow:
    """One row of the runs of one checkpoint, at least one.

    Args:
        lineage: See `OutcomeRow`.
        checkpoint: See there.
        index: See there.
        metrics: See there.
        runs: ``final``, ``gain``, ``failed`` and ``hours`` (or ``None``) of each.
        min_gain: A run that gains no more than this failed; ``None`` takes ``failed`` alone.
        is_preregistered: See `OutcomeRow`.
    """
    count = len(runs)
    failures = sum(
        bool(run["failed"]) or (min_gain is not None and run["gain"] <= min_gain) for run in runs
    )
    hours = [run["hours"] for run in runs if run["hours"] is not None]
    return OutcomeRow(
        lineage=lineage,
        checkpoint=checkpoint,
        index=index,
        metrics=dict(metrics),
        failed=2 * failures >= count,
        final=math.fsum(run["final"] for run in runs) / count,
        gain=math.fsum(run["gain"] for run in runs) / count,
        hours=math.fsum(hours) / len(hours) if hours else None,
        num_runs=count,
        is_preregistered=is_preregistered,
    )
