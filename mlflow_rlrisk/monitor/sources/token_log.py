"""Token logs: one JSON object a rollout, with log probabilities and an advantage."""

import json
import math
from pathlib import Path
from typing import Any

from mlflow_rlrisk.errors import HistoryError
from mlflow_rlrisk.monitor.history import LARGEST
from mlflow_rlrisk.monitor.sources.files import read_text
from mlflow_rlrisk.monitor.token_dynamics import TokenRow

_ABOVE_ZERO = 1e-3
"""Rounding of an engine may put a log probability a little above 0, and an entropy below."""


def read_token_log(path: str | Path) -> list[TokenRow]:
    """Read ``{"step", "logprobs": [...], "advantage", "entropies": [...]}``, one a line.

    ``step`` and ``entropies`` may be absent.

    Raises:
        HistoryError: The file cannot be read, or a line lacks what is needed.
    """
    rows = []
    for number, line in enumerate(read_text(Path(path)).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            raw = json.loads(line)
            row = TokenRow(
                step=int(raw.get("step", 0)),
                logprobs=_numbers(raw["logprobs"], high=_ABOVE_ZERO),
                advantage=_numbers([raw["advantage"]])[0],
                entropies=_numbers(raw.get("entropies", []), low=-_ABOVE_ZERO),
            )
        except (
            ValueError,
            OverflowError,
            KeyError,
            TypeError,
            AttributeError,
            RecursionError,
        ) as error:
            raise HistoryError(
                f"{path}, line {number}: logprobs (list) and advantage (number) are needed, all "
                f"finite ({error})"
            ) from error
        rows.append(row)
    return rows


def _numbers(values: list[Any], *, low: float = -math.inf, high: float = math.inf) -> list[float]:
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"{value!r} is no number")
        if not (low <= value <= high and abs(value) < LARGEST):
            raise ValueError(f"{value!r} is not finite, or no such quantity")
    return [float(value) for value in values]
