import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from mlflow_rlrisk.errors import VerifierError
from mlflow_rlrisk.records import GradeStatus, Prompt
from mlflow_rlrisk.verifiers import VerifierPool, load_verifier, preflight

pytest.importorskip("math_verify")


def prompt(truth: object) -> Prompt:
    return Prompt(id=str(truth), content="q", truth=truth, columns={"answer": truth})


@pytest.mark.parametrize(
    ("truth", "completion", "reward", "answer"),
    [
        ("1/2", r"so \boxed{\frac{2}{4}}", 1.0, "1/2"),
        (r"\frac{1}{2}", "the answer is 0.5", 1.0, "0.500000000000000"),
        ("x^2+2x+1", r"$(x+1)^2$", 1.0, "(x + 1)**2"),
        ("3", r"\boxed{3x}", 0.0, "3*x"),
        (12345, "12,345", 1.0, "12345"),
        (3.0, "3", 1.0, "3"),
        ("4", "no idea", 0.0, None),
        ("4", "", 0.0, None),
        (r"we find $\boxed{4}$", r"\boxed{4}", 1.0, "4"),
    ],
)
def test_math_compares_values_and_not_their_spelling(
    truth: object, completion: str, reward: float, answer: str | None
) -> None:
    with VerifierPool("math", timeout_s=60.0) as pool:
        (grade,) = pool.grade_completions(prompt(truth), [completion])

    assert (grade.reward, grade.answer) == (reward, answer)


def test_a_truth_that_math_verify_cannot_read_is_no_prompt_to_judge() -> None:
    with VerifierPool("math", timeout_s=60.0) as pool:
        problems = pool.problems([prompt(""), prompt(None), prompt([1]), prompt("7")])

    assert "cannot be read by math-verify" in str(problems[0])
    assert "no truth" in str(problems[1])
    assert "type list" in str(problems[2])
    assert problems[3] is None


def test_math_works_from_many_threads_of_a_server() -> None:
    # math-verify itself raises "signal only works in main thread" there.
    with VerifierPool("math", num_workers=2, timeout_s=60.0) as pool:
        assert threading.current_thread() is threading.main_thread()
        with ThreadPoolExecutor(4) as threads:
            jobs = [threads.submit(pool.problems, [prompt(str(i))]) for i in range(8)]
            assert [job.result() for job in jobs] == [[None]] * 8


def test_the_preflight_of_math_shows_boxed_truths() -> None:
    prompts = [prompt(truth) for truth in ("1/2", r"\sqrt{3}", "x+1", "7")]

    with VerifierPool("math", timeout_s=60.0) as pool:
        shown = preflight(pool, prompts)

    assert (shown.num_gold, shown.num_accepted, shown.num_wrong_accepted) == (4, 4, 0)


def test_math_takes_no_options_and_says_what_it_is() -> None:
    with pytest.raises(VerifierError, match="math has no options"):
        load_verifier("math:strict")
    loaded = load_verifier("math")
    assert (loaded.kind, loaded.extracts_answers) == ("builtin", True)


def test_a_comparison_that_takes_too_long_is_a_failure_and_no_zero(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import math_verify
    from math_verify.errors import TimeoutException

    from mlflow_rlrisk.verifiers import VerificationRequest
    from mlflow_rlrisk.verifiers.builtin import FACTORIES

    def slow(*args: object, **kwargs: object) -> bool:
        raise TimeoutException("Timeout during comparison")

    monkeypatch.setattr(math_verify, "verify", slow)
    request = VerificationRequest(prompt="q", completions=["3", ""], truth="4")

    outcomes = FACTORIES["math"]("").verify(request)

    assert [outcome.status for outcome in outcomes] == ["failed", "scored"]
    assert outcomes[0].status == GradeStatus.FAILED
