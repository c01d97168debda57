"""Outcomes beside what was known before RL, as ``rlrisk calibrate --data`` reads them.

Checkpoints that were trained again at another rate are of the lineage that they were made in: none
is predicted by its own twin.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from examples.study.first_updates import lookaheads_of
from examples.study.predictors import RESULTS
from examples.study.prospective import PLANNED, PlannedTest, stratified
from examples.study.rows import PairRow
from examples.study.scoring import study_of
from examples.study.tables import interval_text, table, value_text
from mlflow_rlrisk.calibration import calibrate, read_rows
from mlflow_rlrisk.config import DEFAULT_COMPONENTS, PolicyConfig

FILE = "outcomes.jsonl"
REACH, CONSTANT = "lookahead_reach", "constant"
CHANCE_TESTS = tuple(test for test in PLANNED if "curves" in test.plan())
"""The planned tests that hold curves of the chance of failure."""
READ = (
    "pass_at_1",
    "pass_at_64",
    "group_signal_fraction",
    "frac_all_wrong",
    "headroom",
    "token_entropy",
    "truncated_share",
)
"""What index and rivals read of a row, and no more."""


def outcome_lines(rows: Sequence[PairRow]) -> str:
    """A JSON object a checkpoint; empty while the updates of one were not tried."""
    ahead = lookaheads_of(rows)
    if ahead is None:
        return ""
    return "".join(
        json.dumps(_line(row, own["reach"]), allow_nan=False) + "\n"
        for row, own in zip(rows, ahead, strict=True)
    )


def _line(row: PairRow, reach: Sequence[float]) -> dict[str, Any]:
    metrics = {f"rlrisk/{name}": row["metrics"][f"rlrisk/{name}"] for name in READ}
    metrics |= {f"rlrisk/{REACH}": reach[0]} if reach else {}
    return {
        "lineage": f"{row['task']}-{row['architecture']}",
        "checkpoint": f"{row['lineage']}/{row['checkpoint']}",
        "metrics": metrics,
        "outcomes": [
            {
                "final": {"pass_at_1": run["final"]["pass_at_1"]},
                "gain": {"pass_at_1": run["gain"]["pass_at_1"]},
                "failed": run["failed"],
                "seconds": run["seconds"],
            }
            for run in row["outcomes"]
        ],
    }


def chance_figures() -> dict[str, Any]:
    """What ``rlrisk calibrate`` makes of the outcomes, on the updates and on the index."""
    rows, left_out = read_rows(RESULTS / FILE, DEFAULT_COMPONENTS, min_gain=0.0)
    if left_out:
        raise ValueError(f"{FILE}: {left_out}")
    on_updates, on_index = (
        calibrate(rows, DEFAULT_COMPONENTS, min_gain=0.0, feature=feature).content
        for feature in (REACH, "risk_index")
    )
    line = PolicyConfig().max_fail_probability
    above = [row["failed"] for row in on_updates["rows"] if row["predicted"] > line]
    return {
        "num_outcomes": on_updates["num_outcomes"],
        "num_failed": on_updates["num_failed"],
        "num_lineages": len(on_updates["lineages"]),
        "predictors": on_updates["validation"]["predictors"],
        "used": on_updates["used"],
        "index_used": on_index["used"],
        "line": line,
        "failed_above": sum(above),
        "good_above": len(above) - sum(above),
    }


def planned_chance(rows: Sequence[PairRow], test: PlannedTest) -> dict[str, Any] | None:
    """The curves that were written down before the runs of their test, held against its outcomes.

    ``None`` while it has no runs.
    """
    plan = test.plan()
    study = study_of([row for row in rows if row["lineage"] in test.lineages])
    ahead = lookaheads_of(study.rows)
    if not study.rows or ahead is None:
        return None
    study = study_of([row for row, own in zip(study.rows, ahead, strict=True) if own["reach"]])
    scores = {
        REACH: 1.0 - np.array([own["reach"][0] for own in ahead if own["reach"]]),
        "risk_index": np.array([row["metrics"]["rlrisk/risk_index"] for row in study.rows]),
    }
    chances = {
        name: np.interp(score, *zip(*plan["curves"][name]["curve"], strict=True))
        for name, score in scores.items()
    }
    chances[CONSTANT] = np.full(len(study.rows), plan["failed_share"])
    errors = {name: (each - study.failed) ** 2 for name, each in chances.items()}
    picked = np.concatenate([own for _, own in stratified(study)], axis=1)
    ends = {
        name: np.quantile((errors[REACH] - each)[picked].mean(axis=1), [0.025, 0.975]).tolist()
        for name, each in errors.items()
        if name != REACH
    }
    above = chances[REACH] > PolicyConfig().max_fail_probability
    return {
        "title": test.title,
        "num_checkpoints": len(study.rows),
        "num_failed": int(study.failed.sum()),
        "brier": {name: float(each.mean()) for name, each in errors.items()},
        "less": ends,
        "above": [int((above & study.failed).sum()), int(above.sum())],
        "below": [int((~above & study.failed).sum()), int((~above).sum())],
    }


def planned_chance_section(found: dict[str, Any] | None) -> str:
    """The test in a sentence; nothing while there are no runs."""
    if found is None:
        return ""
    own, index, constant = (found["brier"][name] for name in (REACH, "risk_index", CONSTANT))
    verdict = "holds" if own < min(index, constant) else "**does not hold**"
    (bad_above, above), (bad_below, below) = found["above"], found["below"]
    return (
        f"**{found['title']}**, of that chance: the curve that was written down before its runs "
        f"{verdict}. On {found['num_checkpoints']} checkpoints, {found['num_failed']} failed, its "
        f"Brier score is {own:.3f}, that of the index's curve {index:.3f} (difference in "
        f"{interval_text(found['less']['risk_index'])}), that of always saying the share that "
        f"failed before {constant:.3f} ({interval_text(found['less'][CONSTANT])}). Above a chance "
        f"of one half {bad_above} of {above} failed, below {bad_below} of {below}.\n"
    )


def chance_section(found: dict[str, Any]) -> str:
    """What stands in the README: a sentence, and every predictor."""
    use = "would use it" if found["used"] else "would **not** use it"
    rows = [
        [
            f"**`{name}`**" if name == REACH else f"`{name}`",
            f"{each['brier']:.3f} {interval_text([each['brier_low'], each['brier_high']])}",
            value_text(each["skill"]),
            value_text(each["auroc"]),
        ]
        for name, each in found["predictors"].items()
    ]
    against = "" if found["index_used"] else ", and none of the index beside it"
    return (
        "**As a chance of failure** (`rlrisk calibrate --data "
        f"examples/study/results/{FILE} --on {REACH}`): {found['num_outcomes']} checkpoints of "
        f"{found['num_lineages']} lineages, {found['num_failed']} failed, each lineage predicted "
        f"by the others. A policy {use}{against}. Above its line of {found['line']:g} lie "
        f"{found['failed_above']} of the failed and {found['good_above']} of the "
        f"{found['num_outcomes'] - found['num_failed']} others.\n\n"
        + table(["read off", "Brier score [95 %]", "skill", "AUROC failed"], rows)
    )
