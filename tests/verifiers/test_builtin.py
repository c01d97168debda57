from typing import Any

import pytest

from mlflow_rlrisk.errors import VerifierError
from mlflow_rlrisk.verifiers import Outcome, VerificationRequest, Verifier
from mlflow_rlrisk.verifiers.builtin import exact, numeric, regex


def judge(verifier: Verifier, truth: Any, *completions: str) -> list[Outcome]:
    return list(
        verifier.verify(VerificationRequest(prompt="q", completions=completions, truth=truth))
    )


def rewards(verifier: Verifier, truth: Any, *completions: str) -> list[float | None]:
    return [outcome.reward for outcome in judge(verifier, truth, *completions)]


def test_exact_compares_stripped_text() -> None:
    assert rewards(exact(), "Paris", " Paris\n", "paris", "Paris.", "") == [1, 0, 0, 0]
    assert rewards(exact("casefold"), "Straße", "STRASSE ", "Strasse") == [1, 1]


def test_exact_reads_numbers_as_they_are_written() -> None:
    assert rewards(exact(), 4, "4", "4.0") == [1, 0]
    assert rewards(exact(), 4.0, "4") == [1]


def test_numeric_grades_the_final_number_and_says_which_it_was() -> None:
    outcomes = judge(numeric(), "1/2", "it is 0.5", r"\boxed{\frac{2}{4}}", "no idea", "3/4")

    assert [outcome.reward for outcome in outcomes] == [1, 1, 0, 0]
    assert [outcome.answer for outcome in outcomes] == ["1/2", "1/2", None, "3/4"]


@pytest.mark.parametrize(
    ("truth", "completion", "reward"),
    [
        ("12", "12\n" + "9" * 401, 0),
        ("5", "1/0 after 5, so 7/0", 0),
        ("-5", "the answer is –5", 1),
        ("5", "the answer is –5", 0),
        ("5", r"\boxed{5!}", 0),
        ("2", "The answer is 2^10.", 0),
        ("5", "The answer is ±5.", 0),
        ("5", "The answer is 5!", 1),
    ],
)
def test_numeric_pays_for_what_is_stated_and_for_nothing_else(
    truth: str, completion: str, reward: float
) -> None:
    assert rewards(numeric(), truth, completion) == [reward]


def test_regex_without_group_searches() -> None:
    assert rewards(regex(r"\d{3}"), None, "a 123 b", "12") == [1, 0]


def test_regex_with_group_compares_the_last_match_with_the_truth() -> None:
    outcomes = judge(regex(r"Answer: (\w+)"), "yes", "Answer: no Answer: yes", "Answer: no", "yes")

    assert [outcome.reward for outcome in outcomes] == [1, 0, 0]
    assert [outcome.answer for outcome in outcomes] == ["yes", "no", None]
    assert rewards(regex(r"(a|b):(?P<answer>\d)"), "7", "a:7") == [1]


def test_regex_alone_takes_the_truth_as_pattern_of_the_whole_completion() -> None:
    assert rewards(regex(), r"[ab]+", " abba\n", "abc") == [1, 0]


@pytest.mark.parametrize(
    ("verifier", "truth", "problem"),
    [
        (numeric(), "four", 'truth "four" is not a number'),
        (numeric(), None, "truth null is not a number"),
        (numeric(), True, "truth true is not a number"),
        (exact(), None, "there is no truth"),
        (exact(), ["a"], "is list, text or a number is needed"),
        (regex(r"(a)"), None, "there is no truth"),
        (regex(), "(", "is no pattern"),
    ],
)
def test_a_truth_that_cannot_be_compared_is_a_problem_and_no_zero(
    verifier: Verifier, truth: Any, problem: str
) -> None:
    assert problem in str(verifier.problem_with(truth, {}))
    with pytest.raises(VerifierError):
        judge(verifier, truth, "4")


@pytest.mark.parametrize("truth", ["4", "-1,000.5", 4, 0.25, "$3", "1e3", "12%"])
def test_truths_that_are_numbers_are_no_problem_for_numeric(truth: Any) -> None:
    assert numeric().problem_with(truth, {}) is None
    assert rewards(numeric(), truth, f"The answer is {truth}.") == [1]


def test_unknown_options_and_broken_patterns_are_refused() -> None:
    with pytest.raises(VerifierError, match="known: casefold"):
        exact("lower")
    with pytest.raises(VerifierError, match="no options"):
        numeric("tolerance=1")
    with pytest.raises(VerifierError, match="not a pattern"):
        regex("(")
