"""A risk policy with a calibration record behind the gate: the bar is the one assessments name."""

from pathlib import Path
from typing import Any

import pytest

from mlflow_rlrisk.errors import ConfigError
from mlflow_rlrisk.gate.promotion_policy import PolicySource
from mlflow_rlrisk.policy import load_policy
from tests.calibration.test_policy_use import written
from tests.gate.world import World

RULES = [{"name": "r", "aliases": ["rl-ready"]}]


def test_the_gate_asks_for_the_calibrated_policy_of_an_assessment(tmp_path: Path) -> None:
    folder = tmp_path / "risk"
    folder.mkdir()
    risk = written(folder)
    world = World.make(tmp_path, RULES, risk_policy="risk/policy.yaml")
    source = PolicySource(world.policy_path)

    first = source.current()

    assert first.risk_policy_digest == load_policy(risk).digest()
    assert source.current() is first
    written(folder, 50)
    assert source.current().risk_policy_digest == load_policy(risk).digest()
    assert source.current().digest != first.digest
    (folder / "calibration.json").unlink()
    with pytest.raises(ConfigError, match="calibration"):
        source.current()


def test_settings_in_the_file_itself_name_a_record_beside_it(tmp_path: Path) -> None:
    risk = written(tmp_path)
    settings = {"name": "calibrated", "calibration": "calibration.json"}
    world = World.make(tmp_path / "gate", RULES, risk_policy=settings)
    world.policy_path.rename(tmp_path / "gate.yaml")
    world.ring_path.rename(tmp_path / world.ring_path.name)

    bar = PolicySource(tmp_path / "gate.yaml").current()

    assert bar.risk_policy_digest == load_policy(risk).digest()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"calibration": 3}, "calibration"),
        ({"components": {"nothing": {"ok": 1.0, "bad": 0.0, "weight": 1.0}}}, "components.nothing"),
        ({"low_below": 0.8}, "low_below"),
    ],
)
def test_a_risk_policy_that_no_assessment_could_have_is_refused(
    tmp_path: Path, settings: dict[str, Any], named: str
) -> None:
    world = World.make(tmp_path, RULES, risk_policy=settings)

    with pytest.raises(ConfigError) as refused:
        PolicySource(world.policy_path).current()

    assert refused.value.field == named


@pytest.mark.parametrize("broken", ["policy.yaml", "risk.yaml"])
def test_a_file_that_is_no_yaml_is_named(tmp_path: Path, broken: str) -> None:
    world = World.make(tmp_path, RULES, risk_policy="risk.yaml")
    (tmp_path / "risk.yaml").write_text("low_below: 0.3\n")
    (tmp_path / broken).write_text("{")

    with pytest.raises(ConfigError, match=rf"='[^']*{broken}': cannot be read, it is no YAML"):
        PolicySource(world.policy_path).current()
