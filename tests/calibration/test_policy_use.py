"""A policy that names a calibration record: it may withhold ``low`` and do nothing else."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlflow_rlrisk.calibration import calibrate
from mlflow_rlrisk.config import CalibrationUse, PolicyConfig
from mlflow_rlrisk.errors import ConfigError
from mlflow_rlrisk.policy import Outcome, decide, load_policy
from mlflow_rlrisk.report import RiskLevel, RiskReport
from tests.calibration.simulated import COMPONENTS, outcomes
from tests.prompt_statistics import ladder_rung, prompts, report_of

ORDER = {RiskLevel.LOW: 0, RiskLevel.MEDIUM: 1, RiskLevel.HIGH: 2}
HEALTHY = ladder_rung(6.0, 8.0, 0.4)
CHANCE = "rlrisk/fail_probability"


def use(*curve: tuple[float, float], is_used: bool = True) -> CalibrationUse:
    return CalibrationUse(
        record="ab" * 32,
        used=is_used,
        reason="out of lineage it is ahead" if is_used else "pass_at_64 is ahead",
        num_outcomes=40,
        num_lineages=4,
        curve=curve,
    )


def written(folder: Path, num: int = 60, *, strength: float = 12.0) -> Path:
    record = calibrate(outcomes(num, seed=1, strength=strength), COMPONENTS)
    (folder / "calibration.json").write_text(record.to_json(), encoding="utf-8")
    policy = folder / "policy.yaml"
    policy.write_text("name: calibrated\ncalibration: calibration.json\n", encoding="utf-8")
    return policy


def test_a_used_record_puts_its_chance_beside_the_level(tmp_path: Path) -> None:
    policy = load_policy(written(tmp_path))

    report = report_of(HEALTHY, policy=policy)

    assert policy.calibration is not None
    index, chance = report.metrics["rlrisk/risk_index"], report.metrics[CHANCE]
    at, levels = zip(*policy.calibration.curve, strict=True)
    value, low, high = np.interp([index.value, index.ci_low, index.ci_high], at, levels)
    assert chance.value == pytest.approx(value)
    assert (chance.ci_low, chance.ci_high) == pytest.approx((low, high), abs=0.02)
    assert report.risk_level is RiskLevel.LOW
    assert any(policy.calibration.record[:12] in reason for reason in report.reasons)
    assert RiskReport.from_json(report.to_json()) == report
    assert decide(report, policy).outcome is Outcome.PROMOTE


def test_a_record_that_does_not_beat_the_baselines_changes_nothing_but_is_named(
    tmp_path: Path,
) -> None:
    policy = load_policy(written(tmp_path, num=7))

    report = report_of(HEALTHY, policy=policy)

    assert policy.calibration is not None
    assert not policy.calibration.used
    assert CHANCE in report.undefined
    assert report.risk_level is report_of(HEALTHY).risk_level
    assert any("not used: 7 checkpoints" in reason for reason in report.reasons)


def test_a_record_of_another_index_is_not_used(tmp_path: Path) -> None:
    path = written(tmp_path)
    lines = "components: {starvation: {ok: 0.9, bad: 0.2, weight: 0.9}}\n"
    path.write_text(path.read_text() + lines, encoding="utf-8")

    found = load_policy(path).calibration

    assert found is not None
    assert not found.used
    assert "other components" in found.reason


@pytest.mark.parametrize("change", ["missing", "edited"])
def test_a_record_that_is_gone_or_was_edited_stops_the_policy(tmp_path: Path, change: str) -> None:
    path, record = written(tmp_path), tmp_path / "calibration.json"
    if change == "missing":
        record.unlink()
    else:
        raw = json.loads(record.read_text())
        raw["model"]["curve"] = [[0.0, 0.0], [1.0, 0.0]]
        record.write_text(json.dumps(raw), encoding="utf-8")

    with pytest.raises(ConfigError, match="calibration"):
        load_policy(path)


def test_a_high_chance_withholds_low() -> None:
    policy = PolicyConfig(calibration=use((0.0, 0.6), (1.0, 0.9)))

    report = report_of(HEALTHY, policy=policy)

    assert report_of(HEALTHY).risk_level is RiskLevel.LOW
    assert report.risk_level is RiskLevel.MEDIUM
    assert report.level_probabilities["low"] == 0.0
    assert decide(report, policy).outcome is Outcome.BLOCK


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.floats(0.0, 1.0), min_size=3, max_size=3).map(sorted),
    st.sampled_from([(6.0, 8.0, 0.4), (1.2, 1.8, 0.2), (0.2, 0.15, 0.02), (0.1, 2.0, 0.02)]),
)
def test_no_calibration_ever_lowers_a_level(
    chances: list[float], rung: tuple[float, float, float]
) -> None:
    policy = PolicyConfig(calibration=use(*zip((0.0, 0.5, 1.0), chances, strict=True)))
    statistics = ladder_rung(*rung)

    plain = report_of(statistics, num_resamples=200)
    calibrated = report_of(statistics, policy=policy, num_resamples=200)

    assert ORDER[calibrated.risk_level] >= ORDER[plain.risk_level]


def test_an_unknown_level_gets_no_chance() -> None:
    policy = PolicyConfig(calibration=use((0.0, 0.1), (1.0, 0.9)))

    report = report_of(prompts([4] * 20, 8), policy=policy)

    assert report.risk_level is RiskLevel.UNKNOWN
    assert CHANCE in report.undefined


def test_a_curve_that_falls_or_is_too_short_is_refused() -> None:
    with pytest.raises(ConfigError, match="fall behind"):
        use((0.0, 0.5), (1.0, 0.4))
    with pytest.raises(ConfigError, match="two points"):
        use((0.0, 0.5))


def test_a_policy_file_takes_a_path_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("calibration: {used: true}\n", encoding="utf-8")

    with pytest.raises(ConfigError, match="path"):
        load_policy(path)
