"""Tests that were planned before their runs: the index of a plan on lineages it never saw.

Index and levels are those that the reports stated before any of these runs, so that no later
change of the tool reaches them.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from examples.study.candidates import CANDIDATES
from examples.study.layout import checkpoints_of
from examples.study.misranked import noise_floor
from examples.study.planned_settings import (
    PROSPECTIVE,
    PROSPECTIVE_2,
    PROSPECTIVE_3,
    PROSPECTIVE_4,
    PROSPECTIVE_5,
    PROSPECTIVE_6,
    PROSPECTIVE_7,
    PROSPECTIVE_8,
    PROSPECTIVE_9,
    PROSPECTIVE_10,
    PROSPECTIVE_11,
    PROSPECTIVE_12,
    PROSPECTIVE_13,
    PROSPECTIVE_14,
)
from examples.study.predictors import DURING, OURS, PREDICTORS, values_of
from examples.study.rows import PairRow
from examples.study.scoring import (
    NUM_RESAMPLES,
    PRIMARY,
    SEED,
    Study,
    auroc_draws,
    by_lineage,
    defined,
    scores,
    study_of,
    within,
    within_draws,
)
from examples.study.settings import StudySettings
from mlflow_rlrisk.calibration import formula_digest
from mlflow_rlrisk.config import DEFAULT_COMPONENTS
from mlflow_rlrisk.report_record import RiskLevel
from mlflow_rlrisk.statistics import auroc

REFERENCE = "pass@64"
GAIN = "gain pass_at_1"
DIFFERENT = 0.01
"""Two indices of a checkpoint that are further apart are not the same."""


class PlannedTest(NamedTuple):
    """A test: its title, settings, the file of its plan, and whether it is of the index's rank."""

    title: str
    settings: StudySettings
    file: str
    is_of_rank: bool = True

    @property
    def lineages(self) -> tuple[str, ...]:
        """The lineages that it is about."""
        return tuple(each.name for each in self.settings.lineages)

    def plan(self) -> dict[str, Any]:
        """What was written down before the first run."""
        path = Path(__file__).parent / self.file
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found


PLANNED = (
    PlannedTest("First test out of sample", PROSPECTIVE, "prospective.json"),
    PlannedTest("Second test out of sample", PROSPECTIVE_2, "prospective-2.json"),
    PlannedTest("Third test out of sample", PROSPECTIVE_3, "prospective-3.json", is_of_rank=False),
    PlannedTest("Fourth test out of sample", PROSPECTIVE_4, "prospective-4.json", is_of_rank=False),
    PlannedTest("Fifth test out of sample", PROSPECTIVE_5, "prospective-5.json", is_of_rank=False),
    PlannedTest("Sixth test out of sample", PROSPECTIVE_6, "prospective-6.json", is_of_rank=False),
    PlannedTest(
        "Seventh test out of sample", PROSPECTIVE_7, "prospective-7.json", is_of_rank=False
    ),
    PlannedTest("Eighth test out of sample", PROSPECTIVE_8, "prospective-8.json", is_of_rank=False),
    PlannedTest("Ninth test out of sample", PROSPECTIVE_9, "prospective-9.json", is_of_rank=False),
    PlannedTest(
        "Tenth test out of sample", PROSPECTIVE_10, "prospective-10.json", is_of_rank=False
    ),
    PlannedTest(
        "Eleventh test out of sample", PROSPECTIVE_11, "prospective-11.json", is_of_rank=False
    ),
    PlannedTest(
        "Twelfth test out of sample", PROSPECTIVE_12, "prospective-12.json", is_of_rank=False
    ),
    PlannedTest(
        "Thirteenth test out of sample", PROSPECTIVE_13, "prospective-13.json", is_of_rank=False
    ),
    PlannedTest(
        "Fourteenth test out of sample", PROSPECTIVE_14, "prospective-14.json", is_of_rank=False
    ),
)


def prospective_figures(rows: list[PairRow], test: PlannedTest) -> dict[str, Any] | None:
    """Every figure of a test as JSON values; ``None`` while there are no runs."""
    names, plan = test.lineages, test.plan()
    study = study_of([row for row in rows if row["lineage"] in names])
    if not study.rows:
        return None
    values = {name: values_of(study.rows, each) for name, each in PREDICTORS.items()}
    now = values[OURS]
    values[OURS] = -np.array([row["metrics"]["rlrisk/risk_index"] for row in study.rows])
    differs = np.abs(now - values[OURS]) > DIFFERENT
    drawn = stratified(study)
    draws = {name: within_draws(study, each, drawn) for name, each in values.items()}
    finding = {name: auroc_draws(study, values[name], drawn) for name in (OURS, REFERENCE)}
    risks = {
        name: -np.array([risk(row["metrics"]) for row in study.rows])
        for name, risk in CANDIDATES.items()
    }
    return {
        "title": test.title,
        "is_of_rank": test.is_of_rank,
        "num_planned": sum(len(checkpoints_of(name, test.settings)) for name in names),
        "num_runs": sum(len(row["outcomes"]) for row in study.rows),
        "lineages": {name: int((study.lineages == name).sum()) for name in study.names},
        "failed": {name: int(study.failed[study.lineages == name].sum()) for name in study.names},
        "noise": noise_floor(study),
        "is_shipped": formula_digest(DEFAULT_COMPONENTS) == plan["formula"],
        "formula": plan["formula"],
        "predictors": {
            name: {
                **_one(study, each),
                "interval": _ends(draws[name]),
                "less_reference": _ends(draws[name] - draws[REFERENCE]),
            }
            for name, each in values.items()
            if name != DURING
        },
        "candidates": {name: _one(study, each) for name, each in risks.items()},
        "now": {
            **_one(study, now),
            "num_other": int(differs.sum()),
            "failed_other": int(study.failed[differs].sum()),
        },
        "auroc_interval": _ends(finding[OURS]),
        "auroc_less_reference": _ends(finding[OURS] - finding[REFERENCE]),
        "levels": _levels(study),
    }


def stratified(study: Study) -> list[tuple[np.ndarray, np.ndarray]]:
    """Replicates as in `scoring.resamples`, but every lineage stays: two cannot be resampled."""
    rng = np.random.default_rng(SEED)
    every = np.arange(NUM_RESAMPLES)
    members = [np.flatnonzero(study.lineages == name) for name in study.names]
    return [(every, own[rng.integers(own.size, size=(every.size, own.size))]) for own in members]


def _one(study: Study, values: np.ndarray) -> dict[str, Any]:
    found = scores(study, values)
    return {
        "within": found["within"],
        "lineages": by_lineage(study, values, PRIMARY),
        "gain": within(study, values, GAIN),
        "auroc_failed": found["auroc_failed"],
        "auroc_lineages": {name: _auroc_in(study, values, name) for name in study.names},
        "regret": found["regret"],
    }


def _auroc_in(study: Study, values: np.ndarray, name: str) -> float | None:
    own = study.lineages == name
    return defined(lambda: auroc(-values[own], study.failed[own]))


def _levels(study: Study) -> dict[str, dict[str, int]]:
    pairs = Counter(
        zip([row["risk_level"] for row in study.rows], study.failed.tolist(), strict=True)
    )
    return {
        level.value: {"failed": pairs[level.value, True], "good": pairs[level.value, False]}
        for level in RiskLevel
        if pairs[level.value, True] + pairs[level.value, False]
    }


def _ends(draws: np.ndarray) -> list[float]:
    return [float(end) for end in np.quantile(draws, [0.025, 0.975])]
