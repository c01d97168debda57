"""Token logs: one JSON object a rollout, with log probabilities and an advantage."""

import json
import math
from pathlib import Path
from typing import Any

from mlflow_rlrisk.errors import HistoryError
from mlflow_rlrisk.monitor.token_dynamics import TokenRow


def read_token_log(path: str | Path) -> list[TokenRow]:
    """Read ``{"step", "logprobs": [...], "advantage", "entropies": [...]}``, one a line.

    ``step`` and ``entropies`` may be absent.

    Raises:
        HistoryError: The file cannot be read, or a line lacks what is needed.
    """
    rows = []
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise HistoryError(f"{path} cannot be read: {error}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            raw = json.loads(line)
            row = TokenRow(
                step=int(raw.get("step", 0)),
                logprobs=_finite(raw["logprobs"]),
                advantage=_finite([raw["advantage"]])[0],
                entropies=_finite(raw.get("entropies", [])),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise HistoryError(
                f"{path}, line {number}: logprobs (list) and advantage (number) are needed, all "
                f"finite ({error})"
            ) from error
        rows.append(row)
    return rows


def _finite(values: list[Any]) -> list[float]:
    numbers = [float(value) for value in values]
    if not all(map(math.isfinite, numbers)):
        raise ValueError("a value is not finite")
    return numbers
