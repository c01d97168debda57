from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_rlrisk.errors import GoldRejectedError, VerifierError
from mlflow_rlrisk.prompts import load_prompts
from mlflow_rlrisk.verifiers import PreflightResult, VerifierPool, preflight
from mlflow_rlrisk.verifiers.builtin import truth_number
from mlflow_rlrisk.verifiers.gold import wrong_completion
from tests.verifiers.conftest import WriteVerifier


def run(
    spec: str, rows: list[dict[str, Any]], timeout_s: float = 20.0, **options: Any
) -> PreflightResult:
    with VerifierPool(spec, timeout_s=timeout_s) as pool:
        return preflight(pool, load_prompts(rows), **options)


SUMS = [{"prompt": f"{i}+1=", "answer": str(i + 1)} for i in range(50)]


@pytest.mark.parametrize("spec", ["exact", "numeric"])
def test_builtin_verifiers_accept_gold_and_reject_mutated_gold(spec: str) -> None:
    result = run(spec, SUMS)

    assert result.status == "passed"
    assert (result.num_gold, result.num_accepted) == (32, 32)
    assert (result.num_wrong, result.num_wrong_accepted) == (32, 0)
    assert result.warnings == ()
    assert result.detail == "accepts 32 of 32 gold answers and 0 of 32 deliberately wrong ones"


def test_a_whole_gsm8k_solution_is_shown_to_numeric() -> None:
    rows = [{"question": "q", "answer": "He has 3 boxes of 4.\n3 * 4 = <<3*4=12>>12\n#### 12"}]

    result = run("numeric", rows)

    assert (result.num_accepted, result.num_wrong_accepted) == (1, 0)


def test_a_verifier_that_rejects_gold_stops_with_count_example_and_grade(
    write_verifier: WriteVerifier,
) -> None:
    spec = write_verifier("def grade(completion, truth): return completion == 'ANSWER=' + truth")

    with pytest.raises(GoldRejectedError) as caught:
        run(spec, SUMS, sample=5)

    message = str(caught.value)
    assert "rejects 5 of 5 gold answers" in message
    assert "shown '1' and other renderings, reward 0" in message
    assert "gold_completion" in message
    assert "--no-preflight" in message


def test_a_gold_completion_column_shows_the_format_and_nothing_else_is_tried(
    write_verifier: WriteVerifier,
) -> None:
    spec = write_verifier("def grade(completion, truth): return completion == 'ANSWER=' + truth")
    rows = [{**row, "gold_completion": f"ANSWER={row['answer']}"} for row in SUMS]

    assert run(spec, rows).num_accepted == 32

    rows[0]["gold_completion"] = rows[0]["answer"]
    with pytest.raises(GoldRejectedError, match="rejects 1 of 32"):
        run(spec, rows)
    assert run(spec, rows, max_rejected_share=0.1).num_accepted == 31


@pytest.mark.parametrize("form", ["\\\\boxed{", "#### ", "<answer>"])
def test_usual_answer_formats_are_tried(write_verifier: WriteVerifier, form: str) -> None:
    spec = write_verifier(f"""
        def grade(completions, answer, **columns):
            return [c.strip("}}").removesuffix("</answer>") == "{form}" + a
                    for c, a in zip(completions, answer)]
    """)

    result = run(spec, SUMS)

    assert (result.num_accepted, result.num_wrong, result.num_wrong_accepted) == (32, 32, 0)


def test_a_solution_column_is_tried_as_completion(write_verifier: WriteVerifier) -> None:
    spec = write_verifier("""
        def grade(completions, tests, **columns):
            return [float(t in c) for c, t in zip(completions, tests)]
    """)
    rows = [{"prompt": "write f", "canonical_solution": "def f(): return 1", "tests": "return 1"}]

    result = run(spec, rows)

    assert (result.num_gold, result.num_accepted, result.num_wrong_accepted) == (1, 1, 0)


def test_a_verifier_that_accepts_everything_is_warned_of(write_verifier: WriteVerifier) -> None:
    result = run(write_verifier("def grade(completion, truth): return 1"), SUMS)

    assert result.status == "passed"
    assert result.num_wrong_accepted == 32
    assert "accepts all 32 deliberately wrong answers" in result.warnings[0]


def test_the_success_threshold_decides_what_is_accepted(write_verifier: WriteVerifier) -> None:
    spec = write_verifier("def grade(completion, truth): return 0.5 * (truth == completion)")

    assert run(spec, SUMS).num_accepted == 32
    with pytest.raises(GoldRejectedError, match=r"reward 0\.5"):
        run(spec, SUMS, success_threshold=1.0)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("raise KeyError('x')", "KeyError"),
        ("import os; os._exit(4)", "exited with status 4"),
        ("import time; time.sleep(1000)", "no answer within 0.5 s: what it imports"),
        ("return 'good'", "returned str 'good'"),
    ],
)
@pytest.mark.parametrize("has_truth", [True, False])
def test_a_verifier_that_fails_on_its_first_call_is_stopped_there(
    write_verifier: WriteVerifier, body: str, reason: str, has_truth: bool
) -> None:
    spec = write_verifier(f"def grade(completion, prompt):\n            {body}")
    rows = SUMS if has_truth else [{"prompt": "q"}]

    with pytest.raises(VerifierError, match=f"fails on its first call: .*{reason}"):
        run(spec, rows, timeout_s=0.5)


