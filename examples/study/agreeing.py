"""Do rollouts agree on right answers? Looked at after the eleventh test, for a test to come.

    python -m examples.study.agreeing measure FOLDER [FOLDER ...]   # working folders of `run`
    python -m examples.study.agreeing                               # what it tells

``results/agreement.jsonl`` has a row for each checkpoint whose weights were still there: the tool
assessed it once more, as for its row in ``pairs.jsonl``, and stated ``agreement_accuracy``. All
outcomes were known, so nothing here is evidence of what it tells on other tasks.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter
from typing_extensions import TypedDict

from examples.study.first_updates import lookaheads_of, within_auroc
from examples.study.layout import sweep_order
from examples.study.models import weights_digest
from examples.study.planned_settings import STUDIES
from examples.study.predictors import PREDICTORS, RESULTS, values_of
from examples.study.prospective import REFERENCE
from examples.study.rows import PairRow, read_pairs
from examples.study.scoring import PRIMARY, study_of, within
from examples.study.settings import StudySettings
from examples.study.tables import table, value_text
from examples.study.tasks import TASKS
from mlflow_rlrisk.assess import assess
from mlflow_rlrisk.demo.train import single_thread
from mlflow_rlrisk.statistics import auroc

FILE = "agreement.jsonl"


class AgreementRow(TypedDict):
    """``agreement`` is value, lower and upper end of ``rlrisk/agreement_accuracy``."""

    lineage: str
    checkpoint: str
    weights: str
    agreement: list[float]


_ROW = TypeAdapter(AgreementRow)


def measure(folders: Sequence[Path]) -> Iterator[AgreementRow]:
    """Assess every checkpoint without a row that a folder holds with the weights of its run."""
    single_thread()
    done = {(row["lineage"], row["checkpoint"]) for row in read_agreements()}
    known = {
        (row["lineage"], row["checkpoint"]): row for row in read_pairs(RESULTS / "pairs.jsonl")
    }
    for folder in folders:
        for settings in STUDIES.values():
            for each in sweep_order(settings):
                place, row = folder / each.folder, known.get((each.lineage, each.name))
                if row is None or (each.lineage, each.name) in done or not place.is_dir():
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
    found = report.metrics["rlrisk/agreement_accuracy"]
    return {
        "lineage": row["lineage"],
        "checkpoint": row["checkpoint"],
        "weights": row["digests"]["weights"],
        "agreement": [found.value, found.ci_low, found.ci_high],
    }


def read_agreements() -> list[AgreementRow]:
    """The rows of the file, each checked against the schema."""
    path = RESULTS / FILE
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [_ROW.validate_json(line) for line in lines]


def told() -> str:
    """AUROC of a failed run and ranks of the final pass@1, beside what was known before."""
    agreements = {(row["lineage"], row["checkpoint"]): row for row in read_agreements()}
    pairs = read_pairs(RESULTS / "pairs.jsonl")
    study = study_of([row for row in pairs if (row["lineage"], row["checkpoint"]) in agreements])
    own = np.array(
        [agreements[row["lineage"], row["checkpoint"]]["agreement"][0] for row in study.rows]
    )
    ahead = lookaheads_of(study.rows)
    if ahead is None:
        raise ValueError(f"{FILE} names a checkpoint whose first updates were not tried")
    covered = values_of(study.rows, PREDICTORS[REFERENCE])
    values = {
        "`agreement_accuracy`": own,
        "`agreement_accuracy` × pass@64": own * covered,
        REFERENCE: covered,
        "pass@1 sampled": values_of(study.rows, PREDICTORS["pass@1 sampled"]),
        "pass@1 greedy": values_of(study.rows, PREDICTORS["pass@1 greedy"]),
        "`lookahead_reach`": np.array([each["reach"][0] for each in ahead]),
    }
    rows = [
        [
            name,
            value_text(auroc(-each, study.failed)),
            value_text(within_auroc(study, each)),
            value_text(within(study, each, PRIMARY)),
        ]
        for name, each in values.items()
    ]
    head = ["predictor", "AUROC failed", "within a lineage", "ρ with final pass@1, within"]
    return (
        f"{len(study.rows)} checkpoints of {len(study.names)} lineages, "
        f"{int(study.failed.sum())} failed, all outcomes known.\n\n" + table(head, rows)
    )


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
            file.write(json.dumps(_ROW.validate_python(row), allow_nan=False) + "\n")
            file.flush()
            sys.stderr.write(f"{row['lineage']} {row['checkpoint']}: {row['agreement'][0]:.3f}\n")


if __name__ == "__main__":
    main()
