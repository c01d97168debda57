"""J of an audit reaches the report on the rollouts whose rewards it is about, and no other."""

import json
from pathlib import Path

import pytest

import mlflow_rlrisk
from mlflow_rlrisk import AssessmentConfig, SamplingConfig, assess, rescore
from mlflow_rlrisk.report import RiskReport
from mlflow_rlrisk.verifier_audit import AuditSettings, VerifierAudit, audit_verifier

DEMO = Path(mlflow_rlrisk.__file__).parent / "demo"
REWARD = "mlflow_rlrisk.demo.task:reward"
J = "rlrisk/verifier_youden_j"
UPSIDE_DOWN = ((5, 100), (95, 100))
"""Right answers among the accepted and among the rejected."""
CONFIG = AssessmentConfig(
    sampling=SamplingConfig(num_samples=4, max_new_tokens=20), group_size=2, num_resamples=200
)


@pytest.fixture
def prompts(tmp_path: Path) -> str:
    lines = (DEMO / "data" / "rl.jsonl").read_text(encoding="utf-8").splitlines()[:50]
    path = tmp_path / "rl.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


def assessed(prompts: str) -> RiskReport:
    folder = Path(prompts).parent / "out"
    return assess(DEMO / "base", prompts, verifier=REWARD, config=CONFIG, out_dir=folder)


def audited(
    prompts: str,
    verifier: str = REWARD,
    *,
    confidence: float = 0.95,
    threshold: float | None = None,
) -> VerifierAudit:
    settings = AuditSettings(
        samples=2,
        group_size=2,
        accept_rate=0.5,
        strata=UPSIDE_DOWN,
        confidence=confidence,
        success_threshold=threshold,
    )
    folder = Path(prompts).parent / "out"
    return audit_verifier(prompts, verifier, rollouts=folder, settings=settings)


def test_a_verifier_that_an_audit_found_upside_down_makes_the_level_high(prompts: str) -> None:
    # The audit told it on the console; the level stayed what the worthless rewards made it.
    before = assessed(prompts)

    found = audited(prompts)
    after = rescore(Path(prompts).parent / "out")
    again = assessed(prompts)

    # Half are accepted, 5 % of them right, 95 % of the rejected: TPR .05, FPR .95.
    assert "rlrisk audit-verifier" in before.undefined[J]
    assert found.evidence["is_kept"] is True
    assert after.metrics[J].value == pytest.approx(-0.9)
    assert after.metrics[J].ci_low < -0.9 < after.metrics[J].ci_high < 0.0
    assert after.metrics[J].num_prompts == 200
    assert after.risk_level == "high"
    assert any("verifier J" in reason for reason in after.reasons)
    assert any("audit the verifier" in step for step in after.next_steps)
    assert again.metrics[J] == after.metrics[J]
    assert again.risk_level == "high"


def test_rates_of_a_verifier_hold_for_groups_of_any_size_and_for_no_other_verifier(
    prompts: str, tmp_path: Path
) -> None:
    assessed(prompts)
    audited(prompts)
    (tmp_path / "own.py").write_text("def f(completion):\n    return float('1' in completion)\n")

    larger = rescore(tmp_path / "out", group_size=4)
    other = rescore(tmp_path / "out", verifier=f"{tmp_path}/own.py:f", run_preflight=False)

    assert larger.metrics[J].value == pytest.approx(-0.9)
    assert J not in other.metrics


@pytest.mark.parametrize("different", ["verifier", "threshold", "confidence"])
def test_rates_that_are_not_about_the_rewards_of_the_rollouts_are_not_kept(
    prompts: str, tmp_path: Path, different: str
) -> None:
    assessed(prompts)
    (tmp_path / "own.py").write_text("def f(completion):\n    return float('1' in completion)\n")

    if different == "verifier":
        found = audited(prompts, f"{tmp_path}/own.py:f")
    elif different == "threshold":
        found = audited(prompts, threshold=0.5)
    else:
        found = audited(prompts, confidence=0.8)

    assert found.evidence["is_kept"] is False
    assert any("J is not kept with the rollouts" in each for each in found.warnings)
    assert not (tmp_path / "out" / "evidence.json").exists()
    assert json.dumps(found.to_dict())
