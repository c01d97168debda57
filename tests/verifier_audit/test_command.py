from pathlib import Path
from typing import Any

import pytest

import mlflow_rlrisk
from mlflow_rlrisk import AssessmentConfig, SamplingConfig, assess
from tests.verifier_audit.conftest import ROWS, Audit, write

DEMO = Path(mlflow_rlrisk.__file__).parent / "demo"


def test_a_good_verifier_takes_gold_and_refuses_mutated_gold(audit: Audit) -> None:
    code, found = audit("--verifier", "numeric")

    assert (code, found["verdict"]) == (0, "ok")
    assert found["gold"]["num_accepted"] == found["gold"]["num_shown"] == 12
    assert {name: each["num_accepted"] for name, each in found["mutated"].items()} == dict.fromkeys(
        ["next", "empty", "negated", "tenfold", "no_answer"], 0
    )
    assert found["mutated"]["next"]["num_wrong_answers"] == 12
    assert found["mutated"]["empty"]["num_parse_failures"] == 12
    assert found["variants"]["units"]["accepted_share"] == 1.0


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("everything", "12 of 12 wrong answers accepted (next)"),
        ("nothing", "12 of 12 gold answers are rejected"),
        ("broken", "the verifier failed on 12 gold answers: ValueError: no"),
        ("partial", "less than the 1 of gold answers: --success-threshold may be missing"),
    ],
)
def test_a_faulty_verifier_is_named_and_blocks(
    folder: Path, audit: Audit, name: str, problem: str
) -> None:
    spec = f"{folder}/rewards.py:{name}"

    code, found = audit("--verifier", spec)

    assert (code, found["verdict"]) == (10, "faulty")
    assert any(problem in each for each in found["problems"])


def test_a_verifier_that_hangs_is_faulty_after_a_few_prompts(folder: Path, audit: Audit) -> None:
    (folder / "slow.py").write_text(
        "import time\ndef hang(completion, answer):\n    time.sleep(600)\n"
    )
    write(folder / "p.jsonl", [{**row, "gold_completion": row["answer"]} for row in ROWS])
    limit = ("--verifier-timeout-s", "0.2", "--verifier-workers", "1")

    code, found = audit("--verifier", f"{folder}/slow.py:hang", *limit)

    assert code == 10
    assert found["problems"] == ["the verifier failed on 3 gold answers: no answer within 0.2 s"]


def test_a_second_verifier_that_fails_leaves_the_disagreement_undefined(
    folder: Path, audit: Audit
) -> None:
    # Nothing to compare is not the same as nothing that differs.
    second = ("--second-verifier", f"{folder}/rewards.py:broken", "--samples", "1")

    _, found = audit("--verifier", "exact", *second)

    assert "value" not in found["disagreement"]
    assert "no text has a verdict of both" in found["disagreement"]["undefined"]
    assert any("disagreement is undefined" in each for each in found["warnings"])


def test_a_threshold_binarises_a_partial_reward(folder: Path, audit: Audit) -> None:
    arguments = ("--verifier", f"{folder}/rewards.py:partial", "--success-threshold", "0.5")

    code, _ = audit(*arguments)

    assert code == 0


def test_a_set_without_gold_answers_is_inconclusive(folder: Path, audit: Audit) -> None:
    prompts = write(folder / "bare.jsonl", [{"prompt": "say a"}])

    code, found = audit("--verifier", "regex:a", prompts=prompts)

    assert (code, found["verdict"]) == (11, "inconclusive")


def test_prompts_that_the_verifier_cannot_judge_are_a_problem_and_not_left_out(
    folder: Path, audit: Audit
) -> None:
    # `assess` refuses such a set; the audit showed the other prompts and found nothing.
    texts = [{"question": f"{i}?", "answer": "x + 1"} for i in range(3)]
    mixed = write(folder / "mixed.jsonl", [*ROWS, *texts])

    code, out = audit("--verifier", "numeric", prompts=mixed)
    unable_code, unable = audit(
        "--verifier", "numeric", prompts=write(folder / "texts.jsonl", texts)
    )

    assert (code, out["verdict"], out["num_unjudgeable_prompts"]) == (10, "faulty", 3)
    assert "cannot judge 3 of 15 prompts; first: '0?'" in out["problems"][0]
    assert (unable_code, unable["verdict"], unable["num_unjudgeable_prompts"]) == (
        11,
        "inconclusive",
        3,
    )
    assert "is not a number" in unable["warnings"][0]


