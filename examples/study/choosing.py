"""Which index would have been chosen on two lineages, and how does it rank the third?

Choosing the best of several on the rows that it is then praised on flatters it. Here the choice,
as `candidates.json` froze it, never sees the lineage that it is scored on.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from examples.study.candidates import CANDIDATES
from examples.study.predictors import OURS, PREDICTORS, RIVALS, values_of
from examples.study.scoring import PRIMARY, Study, by_lineage, logistic_out_of_lineage

_HERE = Path(__file__).parent
LOGISTIC = "logistic"


def frozen() -> dict[str, Any]:
    """The record of the candidates.

    Raises:
        ValueError: The candidates are not those that were frozen.
    """
    record: dict[str, Any] = json.loads((_HERE / "candidates.json").read_text(encoding="utf-8"))
    found = hashlib.sha256((_HERE / "candidates.py").read_bytes()).hexdigest()
    if found != record["sha256"]:
        raise ValueError(f"candidates.py has digest {found}, frozen was {record['sha256']}")
    return record


def candidate_values(study: Study) -> dict[str, np.ndarray]:
    """Promise by every candidate, the fitted one out of lineage; ``[C]`` each."""
    values = {
        name: np.array([-risk(row["metrics"]) for row in study.rows])
        for name, risk in CANDIDATES.items()
    }
    names = ("rlrisk/group_signal_fraction", "rlrisk/pass_at_64")
    features = np.array([[row["metrics"][name] for name in names] for row in study.rows])
    fitted = logistic_out_of_lineage(study, features)
    return values if fitted is None else {**values, LOGISTIC: fitted}


def chosen_elsewhere(study: Study, pool: Mapping[str, np.ndarray]) -> dict[str, tuple[str, float]]:
    """For each lineage the member of ``pool`` that is best on the others, and its correlation."""
    table = {name: by_lineage(study, values, PRIMARY) for name, values in pool.items()}
    found = {}
    for left_out in study.names:
        others = [name for name in study.names if name != left_out]
        best = max(table, key=lambda name: sum(table[name][each] or 0.0 for each in others))
        found[left_out] = (best, table[best][left_out] or 0.0)
    return found


def comparison(study: Study) -> dict[str, dict[str, tuple[str, float]]]:
    """Out of lineage: the best rival, the best candidate, and what the tool ships."""
    rivals = {name: values_of(study.rows, PREDICTORS[name]) for name in RIVALS}
    return {
        "best single predictor": chosen_elsewhere(study, rivals),
        "best candidate": chosen_elsewhere(study, candidate_values(study)),
        "shipped index": chosen_elsewhere(study, {OURS: values_of(study.rows, PREDICTORS[OURS])}),
        "pass@64": chosen_elsewhere(study, {"pass@64": rivals["pass@64"]}),
    }
