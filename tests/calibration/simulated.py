"""Outcomes whose true chance of failure is known."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from mlflow_rlrisk.calibration import OutcomeRow
from mlflow_rlrisk.config import DEFAULT_COMPONENTS

COMPONENTS = DEFAULT_COMPONENTS


def outcome(
    lineage: str, checkpoint: str, index: float, failed: bool, **changes: Any
) -> OutcomeRow:
    metrics = {
        "rlrisk/pass_at_1": 0.5,
        "rlrisk/pass_at_64": 0.9,
        "rlrisk/token_entropy": 0.3,
        "rlrisk/headroom": 6.0,
        **changes.pop("metrics", {}),
    }
    final = changes.pop("final", 0.2 if failed else 0.8)
    values = {"gain": final - 0.5, "hours": 2.0, "num_runs": 1, **changes}
    return OutcomeRow(
        lineage=lineage,
        checkpoint=checkpoint,
        index=index,
        metrics=metrics,
        failed=failed,
        final=final,
        **values,
    )


def outcomes(
    num: int, seed: int = 0, *, num_lineages: int = 4, strength: float = 12.0
) -> list[OutcomeRow]:
    """Failure follows the index, ``logit P = strength (index - 1/2)``; the rivals are noise."""
    rng = np.random.default_rng(seed)
    rows = []
    for place in range(num):
        index = float(rng.random())
        failed = bool(rng.random() < 1.0 / (1.0 + np.exp(-strength * (index - 0.5))))
        noise = rng.random(4)
        metrics = {
            "rlrisk/pass_at_1": noise[0],
            "rlrisk/pass_at_64": noise[1],
            "rlrisk/token_entropy": noise[2],
            "rlrisk/headroom": 8.0 * noise[3],
        }
        final = float(np.clip(0.8 - 0.5 * failed + 0.05 * rng.normal(), 0.0, 1.0))
        name = f"family-{place % num_lineages}"
        rows.append(outcome(name, f"{place:03d}", index, failed, final=final, metrics=metrics))
    return rows


def write_jsonl(path: Path, rows: list[OutcomeRow], *, seconds: float | None = 7200.0) -> Path:
    """Rows in the form of a data file; full coverage leaves the index to their signal."""
    lines = []
    for row in rows:
        made = {"rlrisk/group_signal_fraction": (1.0 - row.index) / 20, "rlrisk/pass_at_64": 1.0}
        metrics = {**row.metrics, **made}
        passes = {"pass_at_1": row.final, "pass_at_10": row.final}
        run = {
            "rl_seed": 0,
            "final": passes,
            "gain": {"pass_at_1": row.gain, "pass_at_10": row.gain},
            "failed": row.failed,
            **({} if seconds is None else {"seconds": seconds}),
        }
        record = {
            "lineage": row.lineage,
            "checkpoint": row.checkpoint,
            "metrics": metrics,
            "outcomes": [run],
        }
        lines.append(json.dumps(record))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
