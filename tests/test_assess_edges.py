"""What a hostile newcomer does: each ends in a clear error or an undefined metric with a reason."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mlflow_rlrisk import assess, rescore
from mlflow_rlrisk.config import PolicyConfig
from mlflow_rlrisk.errors import (
    CheckpointError,
    ConfigError,
    GoldRejectedError,
    PromptSetError,
    RLRiskError,
    SamplerError,
    VerifierError,
)
from mlflow_rlrisk.prompts import PromptSet
from mlflow_rlrisk.report import RiskReport
from tests.tiny_assessments import QUICK_OPTIONS, is_running, quick, rlrisk, sums, write_graders
from tests.tiny_models import write_llama

OF_SUCCESS = ("pass_at_1", "headroom", "starved_share", "frac_all_wrong", "band_share")
FINISHED = PolicyConfig(min_prompts=1, max_truncated_share=1.0)
"""Does not hide a verdict behind the short answers of these tests."""


@dataclass(frozen=True)
class Setup:
    checkpoint: Path
    graders: Path

    def assess(self, grader: str = "digit", prompts: object = None, **given: Any) -> RiskReport:
        names = ("policy", "mapping", "run_preflight", "out_dir")
        rest = {name: given.pop(name) for name in names if name in given}
        return assess(
            given.pop("model", self.checkpoint),
            sums(5) if prompts is None else prompts,
            verifier=f"{self.graders}:{grader}",
            config=quick(**given),
            **rest,
        )


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    home = tmp_path_factory.mktemp("edges")
    return Setup(write_llama(home / "checkpoint"), write_graders(home))


def undefined(report: RiskReport, *names: str) -> set[str]:
    """The reasons why these metrics are absent; they must be absent."""
    assert not report.metrics.keys() & {f"rlrisk/{name}" for name in names}
    return {report.undefined[f"rlrisk/{name}"] for name in names}


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"num_samples": 3}, "num_samples=3: at least group_size=4"),
        ({"group_size": 10**9}, "group_size=1000000000"),
        ({"group_size": 1}, "group_size=1"),
        ({"num_samples": 0}, "num_samples=0"),
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"temperature": -1.0}, "temperature=-1.0"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"temperature": float("inf")}, "temperature=inf"),
        ({"top_p": 0.0}, "top_p=0.0"),
        ({"min_p": 1.0}, "min_p=1.0"),
        ({"repetition_penalty": 0.0}, "repetition_penalty=0.0"),
        ({"repetition_penalty": -1.0}, "repetition_penalty=-1.0"),
        ({"repetition_penalty": float("nan")}, "repetition_penalty=nan"),
        ({"repetition_penalty": float("inf")}, "repetition_penalty=inf"),
        ({"top_p": float("nan")}, "top_p=nan"),
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"success_threshold": float("nan")}, "success_threshold=nan"),
        ({"verifier_timeout_s": float("inf")}, "verifier_timeout_s=inf"),
        ({"verifier_timeout_s": 1e300}, "verifier_timeout_s=1e"),
        ({"device": "tpu"}, "device='tpu'"),
        (
            {"backend_options": {"tensor_parallel_size": 2}},
            "backend_options.tensor_parallel_size=2",
        ),
        ({"nonsense": 1}, "nonsense=1: unknown setting"),
    ],
)
def test_an_unusable_setting_is_refused_by_name(
    setup: Setup, settings: dict[str, Any], field: str
) -> None:
    with pytest.raises(ConfigError, match=field.replace("(", r"\(")):
        setup.assess(**settings)


@pytest.mark.parametrize(
    ("prompts", "error", "message"),
    [
        ([], PromptSetError, "empty"),
        ([{"prompt": " \n", "answer": "1"}], PromptSetError, "row 1.*empty"),
        ([{"prompt": None, "answer": "1"}], PromptSetError, "no prompt column"),
        ([*sums(2), {"prompt": "0+1=", "answer": "7"}], PromptSetError, "two different truths"),
        ([{"prompt": "a\ud800", "answer": "1"}], PromptSetError, "surrogate"),
        ([{"prompt": "日本 💥", "answer": "1"}], CheckpointError, "does not know parts of prompt"),
        ([{"prompt": "a\x00", "answer": "1"}], CheckpointError, "does not know parts of prompt"),
        ([{"prompt": "1" * 600, "answer": "1"}], SamplerError, "600 tokens.*the model has 512"),
        ({"a": 1}, PromptSetError, "cannot read prompts from dict"),
        ("nowhere.jsonl", PromptSetError, "no such file"),
    ],
)
def test_prompts_that_cannot_be_assessed_are_refused(
    setup: Setup, prompts: object, error: type[RLRiskError], message: str
) -> None:
    with pytest.raises(error, match=message):
        setup.assess(prompts=prompts)


def test_a_prompt_set_without_prompts_cannot_be_built() -> None:
    with pytest.raises(PromptSetError, match="empty"):
        PromptSet(prompts=(), digest="", schema="", num_duplicates=0)


def test_a_chat_without_a_template_is_refused(setup: Setup) -> None:
    user = [{"role": "user", "content": "1+1="}]
    chat = [{"prompt": user, "answer": "2"}]
    with_system = [{"prompt": [{"role": "system", "content": "Be brief."}, *user], "answer": "2"}]

    for prompts in (chat, with_system):
        with pytest.raises(
            CheckpointError, match="is a chat and the tokenizer has no chat template"
        ):
            setup.assess("one", prompts)


def test_a_prompt_that_stands_twice_counts_once(setup: Setup) -> None:
    once, twice = setup.assess(prompts=sums(5)), setup.assess(prompts=sums(5) + sums(5))

    assert twice.metrics == once.metrics
    assert "5 repeated rows left out" in twice.provenance.prompts


def test_columns_and_formats_change_no_metric(setup: Setup, tmp_path: Path) -> None:
    frame = pd.DataFrame(sums(5))
    frame.to_csv(tmp_path / "p.csv", index=False)
    frame.to_parquet(tmp_path / "p.parquet")
    frame.to_json(tmp_path / "p.jsonl", orient="records", lines=True)
    renamed = frame.rename(columns={"prompt": "aufgabe", "answer": "lösung"})
    expected = setup.assess(prompts=sums(5))

    for name in ("p.csv", "p.parquet", "p.jsonl"):
        assert setup.assess(prompts=str(tmp_path / name)).metrics == expected.metrics
    mapped = setup.assess(prompts=renamed, mapping={"prompt": "aufgabe", "truth": "lösung"})
    assert mapped.metrics.keys() == expected.metrics.keys()
    with pytest.raises(PromptSetError, match="no column 'frage'"):
        setup.assess(prompts=renamed, mapping={"prompt": "frage"})


@pytest.mark.parametrize(
    ("grader", "message"),
    [
        ("crash", "fails on its first call: RuntimeError: out of"),
        ("nan", "returned nan, no finite number"),
        ("infinite", "no finite number"),
        ("text", "no number"),
        ("scalar", "a list of 4 rewards is needed"),
        ("too_few", "returned 1 reward for 4 completions"),
        ("missing", "has no 'missing'"),
    ],
)
def test_a_verifier_that_is_no_verifier_stops_before_sampling(
    setup: Setup, grader: str, message: str
) -> None:
    with pytest.raises(VerifierError, match=message):
        setup.assess(grader)


def test_a_verifier_that_rejects_every_gold_answer_stops_before_sampling(setup: Setup) -> None:
    with pytest.raises(GoldRejectedError, match="rejects 5 of 5 gold answers"):
        setup.assess("zero")


def test_a_hanging_verifier_stops_and_leaves_no_process(setup: Setup) -> None:
    started = time.monotonic()

    with pytest.raises(VerifierError, match=r"no answer within 0\.3 s"):
        setup.assess("hang", verifier_timeout_s=0.3)

    pids = Path(f"{setup.graders}.pids").read_text(encoding="utf-8").split()
    assert time.monotonic() - started < 20
    assert pids
    assert not [pid for pid in pids if is_running(int(pid))]


@pytest.mark.parametrize("grader", ["crash", "nan", "text", "too_few", "none"])
def test_without_any_reward_nothing_of_success_is_a_number(setup: Setup, grader: str) -> None:
    report = setup.assess(grader, run_preflight=False, policy=FINISHED)

    for reason in undefined(report, *OF_SUCCESS, "group_signal_fraction", "risk_index"):
        assert "scored" in reason
    failed = report.metrics["rlrisk/verifier_failure_share"].value
    assert failed == (0.0 if grader == "none" else 1.0)
    assert report.risk_level == "unknown"
    assert report.next_steps
    assert report.level_probabilities == {}


@pytest.mark.parametrize("grader", ["crash_on_letters", "die_on_q"])
def test_a_verifier_that_fails_on_some_makes_the_level_unknown(setup: Setup, grader: str) -> None:
    report = setup.assess(grader, sums(4), run_preflight=False, policy=FINISHED)

    failed = report.metrics["rlrisk/verifier_failure_share"].value
    assert 0 < failed < 1
    assert report.risk_level == "unknown"
    assert any("verifier failed on" in reason for reason in report.reasons)
    # A failed verification is neither right nor wrong: no pass@8 of 8 rollouts is left.
    assert "fewer" in undefined(report, "pass_at_8").pop()


@pytest.mark.parametrize("grader", ["plus_minus", "two_or_zero", "share_of_digits", "half"])
def test_rewards_that_say_nothing_of_success_leave_it_undefined(setup: Setup, grader: str) -> None:
    report = setup.assess(grader, run_preflight=False, policy=FINISHED)

    for reason in undefined(report, *OF_SUCCESS):
        assert "state --success-threshold" in reason
    assert "rlrisk/group_signal_fraction" in report.metrics  # rewards differ or they do not
    assert report.risk_level == "unknown"
    assert report.solve_counts == ()


@pytest.mark.parametrize(("grader", "threshold"), [("plus_minus", 1.0), ("two_or_zero", 2.0)])
def test_a_stated_threshold_makes_them_the_same_success(
    setup: Setup, grader: str, threshold: float
) -> None:
    expected = setup.assess("digit")

    report = setup.assess(grader, success_threshold=threshold)

    for name in OF_SUCCESS:
        assert report.metrics[f"rlrisk/{name}"] == expected.metrics[f"rlrisk/{name}"]


@pytest.mark.parametrize(("grader", "share"), [("zero", "starved"), ("one", "saturated")])
def test_all_wrong_and_all_right_carry_no_signal_and_no_promotion(
    setup: Setup, grader: str, share: str
) -> None:
    report = setup.assess(grader, sums(50), run_preflight=False, policy=FINISHED)

    signal = report.metrics["rlrisk/group_signal_fraction"]
    assert report.metrics["rlrisk/pass_at_1"].value == float(grader == "one")
    assert (signal.value, signal.ci_low) == (0.0, 0.0)
    assert 0 < signal.ci_high < 0.1  # 50 equal prompts are no certainty
    assert report.metrics[f"rlrisk/{share}_share"].value > 0.9
    assert report.risk_level == "high"
    assert report.next_steps
    undefined(report, "overdispersion", "success_variance")


def test_a_verifier_that_accepts_everything_is_remarked(setup: Setup) -> None:
    report = setup.assess("one")

    assert any("it may accept everything" in note for note in report.notes)


def test_a_skipped_preflight_is_remarked(setup: Setup) -> None:
    skipped = setup.assess(run_preflight=False)
    no_truth = setup.assess(prompts=[{"prompt": row["prompt"]} for row in sums(5)])

    assert any("preflight of the verifier was skipped" in note for note in skipped.notes)
    assert any("no gold answer" in note for note in no_truth.notes)


@pytest.mark.parametrize("max_new_tokens", [1, 2])
def test_truncated_answers_are_unknown_and_not_a_verdict(setup: Setup, max_new_tokens: int) -> None:
    report = setup.assess(prompts=sums(50), max_new_tokens=max_new_tokens)

    assert report.metrics["rlrisk/truncated_share"].value > 0.9
    assert report.risk_level == "unknown"
    assert any("rollouts were truncated" in reason for reason in report.reasons)
    assert report.next_steps


@pytest.mark.parametrize(("count", "too_few"), [(1, True), (49, True), (50, False)])
def test_fewer_prompts_than_the_policy_asks_for_are_unknown(
    setup: Setup, count: int, too_few: bool
) -> None:
    report = setup.assess(
        prompts=sums(count), policy=PolicyConfig(max_truncated_share=1.0), max_new_tokens=3
    )

    assert report.num_prompts == count
    assert (report.risk_level == "unknown") is too_few
    assert any("the policy asks for at least 50" in reason for reason in report.reasons) is too_few


def test_one_prompt_has_no_variance_over_prompts(setup: Setup) -> None:
    report = setup.assess(prompts=sums(1))

    reasons = undefined(report, "success_variance", "overdispersion")
    assert reasons == {"a variance over prompts needs at least 2 prompts"}


@pytest.mark.parametrize(
    ("changes", "code", "kind"),
    [
        ({"--temperature": "nan"}, 2, "invalid_config"),
        ({"--map": "question=prompt"}, 2, "invalid_config"),
        ({"--policy": "policy.yaml"}, 2, "invalid_config"),
        ({"--prompts": "none.jsonl"}, 1, "invalid_prompts"),
        ({"--out": "policy.yaml"}, 1, "rollout_store"),
        ({"--nonsense": "1"}, 2, "misuse"),
    ],
)
def test_the_command_fails_in_one_line_and_one_json_object(
    setup: Setup, changes: Mapping[str, str], code: int, kind: str, tmp_path: Path
) -> None:
    (tmp_path / "policy.yaml").write_text("promote_everything: true\n", encoding="utf-8")
    lines = "\n".join(map(json.dumps, sums(5)))
    (tmp_path / "p.jsonl").write_text(lines, encoding="utf-8")
    given = {"--prompts": "p.jsonl", "--verifier": f"{setup.graders}:digit", **changes}
    options = [word for pair in given.items() for word in pair]

    found, out, err = rlrisk(
        "assess", str(setup.checkpoint), *options, *QUICK_OPTIONS, "--json", cwd=tmp_path
    )

    error = json.loads(out)["error"]
    assert (found, error["code"]) == (code, kind)
    assert len(out.splitlines()) == 1
    assert "Traceback" not in err
    assert error["message"] in err


def test_a_group_larger_than_what_is_stored_leaves_the_group_metrics_undefined(
    setup: Setup, tmp_path: Path
) -> None:
    setup.assess(out_dir=tmp_path / "out")

    report = rescore(tmp_path / "out", group_size=9)

    for reason in undefined(report, "group_signal_fraction", "frac_all_wrong"):
        assert "a group of 9 needs 9" in reason
    assert report.risk_level == "unknown"


@pytest.mark.parametrize("folder", ["", "  "])
def test_a_blank_folder_is_none_and_not_the_one_the_user_is_in(
    setup: Setup, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())

    with pytest.raises(ConfigError, match=r"out_dir=.*the path of a folder is needed"):
        setup.assess(out_dir=folder)

    assert sorted(tmp_path.iterdir()) == before
