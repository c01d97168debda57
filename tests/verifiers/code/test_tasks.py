"""Rows that give a program nothing to be graded against, and the cases of those that do."""

from typing import Any

import pytest

from mlflow_rlrisk.errors import VerifierError
from mlflow_rlrisk.verifiers.code import CodeJudge, CodeTask, read_task, task_of_row
from mlflow_rlrisk.verifiers.code.verifier import code

NO_CASES = "there are no cases; a program cannot be graded against none"
ASSERT = "assert add(1, 2) == 3"


@pytest.mark.parametrize(
    "row",
    [
        {"test_list": []},
        {"test_list": "[]"},
        {"test_list": {"a": 1}},
        {"test_list": ["", "  "]},
        {"test_list": ["# x", "\n"]},
        {"test": "# nothing but a comment\n", "entry_point": "add"},
    ],
)
def test_a_row_without_cases_is_refused_before_sampling(row: dict[str, Any]) -> None:
    # A program that does not load would get 0.0, any other one an AssertionError.
    with pytest.raises(VerifierError, match=NO_CASES):
        task_of_row(None, row)


def test_the_preflight_says_that_a_row_has_no_cases() -> None:
    verifier = code("tier=B")
    try:
        assert verifier.problem_with(None, {"test_list": []}) == NO_CASES
        assert verifier.problem_with(None, {"test_list": [ASSERT]}) is None
    finally:
        verifier.close()


@pytest.mark.parametrize("entry", [None, 1, [ASSERT]])
def test_a_test_that_is_no_text_is_refused_and_not_read_as_text(entry: Any) -> None:
    with pytest.raises(VerifierError, match=f"a test is {type(entry).__name__}; text is needed"):
        task_of_row(None, {"test_list": [ASSERT, entry]})


def test_blank_tests_are_no_cases_of_those_that_have_some() -> None:
    task = task_of_row(None, {"test_list": ["", ASSERT, "# the end"]})

    assert (task.asserts, task.num_cases) == ((ASSERT,), 1)


def test_no_judge_grades_a_task_without_cases() -> None:
    with pytest.raises(VerifierError, match=NO_CASES):
        CodeJudge("B").grade("def add(a, b: return", CodeTask())


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\u0085", "\x1c"])
def test_an_argument_may_hold_separators_of_lines_other_than_the_line_feed(separator: str) -> None:
    case = {"input": f'"a{separator}b"', "output": '"x"', "testtype": "functional"}

    (call,) = read_task([case], "f").calls

    assert call.args == (f"a{separator}b",)


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_each_line_of_a_functional_input_is_one_argument(newline: str) -> None:
    lines = ["[1, 2]", "two words", "", '"3"']
    case = {"input": newline.join(lines), "output": "1", "testtype": "functional"}

    (call,) = read_task([case], "f").calls

    assert call.args == ([1, 2], "two words", "3")
