"""The rows of ``results/pairs.jsonl``: one checkpoint with its report and what GRPO made of it.

Everything that happened is a row, failed and diverged runs too. Nothing heavy is imported here,
so that an analysis can read the data without torch.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter
from typing_extensions import TypedDict

Kind = Literal["ladder", "diverse", "trap", "smoothed", "base"]


class Passes(TypedDict):
    """Means over the held-out prompts, sampled as in RL; shares in [0, 1] (a gain in [-1, 1])."""

    pass_at_1: float
    pass_at_10: float


class CurvePoint(Passes):
    """Held-out passes after ``step`` optimizer steps of GRPO."""

    step: int


class RunOutcome(TypedDict):
    """One GRPO run; every definition stands in ``SETTINGS.json``.

    ``curve`` starts at step 0 and ends at the last step; ``peak`` is its maximum for each figure
    by itself, ``final`` its last point, ``before`` its first and ``gain`` is final minus before.
    ``reward``, ``frac_reward_zero_std`` and ``entropy`` are TRL's log, one entry a step. A run
    that broke off has ``failed`` true, the word in ``error`` and the curve up to there.
    """

    rl_seed: int
    before: Passes
    curve: list[CurvePoint]
    peak: Passes
    final: Passes
    gain: Passes
    failed: bool
    error: str | None
    reward: list[float]
    frac_reward_zero_std: list[float]
    entropy: list[float]
    seconds: float


class Rivals(TypedDict):
    """Simple predictors beside the report.

    ``greedy_pass_at_1`` on the assessed RL prompts, ``val_pass_at_1`` (sampled) on validation
    prompts of the expert set's kind, ``heldout_nll`` (nats a token) on held-out expert answers.
    """

    greedy_pass_at_1: float
    val_pass_at_1: float
    heldout_nll: float


class Digests(TypedDict):
    """SHA-256 of what the row depends on."""

    weights: str
    settings: str
    prompts: str
    code: str


class PairRow(TypedDict):
    """One checkpoint, assessed before RL, and the runs that started from it.

    ``metrics`` holds the report's figures under their full names, each interval as
    ``<name>_ci_low`` and ``<name>_ci_high``; a figure the report leaves undefined is absent.
    ``depth`` is in epochs over the narrow expert set, counted in optimizer steps, so that equal
    depths of ``narrow`` and ``diverse`` data took equally many steps.
    """

    lineage: str
    task: str
    architecture: str
    checkpoint: str
    kind: Kind
    data: Literal["narrow", "diverse", "none"]
    depth: int
    sft_seed: int
    parent: str | None
    trap: Literal["flattened", "sharpened"] | None
    metrics: dict[str, float]
    risk_level: Literal["low", "medium", "high", "unknown"]
    reasons: list[str]
    rivals: Rivals
    report: str
    outcomes: list[RunOutcome]
    digests: Digests
    versions: dict[str, str]


_ROW = TypeAdapter(PairRow)


def read_pairs(path: Path) -> list[PairRow]:
    """The rows of a file, each checked against the schema.

    Raises:
        pydantic.ValidationError: A row lacks a field or has one of another type.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    return [row_from_json(line) for line in lines]


def row_from_json(text: str) -> PairRow:
    """One checked row."""
    return _ROW.validate_json(text)


def row_to_json(row: PairRow) -> str:
    """One checked row, on one line."""
    return json.dumps(_ROW.validate_python(row), allow_nan=False)


def write_pairs(path: Path, rows: Iterable[PairRow]) -> None:
    """Write checked rows, one JSON object a line."""
    path.write_text("".join(row_to_json(row) + "\n" for row in rows), encoding="utf-8")