def test_duplicates_and_contradictions_are_listed_where_assess_refuses_them(
    folder: Path, audit: Audit
) -> None:
    extra = [
        {"question": "1+1 ", "answer": "2"},
        {"question": "WHAT", "answer": "3"},
        {"question": "what", "answer": "4"},
    ]
    prompts = write(folder / "more.jsonl", [*ROWS, *extra])

    _, found = audit("--verifier", "numeric", prompts=prompts)

    assert found["duplicated_prompts"] == [
        {"prompt": "1+1", "places": ["line 1", "line 13"], "truths": ["2"]}
    ]
    assert found["conflicting_labels"] == [
        {"prompt": "WHAT", "places": ["line 14", "line 15"], "truths": ["3", "4"]}
    ]
    assert (found["num_rows"], found["num_prompts"]) == (15, 15)


def test_rates_come_from_a_labelled_sample(folder: Path, audit: Audit) -> None:
    # numeric accepts the first and the third, of which people call the third wrong.
    sample = [
        {"question": "1+1", "completion": "it is 2", "correct": True},
        {"question": "2+2", "completion": "it is four", "correct": "yes"},
        {"question": "3+3", "completion": "guessed: 6", "correct": False},
        {"question": "4+4", "completion": "it is 9", "correct": 0},
    ]
    arguments = ("--verifier", "numeric", "--audit", write(folder / "audit.jsonl", sample))

    _, found = audit(*arguments)

    rates = found["rates"]
    assert rates["counts"] == {
        "accepted_correct": 1,
        "num_correct": 2,
        "accepted_wrong": 1,
        "num_wrong": 2,
        "num_failed": 0,
    }
    assert (rates["tpr"]["value"], rates["fpr"]["value"]) == (0.5, 0.5)
    assert (
        rates["youden_j"]["ci_low"] < rates["youden_j"]["value"] == 0 < rates["youden_j"]["ci_high"]
    )
    assert found["verdict"] == "faulty"


def test_rates_come_from_labelled_strata(audit: Audit) -> None:
    arguments = ["--accept-rate", "0.3", "--accepted", "98/100", "--rejected", "20/200"]

    _, found = audit("--verifier", "numeric", *arguments)

    rates = found["rates"]  # the published example: TPR .807692, FPR .009434, J .798258
    assert rates["tpr"]["value"] == pytest.approx(0.807692, abs=5e-7)
    assert rates["fpr"]["value"] == pytest.approx(0.009434, abs=5e-7)
    assert rates["youden_j"]["value"] == pytest.approx(0.798258, abs=5e-7)
    for each in ("tpr", "fpr", "youden_j"):
        assert rates[each]["ci_low"] < rates[each]["value"] < rates[each]["ci_high"]


def test_a_sample_by_stratum_needs_no_verdict_of_its_own(folder: Path, audit: Audit) -> None:
    rows = [
        {"completion": "a", "correct": index < right, "stratum": stratum}
        for stratum, right, size in (("accepted", 9, 10), ("rejected", 2, 20))
        for index in range(size)
    ]
    sample = ("--audit", write(folder / "strata.jsonl", rows))

    code, found = audit("--verifier", "numeric", *sample)
    assert (code, found["error"]["code"]) == (2, "invalid_config")
    _, found = audit("--verifier", "numeric", *sample, "--accept-rate", ".5")

    # Of 100 rollouts 50 are accepted, 45 of them right; of the other 50 are 5 right.
    assert found["rates"]["tpr"]["value"] == pytest.approx(45 / 50)
    assert found["rates"]["fpr"]["value"] == pytest.approx(5 / 50)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"completion": "x", "correct": True, "question": "unknown"}, "not in the prompt set"),
        ({"completion": "x", "question": "1+1"}, "no label column"),
        ({"correct": True, "question": "1+1"}, "no completion column"),
        ({"completion": "x", "correct": "perhaps", "question": "1+1"}, "no yes or no"),
    ],
)
def test_a_sample_that_cannot_be_read_is_named(
    folder: Path, audit: Audit, row: dict[str, Any], message: str
) -> None:
    sample = write(folder / "audit.jsonl", [row])

    code, found = audit("--verifier", "numeric", "--audit", sample)

    assert code == 1
    assert message in found["error"]["message"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--samples", "0"], "samples=0"),
        (["--group-size", "1"], "group_size=1"),
        (["--success-threshold", "nan"], "success_threshold=nan"),
        (["--accept-rate", "30", "--accepted", "1/2", "--rejected", "1/2"], "accept_rate=30"),
        (["--accept-rate", ".3"], "accept_rate=0.3"),
        (["--accepted", "²/3", "--rejected", "1/2"], "accepted='²/3'"),
        (
            ["--audit", __file__, "--accept-rate", ".3", "--accepted", "1/2", "--rejected", "1/2"],
            "strata=((1, 2), (1, 2))",
        ),
    ],
)
def test_settings_that_no_audit_can_have_are_misuse(
    audit: Audit, arguments: list[str], named: str
) -> None:
    # A threshold of NaN accepts nothing: every verifier would come out faulty.
    code, found = audit("--verifier", "exact", *arguments)

    assert (code, found["error"]["code"]) == (2, "invalid_config")
    assert found["error"]["message"].startswith(named)


