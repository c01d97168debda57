"""All lineages together, their outcomes known: the index as it is now beside what it replaced.

Both planned tests (`prospective.py`) went against the index of their plan, which read the group
signal beside pass@64. The rule of `candidates.json` looks at final pass@1 alone and would take
`coverage_profile`; that one is behind on gains and failed runs, so pass@64's own form is kept.
`formula.json` holds its hash.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from examples.study.candidates import CANDIDATES
from examples.study.planned_settings import PROSPECTIVE_4, PROSPECTIVE_5, PROSPECTIVE_14
from examples.study.predictors import OURS, PREDICTORS, values_of
from examples.study.prospective import PLANNED, REFERENCE, stratified
from examples.study.rows import PairRow
from examples.study.scoring import (
    OUTCOMES,
    by_lineage,
    scores,
    study_of,
    within_auroc,
    within_draws,
)
from examples.study.tables import interval_text, table, value_text
from examples.study.verdicts import level_table, regret_of_the_choice
from mlflow_rlrisk.calibration import formula_digest
from mlflow_rlrisk.config import DEFAULT_COMPONENTS
from mlflow_rlrisk.report_record import RiskLevel

AGAIN = (PROSPECTIVE_4, PROSPECTIVE_5, PROSPECTIVE_14)
"""Tests whose lineages are others trained again, at another rate or in other groups."""
TESTED = "index of the first test"
SHOWN = (REFERENCE, "pass@10", "pass@1 sampled", "group signal", "token entropy")
PROFILE = "`coverage_profile` (frozen candidate)"


def frozen_formula() -> dict[str, Any]:
    """When the present index was written down, and its digest.

    Raises:
        ValueError: The index is not the one that was written down.
    """
    path = Path(__file__).parent / "formula.json"
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    found = formula_digest(DEFAULT_COMPONENTS)
    if found != record["formula"]:
        raise ValueError(f"the index has digest {found}, frozen was {record['formula']}")
    return record


def together_figures(rows: list[PairRow]) -> dict[str, Any]:
    """Every figure of the table as JSON values, without what is trained once more."""
    again = {each.name for settings in AGAIN for each in settings.lineages}
    study = study_of([row for row in rows if row["lineage"] not in again])
    values = {OURS: values_of(study.rows, PREDICTORS[OURS])}
    for name, candidate in ((TESTED, "product"), (PROFILE, "coverage_profile")):
        risk = CANDIDATES[candidate]
        values[name] = -np.array([risk(row["metrics"]) for row in study.rows])
    values |= {name: values_of(study.rows, PREDICTORS[name]) for name in SHOWN}
    drawn = stratified(study)
    draws = {name: within_draws(study, each, drawn) for name, each in values.items()}
    return {
        "formula": frozen_formula(),
        "num_checkpoints": len(study.rows),
        "num_failed": int(study.failed.sum()),
        "num_lineages": len(study.names),
        "unseen": _unseen(study.names),
        "levels": level_table(study),
        "regret_of_the_choice": regret_of_the_choice(study),
        "predictors": {
            name: {
                "outcomes": {
                    outcome: float(np.mean([r or 0.0 for r in _each(study, own, outcome)]))
                    for outcome in OUTCOMES
                },
                "less_reference": [
                    float(end)
                    for end in np.quantile(draws[name] - draws[REFERENCE], [0.025, 0.975])
                ],
                "auroc": within_auroc(study, own),
                "regret": scores(study, own)["regret"],
            }
            for name, own in values.items()
        },
    }


def _unseen(names: list[str]) -> list[str]:
    """Lineages whose runs came after the present formula was written down."""
    present = frozen_formula()["formula"]
    tests = [test for test in PLANNED if test.plan()["formula"] == present]
    return [name for name in names if any(name in test.lineages for test in tests)]


def _each(study: Any, values: np.ndarray, outcome: str) -> list[float | None]:
    return list(by_lineage(study, values, outcome).values())


def together_section(found: dict[str, Any]) -> str:
    """What stands in the README: two sentences and a table that follow from the figures."""
    none = {"failed": 0, "good": 0}
    levels = found["levels"]
    listed = ", ".join(
        f"`{level}` {sum(levels.get(level, none)[key] for key in none)} "
        f"({levels.get(level, none)['failed']} failed)"
        for level in (RiskLevel.LOW, RiskLevel.MEDIUM, RiskLevel.HIGH)
    )
    record, unseen = found["formula"], ", ".join(found["unseen"])
    when = f"the runs of {unseen} and after all others" if unseen else "any other run than these"
    head = ["mean ρ within a lineage with", *[_short(name) for name in OUTCOMES]]
    head += ["final pass@1, − pass@64 [95 %]", "AUROC failed, within", "regret"]
    rows = [
        [
            f"**{name}**" if name == OURS else name,
            *[value_text(each["outcomes"][outcome]) for outcome in OUTCOMES],
            interval_text(each["less_reference"]) if name != REFERENCE else "",
            value_text(each["auroc"]),
            f"{each['regret']:.3f}",
        ]
        for name, each in found["predictors"].items()
    ]
    return (
        f"**All {found['num_lineages']} lineages together**, outcomes known (without the fourth, "
        "fifth and fourteenth tests, which train checkpoints of others again): "
        f"{found['num_checkpoints']} checkpoints, {found['num_failed']} failed; by the present "
        f"rules {listed}. Present formula `{record['formula'][:12]}`, written down "
        f"{record['frozen_at'][:10]} before {when}. Starting "
        "from the checkpoint that `rlrisk compare` names (the best pass@1 of those whose risk is "
        f"not told apart from the least) costs {found['regret_of_the_choice']:.3f} of final "
        "pass@1.\n\n"
        f"{table(head, rows)}"
    )


def _short(outcome: str) -> str:
    return outcome.replace("pass_at_", "pass@")
