"""The README's table of evidence follows from the committed rows, and from nothing else."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import kendalltau, spearmanr

from examples.study import analyse
from examples.study.candidates import CANDIDATES
from examples.study.choosing import candidate_values, chosen_elsewhere, frozen
from examples.study.outcomes import FILE, outcome_lines
from examples.study.predictors import PREDICTORS, RESULTS, report_of, values_of
from examples.study.prospective import PLANNED
from examples.study.rows import read_pairs
from examples.study.scoring import PRIMARY, Study, study_of
from mlflow_rlrisk.calibration import index_of
from mlflow_rlrisk.metrics.catalogue import spec_of
from mlflow_rlrisk.risk.components import ALL_WRONG

pytestmark = pytest.mark.xdist_group("study")  # its figures are computed once

ROUNDING = 1e-9


@pytest.fixture(scope="module")
def study() -> Study:
    return study_of(analyse.of_the_choice(read_pairs(RESULTS / "pairs.jsonl")))


@pytest.fixture(scope="module")
def found(shown: analyse.Shown) -> dict[str, Any]:
    return shown.study


def test_the_readme_is_as_computed_to_the_digit(shown: analyse.Shown) -> None:
    text = analyse.README.read_text(encoding="utf-8")

    rows = read_pairs(RESULTS / "pairs.jsonl")
    written = text.split(analyse.BEGIN)[1].split(analyse.END)[0]
    assert written == analyse.readme_block(shown)
    assert analyse.PAGE.read_text(encoding="utf-8") == analyse.evidence_page(shown)
    assert (RESULTS / FILE).read_text(encoding="utf-8") == outcome_lines(rows)


def test_all_figures_can_be_had_as_json(
    shown: analyse.Shown, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(analyse, "all_figures", lambda rows: shown)

    assert analyse.main(["--json"]) == 0

    found = json.loads(capsys.readouterr().out)
    assert len(found["prospective"]) == len(PLANNED)
    assert found["num_checkpoints"] + sum(
        sum(test["lineages"].values()) for test in found["prospective"]
    ) == len(read_pairs(RESULTS / "pairs.jsonl"))


def test_the_candidates_are_those_that_were_frozen() -> None:
    assert frozen()["sha256"]
    assert frozen()["primary_outcome"] == "final pass@1 on held-out prompts"


@pytest.mark.parametrize("name", ["pass@64", "risk index", "token entropy"])
def test_correlations_are_those_of_scipy(study: Study, found: dict[str, Any], name: str) -> None:
    values, after = values_of(study.rows, PREDICTORS[name]), study.outcomes[PRIMARY]

    each = [
        spearmanr(values[study.lineages == lineage], after[study.lineages == lineage]).statistic
        for lineage in study.names
    ]

    assert found["predictors"][name]["within"] == pytest.approx(np.mean(each))
    assert found["predictors"][name]["spearman"] == pytest.approx(
        spearmanr(values, after).statistic
    )
    assert found["predictors"][name]["kendall"] == pytest.approx(
        kendalltau(values, after).statistic
    )


def test_what_is_chosen_for_a_lineage_does_not_depend_on_its_outcomes(study: Study) -> None:
    pool = candidate_values(study)
    del pool["logistic"]

    chosen = chosen_elsewhere(study, pool)
    for lineage in study.names:
        hidden = np.where(study.lineages == lineage, 0.0, study.outcomes[PRIMARY])
        blind = replace(study, outcomes={**study.outcomes, PRIMARY: hidden})
        assert chosen_elsewhere(blind, pool)[lineage][0] == chosen[lineage][0]


def test_each_row_holds_the_index_of_its_report(study: Study) -> None:
    for row in study.rows:
        report = report_of(row["report"])
        read = {name: row["metrics"][name] for name in row["metrics"] if name != ALL_WRONG}
        again = index_of(read, report.policy.components)  # starvation was read off the signal
        assert again == pytest.approx(row["metrics"]["rlrisk/risk_index"])
        if report.policy.components["starvation"].weight == 0.9:
            assert CANDIDATES["noisy_or_1"](row["metrics"]) == pytest.approx(again)


def test_every_metric_of_every_row_lies_where_the_catalogue_says_it_does() -> None:
    for row in read_pairs(RESULTS / "pairs.jsonl"):
        for name, value in row["metrics"].items():
            spec = spec_of(name.removesuffix("_ci_low").removesuffix("_ci_high"))
            if spec is not None and value is not None:
                assert spec.lower is None or value >= spec.lower - ROUNDING, (name, value)
                assert spec.upper is None or value <= spec.upper + ROUNDING, (name, value)


def test_every_run_that_broke_off_failed_and_is_counted(study: Study) -> None:
    rows = read_pairs(RESULTS / "pairs.jsonl")

    assert len(study.rows) == sum(bool(row["outcomes"]) for row in analyse.of_the_choice(rows))
    for run in (run for row in rows for run in row["outcomes"]):
        assert run["failed"] or run["error"] is None
