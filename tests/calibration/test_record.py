"""What a record says of its curve, what its file must hold, and when it says nothing."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from mlflow_rlrisk.calibration import CalibrationRecord, OutcomeRow, calibrate, read_rows
from mlflow_rlrisk.calibration.curves import INTERCEPT_SD, LINEAGE_SD, SLOPE_MEAN, SLOPE_SD
from mlflow_rlrisk.cli import cli
from mlflow_rlrisk.errors import ConfigError
from mlflow_rlrisk.policy import load_policy
from tests.calibration.simulated import COMPONENTS, outcomes, write_jsonl


def newton(rows: list[OutcomeRow], at: np.ndarray) -> np.ndarray:
    """Chances by the posterior mode under the documented priors, by Newton's method."""
    scores = np.array([row.index for row in rows])
    names = sorted({row.lineage for row in rows})
    members = np.array([[row.lineage == name for name in names] for row in rows], dtype=float)
    standard = (scores - scores.mean()) / scores.std()
    design = np.column_stack([np.ones(len(rows)), standard, members])
    failed = np.array([row.failed for row in rows], dtype=float)
    means = np.array([0.0, SLOPE_MEAN, *[0.0] * len(names)])
    precision = np.diag([INTERCEPT_SD**-2, SLOPE_SD**-2, *[LINEAGE_SD**-2] * len(names)])
    beta = means.copy()
    for _ in range(50):
        chance = 1.0 / (1.0 + np.exp(-design @ beta))
        score = design.T @ (failed - chance) - precision @ (beta - means)
        information = (design.T * chance * (1.0 - chance)) @ design + precision
        beta = beta + np.linalg.solve(information, score)
    logits = beta[0] + beta[1] * (at - scores.mean()) / scores.std()
    return np.asarray(1.0 / (1.0 + np.exp(-logits)))


@pytest.mark.parametrize("scale", [1.0, 0.02, 1e-4])
def test_the_table_of_a_record_is_its_curve_however_close_the_indices_lie(scale: float) -> None:
    # A hundred points between 0 and 1 missed the curve of indices below 0.001 by 0.8.
    rows = [replace(row, index=scale * row.index) for row in outcomes(30, seed=3, strength=30.0)]
    within = np.linspace(0.0, scale, 201)

    points, chances = np.array(calibrate(rows, COMPONENTS).curve).T

    np.testing.assert_allclose(np.interp(within, points, chances), newton(rows, within), atol=2e-3)
    assert points[0] == 0.0
    assert points[-1] == 1.0


@pytest.mark.parametrize("num", [24, 60])
@pytest.mark.parametrize("index", [0.0, 0.1 + 0.2])
def test_an_index_that_is_the_same_everywhere_says_nothing_and_is_not_used(
    num: int, index: float
) -> None:
    # Its predictions are the base rate's but for rounding, by which they were ahead of it.
    rows = [replace(row, index=index, failed=i % 3 == 0) for i, row in enumerate(outcomes(num))]
    rows = [replace(row, metrics={"rlrisk/pass_at_1": row.final}) for row in rows]

    record = calibrate(rows, COMPONENTS)

    assert not record.is_used
    assert "constant" in record.reasons[0]


def signed(content: dict[str, Any]) -> str:
    """A record with the digest that fits it."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return json.dumps({**content, "digest": hashlib.sha256(text.encode()).hexdigest()})


@pytest.mark.parametrize(
    ("place", "value", "word"),
    [
        (("num_outcomes",), float("nan"), "digest"),
        (("used",), "no", "used"),
        (("used",), None, "used"),
        (("reasons",), None, "reasons"),
        (("formula",), 7, "formula"),
        (("model", "feature"), "pass_at_1", "model.feature"),
        (("model", "curve"), [[0.0, 0.1, 0.2], [1.0, 0.9, 0.3]], "model.curve.0"),
        (("model", "curve"), [[0.0, 0.1], ["1", 0.9]], "model.curve.1.0"),
    ],
)
def test_a_record_of_another_form_is_refused_by_name_though_its_digest_fits(
    place: tuple[str, ...], value: Any, word: str, tmp_path: Path
) -> None:
    content = json.loads(json.dumps(calibrate(outcomes(40), COMPONENTS).content))
    inner = content
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = value
    path = tmp_path / "calibration.json"
    path.write_text(signed(content), encoding="utf-8")

    with pytest.raises(ConfigError, match=word):
        CalibrationRecord.read(path)


def test_a_record_of_before_the_first_updates_were_calibrated_is_one_of_the_index(
    tmp_path: Path,
) -> None:
    content = json.loads(json.dumps(calibrate(outcomes(40), COMPONENTS).content))
    del content["model"]["feature"]
    path = tmp_path / "calibration.json"
    path.write_text(signed(content), encoding="utf-8")

    assert CalibrationRecord.read(path).feature == "risk_index"


@pytest.mark.parametrize("before", [None, "{", '{"kind": "rlrisk calibration"}'])
def test_a_record_can_be_made_for_the_policy_that_names_it(
    tmp_path: Path, before: str | None
) -> None:
    data = write_jsonl(tmp_path / "pairs.jsonl", outcomes(60, seed=1))
    policy, record = tmp_path / "policy.yaml", tmp_path / "calibration.json"
    policy.write_text("calibration: calibration.json\n", encoding="utf-8")
    if before is not None:
        record.write_text(before, encoding="utf-8")
    command = ["calibrate", "--data", str(data), "--policy", str(policy), "--out", str(record)]

    result = CliRunner().invoke(cli, command, standalone_mode=False)

    assert result.return_value == 0, result.exception
    found = load_policy(policy).calibration
    assert found is not None
    assert found.record == CalibrationRecord.read(record).digest


@pytest.mark.parametrize("read", ["pairs.jsonl", "policy.yaml"])
def test_a_record_never_replaces_what_it_is_made_of(tmp_path: Path, read: str) -> None:
    data = write_jsonl(tmp_path / "pairs.jsonl", outcomes(60, seed=1))
    policy = tmp_path / "policy.yaml"
    policy.write_text("name: mine\n", encoding="utf-8")
    out = tmp_path / "linked.json"
    out.symlink_to(tmp_path / read)
    before = [path.read_text(encoding="utf-8") for path in (data, policy)]
    command = ["calibrate", "--data", str(data), "--policy", str(policy), "--out", str(out)]

    result = CliRunner().invoke(cli, command, standalone_mode=False)

    assert "would replace it" in str(result.exception)
    assert [path.read_text(encoding="utf-8") for path in (data, policy)] == before


def test_a_file_of_outcomes_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "pairs.jsonl", outcomes(2))
    path.write_text(path.read_text(encoding="utf-8"), encoding="utf-8-sig")

    assert len(read_rows(path, COMPONENTS)[0]) == 2


def test_a_figure_that_cannot_be_computed_with_is_named(tmp_path: Path) -> None:
    rows = outcomes(1)
    huge = replace(rows[0], metrics={**rows[0].metrics, "rlrisk/token_entropy": 1e308})

    with pytest.raises(ConfigError, match=r"jsonl:1.*token_entropy"):
        read_rows(write_jsonl(tmp_path / "pairs.jsonl", [huge]), COMPONENTS)
