"""Do rollouts agree on right answers? Looked at after the eleventh test, planned for the twelfth.

    python -m examples.study.agreeing measure FOLDER [FOLDER ...]   # working folders of `run`
    python -m examples.study.agreeing                               # what it tells

Outcomes of what was measured once more (`agreements`) were known, so that is no evidence of what it
tells on other tasks. Reports of the tests from the twelfth on hold it, stated before their runs.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from examples.study.agreements import (
    AGREEMENT_ROW,
    FILE,
    AgreementRow,
    agreement_of,
    read_agreements,
)
from examples.study.first_updates import NO_LINE, lookaheads_of
from examples.study.layout import sweep_order
from examples.study.looking_ahead import LookaheadRow
from examples.study.models import weights_digest
from examples.study.planned_settings import (
    PROSPECTIVE_12,
    PROSPECTIVE_13,
    PROSPECTIVE_14,
    STUDIES,
)
from examples.study.predictors import PREDICTORS, RESULTS, values_of
from examples.study.prospective import REFERENCE
from examples.study.rows import PairRow, read_pairs
from examples.study.scoring import PRIMARY, Study, study_of, within, within_auroc
from examples.study.settings import StudySettings
from examples.study.tables import table, value_text
from examples.study.tasks import TASKS
from examples.study.verdicts import level_now
from mlflow_rlrisk.assess import assess
from mlflow_rlrisk.demo.train import single_thread
from mlflow_rlrisk.report_record import Metric, RiskLevel
from mlflow_rlrisk.risk.luck import AGREEMENT
from mlflow_rlrisk.statistics import auroc

HEADROOM_FROM = 4.0
AGREED = 0.5
AGREEMENT_FROM = (0.4, AGREED, 0.6)


def measure(folders: Sequence[Path]) -> Iterator[AgreementRow]:
    """Assess every checkpoint without a row that a folder holds with the weights of its run."""
    single_thread()
    done = {row["weights"] for row in read_agreements()}
    known = {
        (row["lineage"], row["checkpoint"]): row for row in read_pairs(RESULTS / "pairs.jsonl")
    }
    for folder in folders:
        for settings in STUDIES.values():
            for each in sweep_order(settings):
                place, row = folder / each.folder, known.get((each.lineage, each.name))
                if row is None or row["digests"]["weights"] in done or not place.is_dir():
                    continue
                if weights_digest(place) == row["digests"]["weights"]:
                    yield _measured(folder, row, place, settings)


def _measured(folder: Path, row: PairRow, place: Path, settings: StudySettings) -> AgreementRow:
    task = TASKS[row["task"]]
    report = assess(
        place,
        str(folder / row["lineage"] / "rl.jsonl"),
        verifier=f"examples.study.tasks.{task.name}:reward",
        config=settings.assessment(task.max_new_tokens),
    )
    found = report.metrics[AGREEMENT]
    return {
        "lineage": row["lineage"],
        "checkpoint": row["checkpoint"],
        "weights": row["digests"]["weights"],
        "agreement": [found.value, found.ci_low, found.ci_high],
    }


def told() -> str:
    """What it tells of the checkpoints known before, and of those of the tests that came after."""
    measured = [row for row in read_pairs(RESULTS / "pairs.jsonl") if agreement_of(row) is not None]
    tests = {
        "twelfth": PROSPECTIVE_12,
        "thirteenth": PROSPECTIVE_13,
        "fourteenth": PROSPECTIVE_14,
    }
    names = {test: {each.name for each in plan.lineages} for test, plan in tests.items()}
    later = set().union(*names.values())
    parts = {"all outcomes known": [row for row in measured if row["lineage"] not in later]}
    for test, own in names.items():
        rows = [row for row in measured if row["lineage"] in own]
        parts[f"{test} test, stated before any run"] = rows
    return "\n".join(_told_of(study_of(rows), how) for how, rows in parts.items() if rows)


def _told_of(study: Study, how: str) -> str:
    """AUROC of a failed run, ranks of the final pass@1, and how many of the ``low`` failed."""
    ahead = lookaheads_of(study.rows)
    if ahead is None:
        raise ValueError(f"{FILE} names a checkpoint whose first updates were not tried")
    agreements = [found for row in study.rows if (found := agreement_of(row)) is not None]
    own = np.array([each.value for each in agreements])
    covered = values_of(study.rows, PREDICTORS[REFERENCE])
    values = {
        "`agreement_accuracy`": own,
        "`agreement_accuracy` × pass@64": own * covered,
        REFERENCE: covered,
        "pass@1 sampled": values_of(study.rows, PREDICTORS["pass@1 sampled"]),
        "pass@1 greedy": values_of(study.rows, PREDICTORS["pass@1 greedy"]),
    }
    told = study_of([row for row, each in zip(study.rows, ahead, strict=True) if each["reach"]])
    reach = np.array([each["reach"][0] for each in ahead if each["reach"]])
    rows = [_scored(study, name, each) for name, each in values.items()]
    rows.append(_scored(told, "`lookahead_reach`, where it is known", reach))
    head = ["predictor", "AUROC failed", "within a lineage", "ρ with final pass@1, within"]
    return (
        f"{len(study.rows)} checkpoints of {len(study.names)} lineages, "
        f"{int(study.failed.sum())} failed, {how}.\n\n"
        + table(head, rows)
        + "\n"
        + table(["of those `low`", "n", "failed"], _lows(study, agreements, ahead))
    )


def _scored(study: Study, name: str, values: np.ndarray) -> list[str]:
    return [
        name,
        value_text(auroc(-values, study.failed)),
        value_text(within_auroc(study, values)),
        value_text(within(study, values, PRIMARY)),
    ]


def _lows(
    study: Study, agreements: Sequence[Metric], ahead: Sequence[LookaheadRow]
) -> list[list[str]]:
    """Counts under each line, by the samples alone and with the updates tried."""
    agree = np.array([each.ci_low for each in agreements])
    headroom = np.array([row["metrics"]["rlrisk/headroom_ci_low"] for row in study.rows])
    by_samples = np.array([level_now(row, NO_LINE) is RiskLevel.LOW for row in study.rows])
    with_updates = np.array([each["risk_level"] == RiskLevel.LOW for each in ahead])
    lines = {
        "by the samples, without a line": by_samples,
        "headroom from 4 on": by_samples & (headroom >= HEADROOM_FROM),
        **{f"agreement from {at:g} on": by_samples & (agree >= at) for at in AGREEMENT_FROM},
        "headroom from 4 and agreement from 0.5 on": by_samples
        & (headroom >= HEADROOM_FROM)
        & (agree >= AGREED),
        "with the updates": with_updates,
        "with the updates, agreement from 0.5 on": with_updates & (agree >= AGREED),
        "with the updates, agreement below": with_updates & (agree < AGREED),
    }
    return [
        [name, str(int(chosen.sum())), str(int((chosen & study.failed).sum()))]
        for name, chosen in lines.items()
    ]


def main() -> None:
    """Parse and dispatch."""
    parser = argparse.ArgumentParser(prog="python -m examples.study.agreeing", description=__doc__)
    parser.add_argument("what", nargs="?", choices=("measure", "told"), default="told")
    parser.add_argument("folders", nargs="*", type=Path)
    given = parser.parse_args()
    if given.what == "told":
        sys.stdout.write(told())
        return
    with (RESULTS / FILE).open("a", encoding="utf-8") as file:
        for row in measure([each.resolve() for each in given.folders]):
            file.write(json.dumps(AGREEMENT_ROW.validate_python(row), allow_nan=False) + "\n")
            file.flush()
            sys.stderr.write(f"{row['lineage']} {row['checkpoint']}: {row['agreement'][0]:.3f}\n")


if __name__ == "__main__":
    main()
