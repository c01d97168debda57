"""Where the index is wrong: the checkpoints it misplaces most, by kind, and the noise of RL."""

from collections import defaultdict
from typing import Any

import numpy as np

from examples.study.rows import PairRow
from examples.study.scoring import PRIMARY, Study, defined
from mlflow_rlrisk.statistics import mean_ranks, spearman

NUM_WORST = 6


def misranked(study: Study, promise: np.ndarray) -> dict[str, Any]:
    """Rank by promise less rank after RL within the lineage, as a share of it.

    Above 0 the checkpoint was promised more than it held. ``by_kind`` is the mean and the mean
    size over all checkpoints of a kind.
    """
    after = study.outcomes[PRIMARY]
    error = np.zeros(after.size)
    for name in study.names:
        own = study.lineages == name
        error[own] = (mean_ranks(promise[own]) - mean_ranks(after[own])) / own.sum()
    by_kind = defaultdict(list)
    for row, each in zip(study.rows, error, strict=True):
        by_kind[kind_of(row)].append(float(each))
    worst = np.argsort(-np.abs(error), kind="stable")[:NUM_WORST]
    return {
        "by_kind": {
            kind: {
                "count": len(each),
                "mean": float(np.mean(each)),
                "mean_size": float(np.mean(np.abs(each))),
            }
            for kind, each in sorted(by_kind.items())
        },
        "worst": [
            {
                "lineage": study.rows[place]["lineage"],
                "checkpoint": study.rows[place]["checkpoint"],
                "kind": kind_of(study.rows[place]),
                "error": float(error[place]),
                "before": study.rows[place]["metrics"]["rlrisk/pass_at_1"],
                "pass_at_64": study.rows[place]["metrics"]["rlrisk/pass_at_64"],
                "final": float(after[place]),
            }
            for place in worst
        ],
    }


def kind_of(row: PairRow) -> str:
    """Kind of a checkpoint; traps by what was done to them."""
    return row["trap"] or ("narrow" if row["kind"] == "ladder" else row["kind"])


def noise_floor(study: Study) -> dict[str, Any]:
    """How far two RL seeds of one checkpoint agree: no predictor can rank better than they do."""
    pairs = [
        (row["lineage"], row["outcomes"][0], row["outcomes"][1])
        for row in study.rows
        if len(row["outcomes"]) > 1
    ]
    first = np.array([one["final"]["pass_at_1"] for _, one, _ in pairs])
    second = np.array([other["final"]["pass_at_1"] for _, _, other in pairs])
    lineages = np.array([lineage for lineage, _, _ in pairs])
    each = [
        defined(lambda own=own: spearman(first[own], second[own]))
        for own in (lineages == name for name in study.names)
        if own.sum() >= 3
    ]
    known = [found for found in each if found is not None]
    return {
        "num_pairs": len(pairs),
        "sd": float(np.sqrt(np.mean((first - second) ** 2) / 2.0)) if pairs else None,
        "within": float(np.mean(known)) if known else None,
        "num_disagreeing": sum(one["failed"] != other["failed"] for _, one, other in pairs),
    }