def test_labelled_completions_that_the_verifier_cannot_judge_are_counted_apart(
    folder: Path, audit: Audit
) -> None:
    (folder / "choosy.py").write_text(
        "def grade(completion, answer):\n"
        "    if completion == 'boom':\n        raise ValueError('no')\n"
        "    return float(completion == answer)\n"
    )
    rows = [
        {"question": "1+1", "completion": "2", "correct": True},
        {"question": "1+1", "completion": "3", "correct": False},
        {"question": "1+1", "completion": "boom", "correct": True},
    ]
    verifier = ("--verifier", f"{folder}/choosy.py:grade", "--audit")

    sample = write(folder / "audit.jsonl", rows)
    _, found = audit(*verifier, sample)
    nothing = write(folder / "audit.jsonl", rows[2:])
    code, refused = audit(*verifier, nothing)

    assert found["rates"]["counts"]["num_failed"] == 1
    assert found["rates"]["tpr"]["value"] == 1.0
    assert any(
        "failed on 1 labelled completion: no rate has it" in each for each in found["warnings"]
    )
    assert (code, refused["error"]["code"]) == (1, "verifier_failed")


def test_a_labelled_completion_of_a_prompt_with_two_truths_needs_its_id(
    folder: Path, audit: Audit
) -> None:
    # Either truth would give rates; which one was meant is for the person who labelled.
    prompts = write(folder / "p.jsonl", [*ROWS, {"question": "1+1", "answer": "3"}])
    rows = [{"question": "1+1", "completion": "2", "correct": right} for right in (True, False)]

    sample = write(folder / "audit.jsonl", rows)
    code, found = audit("--verifier", "numeric", "--audit", sample, prompts=prompts)

    assert (code, found["error"]["code"]) == (1, "invalid_prompts")
    assert "several truths for its prompt" in found["error"]["message"]


@pytest.mark.slow
def test_rollouts_of_an_assessment_are_audited(tmp_path: Path, audit: Audit) -> None:
    lines = (DEMO / "data" / "rl.jsonl").read_text(encoding="utf-8").splitlines()[:6]
    prompts = tmp_path / "rl.jsonl"
    prompts.write_text("\n".join(lines), encoding="utf-8")
    assess(
        DEMO / "base",
        str(prompts),
        verifier="mlflow_rlrisk.demo.task:reward",
        config=AssessmentConfig(
            sampling=SamplingConfig(num_samples=4, max_new_tokens=8), group_size=2
        ),
        out_dir=tmp_path / "out",
    )

    arguments = ["--rollouts", f"{tmp_path}/out", "--group-size", "2", "--accept-rate", ".5"]
    _, found = audit(
        *("--verifier", "mlflow_rlrisk.demo.task:reward", *arguments),
        *("--accepted", "99/100", "--rejected", "1/100"),
        prompts=str(prompts),
    )

    assert found["rollouts"]["num_rollouts"] == 24
    assert set(found["signal"]["group_signal_fraction"]) == {"raw", "corrected"}
    assert isinstance(found["suspicious_labels"], list)
