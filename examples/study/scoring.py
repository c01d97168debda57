"""How a predictor orders checkpoints, pooled, within lineages and in each lineage alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from examples.study.rows import PairRow
from mlflow_rlrisk.errors import StatisticsError
from mlflow_rlrisk.statistics import (
    auroc,
    fit_logistic,
    kendall_tau_b,
    partial_spearman,
    spearman,
    top1_regret,
)

NUM_RESAMPLES = 1000
SEED = 9
PASSES = ("pass_at_1", "pass_at_10")
OUTCOMES = tuple(f"{part} {passes}" for passes in PASSES for part in ("final", "peak", "gain"))
PRIMARY = OUTCOMES[0]
"""Stated before the runs: held-out pass@1 after the last step of RL, mean over RL seeds."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Study:
    """The rows with at least one run, in columns of shape ``[C]``."""

    rows: list[PairRow]
    lineages: np.ndarray
    outcomes: dict[str, np.ndarray]
    failed: np.ndarray
    pass_at_1: np.ndarray

    @property
    def names(self) -> list[str]:
        """Lineages in order."""
        return sorted(set(self.lineages.tolist()))


def study_of(rows: Sequence[PairRow]) -> Study:
    """Average the runs of each checkpoint; a checkpoint failed where half its runs did or more."""
    used = [row for row in rows if row["outcomes"]]
    outcomes = {}
    for name in OUTCOMES:
        part, passes = name.split()
        outcomes[name] = np.array([_mean(row, part, passes) for row in used])
    return Study(
        rows=used,
        lineages=np.array([row["lineage"] for row in used]),
        outcomes=outcomes,
        failed=np.array([_share_failed(row) >= 0.5 for row in used]),
        pass_at_1=np.array([row["metrics"]["rlrisk/pass_at_1"] for row in used]),
    )


def _mean(row: PairRow, part: str, passes: str) -> float:
    return float(np.mean([run[part][passes] for run in row["outcomes"]]))  # type: ignore[literal-required]


def _share_failed(row: PairRow) -> float:
    return float(np.mean([run["failed"] for run in row["outcomes"]]))


def defined(compute: Callable[[], float]) -> float | None:
    """A statistic, ``None`` where one side does not vary."""
    try:
        return compute()
    except StatisticsError:
        return None


def within(study: Study, values: np.ndarray, outcome: str) -> float | None:
    """Mean over lineages of Spearman's correlation in each; one without an order counts 0."""
    each = by_lineage(study, values, outcome)
    return float(np.mean([found or 0.0 for found in each.values()])) if each else None


def within_auroc(study: Study, values: np.ndarray) -> float | None:
    """Mean over the lineages that have failed and other runs of the AUROC for a failed run."""
    found = []
    for name in study.names:
        own = study.lineages == name
        found.append(defined(lambda own=own: auroc(-values[own], study.failed[own])))
    known = [each for each in found if each is not None]
    return float(np.mean(known)) if known else None


def by_lineage(study: Study, values: np.ndarray, outcome: str) -> dict[str, float | None]:
    """Spearman's correlation in each lineage alone."""
    after = study.outcomes[outcome]
    found = {}
    for name in study.names:
        own = study.lineages == name
        found[name] = defined(lambda own=own: spearman(values[own], after[own]))
    return found


def scores(study: Study, values: np.ndarray, outcome: str = PRIMARY) -> dict[str, float | None]:
    """All figures of one predictor against one outcome."""
    after, lineages = study.outcomes[outcome], study.lineages
    regrets = [
        top1_regret(values[lineages == name], after[lineages == name]) for name in study.names
    ]
    return {
        "spearman": defined(lambda: spearman(values, after)),
        "kendall": defined(lambda: kendall_tau_b(values, after)),
        "demeaned": defined(lambda: spearman(values, after, lineages)),
        "within": within(study, values, outcome),
        "partial": defined(lambda: _partial_within(study, values, outcome)),
        "auroc_failed": defined(lambda: auroc(-values, study.failed)),
        "regret": float(np.mean(regrets)),
    }


def _partial_within(study: Study, values: np.ndarray, outcome: str) -> float:
    """Mean over lineages of the correlation with the part of pass@1 taken out."""
    after = study.outcomes[outcome]
    found = []
    for name in study.names:
        own = study.lineages == name
        found.append(partial_spearman(values[own], after[own], study.pass_at_1[own]))
    return float(np.mean(found))


def resamples(study: Study) -> list[tuple[np.ndarray, np.ndarray]]:
    """Replicates: lineages are drawn with replacement, then checkpoints within each drawn one.

    Each entry holds the replicates that drew one lineage in one place, and the rows they drew in
    it, shapes ``[R]`` and ``[R, C]``.
    """
    rng = np.random.default_rng(SEED)
    members = [np.flatnonzero(study.lineages == name) for name in study.names]
    picked = rng.integers(len(members), size=(NUM_RESAMPLES, len(members)))
    drawn = []
    for place in range(len(members)):
        for number, own in enumerate(members):
            chosen = np.flatnonzero(picked[:, place] == number)
            drawn.append((chosen, own[rng.integers(own.size, size=(chosen.size, own.size))]))
    return drawn


def within_draws(
    study: Study, values: np.ndarray, drawn: list[tuple[np.ndarray, np.ndarray]]
) -> np.ndarray:
    """`within` of the primary outcome in each replicate, ``[B]``; no order counts 0."""
    found = np.zeros(NUM_RESAMPLES)
    for replicates, rows in drawn:
        before = _unit_ranks(values[rows])
        after = _unit_ranks(study.outcomes[PRIMARY][rows])
        found[replicates] += (before * after).sum(axis=1) / len(study.names)
    return found


def auroc_draws(
    study: Study, values: np.ndarray, drawn: list[tuple[np.ndarray, np.ndarray]]
) -> np.ndarray:
    """AUROC for a failed run in each replicate, ``[B]``; without one of both kinds it is 1/2."""
    rows: list[list[np.ndarray]] = [[] for _ in range(NUM_RESAMPLES)]
    for replicates, members in drawn:
        for replicate, chosen in zip(replicates, members, strict=True):
            rows[replicate].append(chosen)
    found = np.full(NUM_RESAMPLES, 0.5)
    for replicate, parts in enumerate(rows):
        chosen = np.concatenate(parts)
        score = defined(lambda chosen=chosen: auroc(-values[chosen], study.failed[chosen]))
        found[replicate] = 0.5 if score is None else score
    return found


def _unit_ranks(values: np.ndarray) -> np.ndarray:
    ranks = rankdata(values, axis=1)
    centred = ranks - ranks.mean(axis=1, keepdims=True)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    return np.asarray(centred / np.where(length == 0.0, 1.0, length))


def logistic_out_of_lineage(study: Study, features: np.ndarray) -> np.ndarray | None:
    """Minus Firth's chance of a failed run, fitted without the lineage; ``[C]``."""
    promise = np.empty(len(study.rows))
    for name in study.names:
        own = study.lineages == name
        try:
            fit = fit_logistic(features[~own], study.failed[~own])
        except StatisticsError:
            return None
        promise[own] = -fit.probability(features[own])
    return promise
