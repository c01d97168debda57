"""What each predictor says of a checkpoint before RL, larger meaning more promising."""

import gzip
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np

from examples.study.candidates import CANDIDATES
from examples.study.rows import PairRow
from mlflow_rlrisk.calibration import index_of
from mlflow_rlrisk.config import DEFAULT_COMPONENTS
from mlflow_rlrisk.report_record import RiskReport
from mlflow_rlrisk.statistics import pass_at_k
from mlflow_rlrisk.thresholds import threshold

RESULTS = Path(__file__).parent / "results"
OURS = "risk index"
BEFORE = "risk index before this study"
DURING = "entropy drop ≤ .5 (2606.18487, during RL)"
FIRST_STEP = 10
"""The drop is taken from here to the last step, at most to step 150, as published."""
LAST_STEP = 150

Predictor = Callable[[PairRow], float]


@cache
def report_of(path: str) -> RiskReport:
    """The whole report of a row."""
    return RiskReport.from_json(gzip.decompress((RESULTS / path).read_bytes()))


def _metric(name: str) -> Predictor:
    return lambda row: row["metrics"][f"rlrisk/{name}"]


def _pass_at_10(row: PairRow) -> float:
    counts = report_of(row["report"]).solve_counts
    correct, scored, prompts = (
        np.array(column, dtype=np.int64) for column in zip(*counts, strict=True)
    )
    return float(np.average(pass_at_k(correct, scored, 10), weights=prompts))


def _entropy_flag(row: PairRow) -> float:
    line = threshold("tau_H").values["value"]
    return float(row["metrics"]["rlrisk/token_entropy"] >= line)


def _drop_flag(row: PairRow) -> float:
    """0 where the entropy of most runs fell by more than the published share."""
    line = threshold("tau_2").values["value"]
    fell = []
    for run in row["outcomes"]:
        series = run["entropy"][:LAST_STEP]
        if len(series) > FIRST_STEP:
            start = series[FIRST_STEP - 1]
            fell.append(start <= 0.0 or (start - series[-1]) / start > line)
    return float(2 * sum(fell) < len(fell)) if fell else 0.0


PREDICTORS: dict[str, Predictor] = {
    OURS: lambda row: -index_of(row["metrics"], DEFAULT_COMPONENTS),
    BEFORE: lambda row: -CANDIDATES["noisy_or_1"](row["metrics"]),
    "pass@1 sampled": _metric("pass_at_1"),
    "pass@1 greedy": lambda row: row["rivals"]["greedy_pass_at_1"],
    "pass@1 validation": lambda row: row["rivals"]["val_pass_at_1"],
    "pass@10": _pass_at_10,
    "pass@64": _metric("pass_at_64"),
    "group signal": _metric("group_signal_fraction"),
    "headroom over p*(8)": _metric("headroom"),
    "token entropy": _metric("token_entropy"),
    "entropy ≥ .18 (2606.18487)": _entropy_flag,
    DURING: _drop_flag,
    "held-out loss": lambda row: -row["rivals"]["heldout_nll"],
}
"""Ours first; the last published rule looks at the RL run itself and is no prediction."""

RIVALS = tuple(name for name in PREDICTORS if name not in (OURS, BEFORE, DURING))


def values_of(rows: list[PairRow], predictor: Predictor) -> np.ndarray:
    """One value a row, ``[C]``."""
    return np.array([predictor(row) for row in rows])
