"""A chance of failure from how far the run's first updates reach, where they were tried."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression

from mlflow_rlrisk.calibration import CalibrationRecord, OutcomeRow, calibrate
from mlflow_rlrisk.commands.calibrate import calibrate as command
from mlflow_rlrisk.config import CalibrationUse, PolicyConfig
from mlflow_rlrisk.errors import ConfigError
from mlflow_rlrisk.evidence import AssessmentContext, Evidence
from mlflow_rlrisk.policy import Outcome, decide, load_policy
from mlflow_rlrisk.report import RiskLevel, RiskReport
from tests.calibration.simulated import COMPONENTS, outcomes, write_jsonl
from tests.prompt_statistics import ladder_rung, report_of

HEALTHY = ladder_rung(6.0, 8.0, 0.4)
CHANCE, REACH = "rlrisk/fail_probability", "rlrisk/lookahead_reach"
ORDER = {RiskLevel.LOW: 0, RiskLevel.MEDIUM: 1, RiskLevel.HIGH: 2}


def tried(num: int, seed: int = 0, *, share: float = 1.0) -> list[OutcomeRow]:
    """Failure follows the reach, from -1 to 2; the index and all else are noise."""
    rng = np.random.default_rng([seed, 7])
    rows = []
    for place, row in enumerate(outcomes(num, seed, strength=0.0)):
        reach = float(rng.uniform(-1.0, 2.0))
        failed = bool(rng.random() < 1.0 / (1.0 + np.exp(8.0 * (reach - 0.4))))
        metrics = {**row.metrics, **({REACH: reach} if place < share * num else {})}
        rows.append(replace(row, metrics=metrics, failed=failed))
    return rows


def reached(value: float, width: float = 0.1) -> AssessmentContext:
    known = Evidence(value=value, ci_low=value - width, ci_high=value + width, source="tried")
    return AssessmentContext(lookahead_reach=known)


def policy_on_updates(folder: Path, rows: Sequence[OutcomeRow]) -> Path:
    record = calibrate(rows, COMPONENTS, feature="lookahead_reach")
    (folder / "calibration.json").write_text(record.to_json(), encoding="utf-8")
    path = folder / "policy.yaml"
    path.write_text("name: updates\ncalibration: calibration.json\n", encoding="utf-8")
    return path


def test_what_failure_follows_is_used_and_the_index_beside_it_is_not() -> None:
    rows = tried(200)

    on_updates = calibrate(rows, COMPONENTS, feature="lookahead_reach")
    on_index = calibrate(rows, COMPONENTS)

    scores = on_updates.content["validation"]["predictors"]
    assert next(iter(scores)) == "lookahead_reach"
    assert scores["lookahead_reach"]["skill"] > 0.3
    assert "risk_index" in on_updates.content["validation"]["baselines"]
    assert on_updates.is_used
    assert not on_index.is_used
    assert "lookahead_reach" in on_index.reasons[0]
    assert {row["lookahead_reach"] for row in on_updates.content["rows"]} == {
        row.metrics[REACH] for row in rows
    }


def test_the_curve_is_the_isotonic_regression_of_failure_on_what_is_left() -> None:
    rows = tried(120)

    curve = calibrate(rows, COMPONENTS, feature="lookahead_reach").curve

    left = np.array([1.0 - row.metrics[REACH] for row in rows])
    failed = np.array([row.failed for row in rows], dtype=float)
    own = IsotonicRegression(y_min=0.5 / 120, y_max=1 - 0.5 / 120).fit(left, failed)
    at, chances = (np.array(column) for column in zip(*curve, strict=True))
    assert (at[0], at[-1]) == (left.min(), left.max())
    np.testing.assert_allclose(chances, own.predict(at), atol=1e-12)


def test_a_checkpoint_whose_updates_were_not_tried_is_left_out_by_name() -> None:
    rows = tried(60, share=0.4)

    record = calibrate(rows, COMPONENTS, feature="lookahead_reach")
    index = calibrate(rows, COMPONENTS)

    left_out = record.content["left_out"]
    assert record.content["num_outcomes"] == 24
    assert {each["checkpoint"] for each in left_out} == {row.checkpoint for row in rows[24:]}
    assert left_out[0]["reason"].endswith("were not tried, or said nothing")
    assert index.content["num_outcomes"] == 60
    assert "36 of 60" in index.content["validation"]["undefined"]["lookahead_reach"]


def test_outcomes_without_updates_have_the_record_that_they_had() -> None:
    record = calibrate(outcomes(60, seed=1), COMPONENTS)

    assert record.feature == "risk_index"
    assert "lookahead_reach" not in json.dumps(record.content["validation"])
    none = calibrate(outcomes(60, seed=1), COMPONENTS, feature="lookahead_reach")
    assert (none.content["model"]["kind"], none.is_used) == ("none", False)
    with pytest.raises(ConfigError, match="feature='luck'"):
        calibrate(outcomes(60), COMPONENTS, feature="luck")


def test_a_report_states_the_chance_of_its_own_updates(tmp_path: Path) -> None:
    policy = load_policy(policy_on_updates(tmp_path, tried(200)))
    assert policy.calibration is not None
    at, chances = zip(*policy.calibration.curve, strict=True)

    good = report_of(HEALTHY, policy=policy, context=reached(1.5))
    poor = report_of(HEALTHY, policy=policy, context=reached(0.31, width=0.05))

    for report, reach, width in ((good, 1.5, 0.1), (poor, 0.31, 0.05)):
        chance = report.metrics[CHANCE]
        assert chance.value == pytest.approx(np.interp(1.0 - reach, at, chances))
        ends = np.interp([1.0 - reach - width, 1.0 - reach + width], at, chances)
        assert (chance.ci_low, chance.ci_high) == pytest.approx(tuple(ends), abs=0.02)
        assert any("fails, by its first updates," in reason for reason in report.reasons)
        assert RiskReport.from_json(report.to_json()) == report
    assert good.risk_level is RiskLevel.LOW
    assert decide(good, policy).outcome is Outcome.PROMOTE
    # Its lower end .26 is no severe component: the calibrated chance alone withholds ``low``.
    assert report_of(HEALTHY, context=reached(0.31, width=0.05)).risk_level is RiskLevel.LOW
    assert poor.metrics[CHANCE].value > policy.max_fail_probability
    assert poor.risk_level is RiskLevel.MEDIUM
    assert poor.level_probabilities["low"] < 0.5


def test_without_the_updates_there_is_no_chance_and_no_low(tmp_path: Path) -> None:
    policy = load_policy(policy_on_updates(tmp_path, tried(200)))

    report = report_of(HEALTHY, policy=policy)

    assert CHANCE not in report.metrics
    assert "reads the first updates" in report.undefined[CHANCE]
    assert report.risk_level is RiskLevel.MEDIUM
    assert report.level_probabilities["low"] == 0.0
    assert "low needs lookahead assessed" in report.reasons[0]
    assert "rlrisk lookahead FOLDER" in report.next_steps[0]
    assert decide(report, policy).outcome is Outcome.BLOCK


def test_a_policy_that_does_not_assess_them_does_not_use_the_record(tmp_path: Path) -> None:
    path = policy_on_updates(tmp_path, tried(200))
    lines = "components: {starvation: {ok: 0.9, bad: 0.2, weight: 0.9}}\n"
    path.write_text(path.read_text() + lines, encoding="utf-8")

    found = load_policy(path).calibration

    assert found is not None
    assert not found.used
    assert "no component" in found.reason
    made = CalibrationRecord.read(tmp_path / "calibration.json")
    use = found.model_copy(update={"used": True, "curve": tuple(map(tuple, made.curve))})
    alone = {"starvation": PolicyConfig().components["starvation"]}
    with pytest.raises(ConfigError, match=r"^calibration='lookahead'"):
        PolicyConfig(components=alone, calibration=use)


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.floats(0.0, 1.0), min_size=3, max_size=3).map(sorted),
    st.sampled_from([(6.0, 8.0, 0.4), (1.2, 1.8, 0.2), (0.2, 0.15, 0.02)]),
    st.floats(-2.0, 3.0),
)
def test_no_chance_of_the_updates_ever_lowers_a_level(
    chances: list[float], rung: tuple[float, float, float], reach: float
) -> None:
    use = CalibrationUse(
        record="ab" * 32,
        used=True,
        reason="ahead",
        num_outcomes=40,
        num_lineages=4,
        feature="lookahead_reach",
        curve=tuple(zip((-1.0, 0.5, 2.0), chances, strict=True)),
    )
    given_ = {"num_resamples": 200, "context": reached(reach)}

    plain = report_of(ladder_rung(*rung), **given_)
    calibrated = report_of(ladder_rung(*rung), policy=PolicyConfig(calibration=use), **given_)

    assert ORDER[calibrated.risk_level] >= ORDER[plain.risk_level]


def test_the_command_calibrates_what_it_is_told_to(tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "pairs.jsonl", tried(60))
    out = tmp_path / "calibration.json"
    options = ["--data", str(data), "--out", str(out), "--on", "lookahead_reach"]

    done = CliRunner().invoke(command, options, standalone_mode=False, catch_exceptions=False)

    assert done.return_value == 0
    assert "; lookahead_reach; model: isotonic; used" in done.stdout
    assert "\nrisk_index " in done.stdout
    rows = CalibrationRecord.read(out).content["rows"]
    caught = sum(row["failed"] for row in rows if row["predicted"] > 0.5)
    assert f"lie {caught} of {sum(row['failed'] for row in rows)} failed and " in done.stdout
    assert CalibrationRecord.read(out).feature == "lookahead_reach"
