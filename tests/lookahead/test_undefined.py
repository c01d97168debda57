"""Updates that were tried and say nothing: the assessment stands, tells why, and is not ``low``."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mlflow_rlrisk.assess import assess, rescore
from mlflow_rlrisk.commands.assessment import assess as assess_command
from mlflow_rlrisk.config import AssessmentConfig, LookaheadConfig, PolicyConfig, SamplingConfig
from mlflow_rlrisk.errors import RolloutStoreError, StatisticsError
from mlflow_rlrisk.evidence import AssessmentContext, Evidence
from mlflow_rlrisk.lookahead.stored_rollouts import look_ahead_from
from mlflow_rlrisk.report_record import RiskLevel, RiskReport
from mlflow_rlrisk.rollouts.evidence import EVIDENCE, with_stored_evidence
from tests.prompt_statistics import prompts, report_of
from tests.tiny_models import write_llama

PROMPTS = [{"prompt": f"{a}{b}=", "answer": "e"} for a in range(8) for b in range(8)]
RUN = LookaheadConfig(learning_rate=1e-3, run_steps=40, prompts_per_step=8, steps=4, repeats=2)
TOO_FAST = RUN.model_copy(update={"learning_rate": 0.5})
REACH = "rlrisk/lookahead_reach"


def has_an_e(completions: list[str], **_: object) -> list[float]:
    """Some are right."""
    return [float("e" in each) for each in completions]


def all_right(completions: list[str], **_: object) -> list[float]:
    """What a checkpoint earns that has nothing left to learn."""
    return [1.0 for _ in completions]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("model"))


def assessed(model: Path, folder: Path, verifier: str, run: LookaheadConfig) -> RiskReport:
    config = AssessmentConfig(
        sampling=SamplingConfig(num_samples=16, max_new_tokens=3),
        num_resamples=200,
        device="cpu",
        verifier_workers=1,
    )
    policy = PolicyConfig(max_truncated_share=1.0)  # an untrained model never stops
    ask: dict[str, Any] = {"config": config, "policy": policy, "run_preflight": False}
    verifier = f"tests.lookahead.test_undefined:{verifier}"
    return assess(model, PROMPTS, verifier=verifier, out_dir=folder, lookahead=run, **ask)


def test_a_checkpoint_without_anything_left_to_learn_is_judged_by_its_samples(
    model: Path, tmp_path: Path
) -> None:
    report = assessed(model, tmp_path / "out", "all_right", RUN)

    assert report.risk_level is RiskLevel.HIGH
    assert "no gap to close" in report.undefined[REACH]
    assert "no gap to close" in report.not_assessed["lookahead"]
    assert REACH not in report.metrics
    assert report.provenance.digests["lookahead"] == RUN.digest()


def test_updates_that_went_too_far_are_kept_as_such_until_others_say_something(
    model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "out"

    report = assessed(model, folder, "has_an_e", TOO_FAST)
    stored = RiskReport.from_json((folder / "report.json").read_text())
    judged_again = rescore(folder)
    with pytest.raises(StatisticsError, match="try fewer steps"):
        look_ahead_from(folder, TOO_FAST, device="cpu")
    found = look_ahead_from(folder, RUN, device="cpu")
    at_last = rescore(folder)
    anew = assessed(model, folder, "has_an_e", TOO_FAST)

    assert stored == report
    for each in (report, judged_again, anew):
        assert "RL run say nothing: after 4 updates at learning rate 0.5" in each.undefined[REACH]
        assert each.risk_level is not RiskLevel.LOW
        assert REACH not in each.metrics
    assert at_last.metrics[REACH].value == found.reach.value
    assert REACH not in at_last.undefined
    kept = json.loads((folder / EVIDENCE).read_text())
    assert list(kept) == ["lookahead_graded_as", "lookahead_undefined"]


def test_the_command_line_says_why_and_takes_an_older_run_s_figures_away(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PROMPTS))
    monkeypatch.chdir(tmp_path)
    verifier = "tests.lookahead.test_undefined:has_an_e"
    options = ["--prompts", "p.jsonl", "--verifier", verifier, "--no-preflight", "--out", "cli"]
    sizes = ["--num-samples", "16", "--max-new-tokens", "3", "--num-resamples", "200"]
    rest = ["--device", "cpu", "--verifier-workers", "1", "--rl-prompts-per-step", "8"]
    command = [str(model), *options, *sizes, *rest, "--rl-steps", "40", "--rl-learning-rate"]

    slow = CliRunner().invoke(assess_command, [*command, "1e-3"], standalone_mode=False)
    kept = list(tmp_path.rglob("lookahead.json"))
    fast = CliRunner().invoke(assess_command, [*command, "0.5"], standalone_mode=False)

    assert (slow.exception, fast.exception) == (None, None)
    assert len(kept) == 1
    assert not kept[0].exists()
    assert "RL run say nothing" in fast.stdout
    assert "try fewer steps" in fast.stdout


def test_updates_that_say_nothing_withhold_low_and_change_nothing_else() -> None:
    solved = prompts([12 + place % 40 for place in range(200)], 64)
    wrong = prompts([64] * 150 + [0] * 50, 64)
    said = AssessmentContext(lookahead_undefined="they say nothing: too far")
    blind = PolicyConfig(
        components={
            name: line for name, line in PolicyConfig().components.items() if name != "lookahead"
        }
    )

    default, judged = report_of(solved), report_of(solved, context=said)

    assert (default.risk_level, judged.risk_level) == (RiskLevel.LOW, RiskLevel.MEDIUM)
    assert judged.level_probabilities["low"] == 0.0
    assert judged.metrics == default.metrics
    assert "low needs lookahead assessed" in judged.reasons[0]
    assert judged.reasons[0].endswith("too far")
    assert "where they can speak" in judged.next_steps[0]
    assert report_of(wrong, context=said).risk_level is report_of(wrong).risk_level
    assert report_of(solved, policy=blind, context=said).risk_level is RiskLevel.LOW


def test_what_a_caller_says_of_the_updates_wins_over_what_the_folder_holds(tmp_path: Path) -> None:
    reach = Evidence(value=0.5, ci_low=0.4, ci_high=0.6, source="said")
    (tmp_path / EVIDENCE).write_text('{"lookahead_undefined": "too far"}')

    stored = with_stored_evidence(tmp_path, None, "")
    given = with_stored_evidence(tmp_path, AssessmentContext(lookahead_reach=reach), "")

    assert stored == AssessmentContext(lookahead_undefined="too far")
    assert given == AssessmentContext(lookahead_reach=reach)
    (tmp_path / EVIDENCE).write_text('{"lookahead_undefined": {"value": 1.0}}')
    with pytest.raises(RolloutStoreError, match="must be a sentence"):
        with_stored_evidence(tmp_path, None, "")
