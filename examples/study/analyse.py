"""``python -m examples.study.analyse``: the README's table of evidence, from committed data.

python -m examples.study.analyse            write EVIDENCE.md, the picture and the README's section
python -m examples.study.analyse --check    say whether they are as computed, to the digit
python -m examples.study.analyse --json     all figures, unrounded
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from examples.study.at_a_glance import draw_picture, picture_line, planned_table
from examples.study.choosing import candidate_values, comparison, frozen
from examples.study.first_updates import (
    first_update_figures,
    first_update_section,
    first_update_summary,
    measured_lineages,
)
from examples.study.groups import group_figures, group_section
from examples.study.misranked import misranked, noise_floor
from examples.study.outcomes import (
    CHANCE_TESTS,
    FILE,
    chance_figures,
    chance_section,
    outcome_lines,
    planned_chance,
    planned_chance_section,
)
from examples.study.predictors import OURS, PREDICTORS, RESULTS, values_of
from examples.study.prospective import PLANNED, prospective_figures
from examples.study.prospective_tables import (
    prospective_candidates,
    prospective_page,
    prospective_summary,
)
from examples.study.rows import PairRow, read_pairs
from examples.study.scoring import (
    OUTCOMES,
    PRIMARY,
    Study,
    auroc_draws,
    by_lineage,
    resamples,
    scores,
    study_of,
    within,
    within_draws,
)
from examples.study.settings import FULL
from examples.study.tables import everything, section
from examples.study.together import together_figures, together_section
from examples.study.verdicts import level_table, levels_then
from mlflow_rlrisk.calibration import calibrate, read_rows
from mlflow_rlrisk.config import DEFAULT_COMPONENTS

README = Path(__file__).parents[2] / "README.md"
PAGE = Path(__file__).parent / "EVIDENCE.md"
BEGIN, END = "<!-- evidence:begin -->\n", "<!-- evidence:end -->\n"
REFERENCE = "pass@64"

Tested = Sequence[dict[str, Any] | None]
"""Figures of the planned tests; ``None`` for one without runs."""


class Shown(NamedTuple):
    """Every figure that README and ``EVIDENCE.md`` are made of."""

    study: dict[str, Any]
    tested: Tested
    together: dict[str, Any]
    ahead: Tested
    chance: dict[str, Any]
    planned_chance: Tested
    groups: dict[str, Any] | None


def all_figures(rows: list[PairRow]) -> Shown:
    """From the committed rows, and from nothing else."""
    return Shown(
        study=figures(study_of(of_the_choice(rows))),
        tested=[prospective_figures(rows, test) for test in PLANNED],
        together=together_figures(rows),
        ahead=first_updates(rows),
        chance=chance_figures(),
        planned_chance=[planned_chance(rows, test) for test in CHANCE_TESTS],
        groups=group_figures(rows),
    )


def figures(study: Study) -> dict[str, Any]:
    """Every figure of the section, and more, as JSON values."""
    values = {name: values_of(study.rows, each) for name, each in PREDICTORS.items()}
    drawn = resamples(study)
    draws = {name: within_draws(study, each, drawn) for name, each in values.items()}
    found_failed = {name: auroc_draws(study, values[name], drawn) for name in (OURS, REFERENCE)}
    predictors = {
        name: {
            **scores(study, each),
            "interval": _ends(draws[name]),
            "less_reference": _ends(draws[name] - draws[REFERENCE]),
            "lineages": by_lineage(study, each, PRIMARY),
            "outcomes": {outcome: within(study, each, outcome) for outcome in OUTCOMES},
        }
        for name, each in values.items()
    }
    return {
        "num_checkpoints": len(study.rows),
        "num_runs": sum(len(row["outcomes"]) for row in study.rows),
        "num_failed": int(study.failed.sum()),
        "lineages": {name: int((study.lineages == name).sum()) for name in study.names},
        "predictors": predictors,
        "candidates": {
            name: {
                "lineages": by_lineage(study, each, PRIMARY),
                "outcomes": {outcome: within(study, each, outcome) for outcome in OUTCOMES},
                "auroc_failed": scores(study, each)["auroc_failed"],
            }
            for name, each in candidate_values(study).items()
        },
        "frozen": frozen(),
        "chosen_elsewhere": comparison(study),
        "auroc_interval": _ends(found_failed[OURS]),
        "auroc_less_reference": _ends(found_failed[OURS] - found_failed[REFERENCE]),
        "levels": level_table(study),
        "levels_then": levels_then(study),
        "noise": noise_floor(study),
        "calibration": calibrated(study.names),
        "misranked": misranked(study, values[OURS]),
    }


def _ends(draws: np.ndarray) -> list[float]:
    return [float(end) for end in np.quantile(draws, [0.025, 0.975])]


def calibrated(lineages: list[str]) -> dict[str, Any]:
    """What ``rlrisk calibrate`` makes of the rows of the lineages."""
    known, _ = read_rows(RESULTS / "pairs.jsonl", DEFAULT_COMPONENTS, min_gain=0.0)
    rows = [row for row in known if row.lineage in lineages]
    content = calibrate(rows, DEFAULT_COMPONENTS).content
    predictors = content["validation"]["predictors"]
    return {
        "used": content["used"],
        "kind": content["model"]["kind"],
        "brier": {name: each["brier"] for name, each in predictors.items()},
        "brier_interval": [predictors["risk_index"][f"brier_{end}"] for end in ("low", "high")],
        "skill": predictors["risk_index"]["skill"],
    }


def of_the_choice(rows: list[PairRow]) -> list[PairRow]:
    """Rows of the lineages that were known when the index was chosen."""
    names = {each.name for each in FULL.lineages}
    return [row for row in rows if row["lineage"] in names]


def first_updates(rows: list[PairRow]) -> Tested:
    """The updates that were tried: on the tests that were of them, and on what was known before."""
    tests = [test for test in PLANNED if not test.is_of_rank]
    new = {name for test in tests for name in test.lineages}
    known = [name for name in measured_lineages(rows) if name not in new]
    return [
        *(
            first_update_figures(rows, t.lineages, f"First updates, {t.title.lower()}")
            for t in tests
        ),
        first_update_figures(rows, known, "First updates, outcomes known when they were built"),
    ]


def readme_block(shown: Shown) -> str:
    """What stands between the markers of the README: a line for each test."""
    parts = [
        section(shown.study),
        together_section(shown.together),
        planned_table(shown.tested, shown.ahead, shown.planned_chance),
    ]
    return picture_line(shown.ahead) + "".join(map(_after, parts))


def evidence_page(shown: Shown) -> str:
    """``EVIDENCE.md``: the tests in sentences, and all tables."""
    parts = [
        prospective_summary(shown.tested),
        *map(prospective_page, shown.tested),
        together_section(shown.together),
        first_update_summary(shown.ahead),
        chance_section(shown.chance),
        *map(planned_chance_section, shown.planned_chance),
        group_section(shown.groups),
        *map(first_update_section, shown.ahead),
        *map(prospective_candidates, shown.tested),
    ]
    return everything(shown.study) + "".join(map(_after, parts))


def _after(part: str) -> str:
    return "\n" + part if part else ""


def main(arguments: list[str] | None = None) -> int:
    """Parse, compute, write or compare; 0 where the README is as computed."""
    parser = argparse.ArgumentParser(prog="python -m examples.study.analyse", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing")
    parser.add_argument("--json", action="store_true", help="print all figures, write nothing")
    options = parser.parse_args(arguments)
    rows = read_pairs(RESULTS / "pairs.jsonl")
    outcomes = RESULTS / FILE
    is_same = outcomes.is_file() and outcomes.read_text(encoding="utf-8") == outcome_lines(rows)
    if not is_same and not (options.check or options.json):
        outcomes.write_text(outcome_lines(rows), encoding="utf-8")
    shown = all_figures(rows)
    if options.json:
        figures_of = {
            "prospective": shown.tested,
            "together": shown.together,
            "first_updates": shown.ahead,
            "chance": shown.chance,
            "planned_chance": shown.planned_chance,
            "groups": shown.groups,
        }
        print(json.dumps({**shown.study, **figures_of}, allow_nan=False))
        return 0
    text = README.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    current, after = rest.split(END)
    computed, page = readme_block(shown), evidence_page(shown)
    if options.check:
        is_same &= current == computed and PAGE.read_text(encoding="utf-8") == page
        print(
            "as computed" if is_same else f"README, EVIDENCE.md or {FILE} differs", file=sys.stderr
        )
        return int(not is_same)
    draw_picture(rows, shown.ahead)
    PAGE.write_text(page, encoding="utf-8")
    README.write_text(before + BEGIN + computed + END + after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