def test_a_verifier_that_hangs_on_most_gold_answers_does_not_hold_up_for_long(
    write_verifier: WriteVerifier,
) -> None:
    spec = write_verifier("""
        import time
        def grade(completion, truth):
            if truth != "1":
                time.sleep(1000)
            return completion == truth
    """)
    rows = [{**row, "gold_completion": row["answer"]} for row in SUMS]

    with pytest.raises(GoldRejectedError, match=r"rejects 3 of 4 .*timed_out: no answer"):
        run(spec, rows, timeout_s=0.3)


@pytest.mark.parametrize(
    ("spec", "rows", "message"),
    [
        ("numeric", [*SUMS, {"prompt": "q", "answer": "four"}], "1 of 51 prompts.*not a number"),
        ("exact", [{"prompt": "q"}], "there is no truth"),
        ("regex:(a)", [{"prompt": "q"}], "there is no truth"),
    ],
)
def test_prompts_that_cannot_be_judged_are_named_before_sampling(
    spec: str, rows: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(VerifierError, match=message):
        run(spec, rows)


def test_a_missing_column_is_named_before_sampling(write_verifier: WriteVerifier) -> None:
    spec = write_verifier("def grade(completions, tests): return [1] * len(completions)")

    with pytest.raises(VerifierError, match="parameter 'tests' is no column"):
        run(spec, SUMS)


def test_without_gold_answers_no_preflight_is_possible_and_it_says_so(
    write_verifier: WriteVerifier,
) -> None:
    result = run(write_verifier("def grade(completion, prompt): return 0"), [{"prompt": "q"}])

    assert result.status == "not_possible"
    assert "no gold answer" in result.detail
    assert run("regex:a", SUMS).status == "not_possible"
    tokens = write_verifier("def grade(completions, completion_ids): return [0]")
    assert "completion_ids" in run(tokens, SUMS).detail
    nothing = write_verifier("def grade(completion, truth): return None")
    assert "applies to none" in run(nothing, SUMS).detail


def test_a_skipped_preflight_is_recorded_as_skipped() -> None:
    assert PreflightResult.skipped().status == "skipped"


@given(st.integers(-(10**9), 10**9) | st.fractions(max_denominator=99).map(str))
def test_a_wrong_number_differs_and_keeps_the_form(truth: int | str) -> None:
    wrong = wrong_completion(f"so \\boxed{{{truth}}}", truth)

    assert wrong.startswith("so \\boxed{")
    before = truth_number(truth)
    after = truth_number(wrong.removeprefix("so \\boxed{").removesuffix("}"))
    assert before is not None
    assert after is not None
    assert after.value == before.value + 1


@given(st.text(min_size=1), st.text() | st.none())
def test_a_wrong_completion_never_is_the_gold_one(gold: str, truth: str | None) -> None:
    assert wrong_completion(gold, truth) != gold


def test_a_verifier_that_only_looks_at_the_format_is_warned_of(
    write_verifier: WriteVerifier,
) -> None:
    # The wrong answer must have the form in which gold was accepted, or this goes unseen.
    spec = write_verifier("def grade(completion, truth): return completion.startswith('<answer>')")

    result = run(spec, SUMS)

    assert (result.num_accepted, result.num_wrong_accepted) == (32, 32)
    assert result.warnings != ()


def test_a_verifier_that_accepts_half_of_the_wrong_answers_is_warned_of(
    write_verifier: WriteVerifier,
) -> None:
    spec = write_verifier(
        "def grade(completion, truth): return completion == truth or int(truth) % 2 == 0"
    )
    rows = [{"prompt": f"{i}+0=", "answer": str(i)} for i in range(10)]

    (warning,) = run(spec, rows).warnings

    assert "accepts 5 of 10 deliberately wrong answers" in warning
    assert run(spec, rows[1:]).warnings == ()  # 4 of 9


def test_gold_rewards_on_another_scale_than_one_ask_for_a_threshold(
    write_verifier: WriteVerifier,
) -> None:
    # A format bonus of 1 would pass for success until the first answer that is right as well.
    spec = write_verifier("def grade(completion, truth): return 2.0 * (completion == truth)")

    (warning,) = run(spec, SUMS).warnings

    assert "gives gold answers a reward of 2, but without --success-threshold" in warning
    assert run(spec, SUMS, success_threshold=2.0).warnings == ()
