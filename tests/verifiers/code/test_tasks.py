"""Rows that give a program nothing to be graded against, and the cases of those that do."""

import json
from typing import Any

import pytest

from mlflow_rlrisk.errors import VerifierError
from mlflow_rlrisk.verifiers.code import CodeJudge, CodeTask, read_task, task_of_row
from mlflow_rlrisk.verifiers.code.compare import same_output
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


def test_each_case_of_deepcoder_names_its_function_in_metadata_of_its_own() -> None:
    case = {
        "input": "3",
        "output": "4",
        "testtype": "functional",
        "metadata": {"func_name": "add_one"},
    }

    (call,) = task_of_row(None, {"tests": json.dumps([case])}).calls

    assert (call.function, call.args, call.expected) == ("add_one", (3,), (4,))


@pytest.mark.parametrize("output", ["101", "True", "[1, 2]", '"a"', "null", "abc"])
def test_a_result_that_is_text_beside_a_list_of_arguments_is_met_by_that_text(output: str) -> None:
    # APPS writes results as they are; "101" was read as a number and the text graded 0.
    cases = {"fn_name": "same", "inputs": [[output]], "outputs": [output]}

    (call,) = task_of_row(None, {"input_output": json.dumps(cases)}).calls

    assert output in call.expected


def test_a_result_beside_arguments_in_json_is_json_and_no_text() -> None:
    cases = {"fn_name": "same", "inputs": ["5"], "outputs": ["101"]}

    (call,) = task_of_row(None, {"input_output": json.dumps(cases)}).calls

    assert call.expected == (101,)


@pytest.mark.parametrize(
    ("expected", "written", "is_same"),
    [
        ("\nYES\nNO\n", "YES\nNO\n", True),  # as Codeforces' samples begin in TACO
        ("YES\n", "\n\r\nYES", True),
        ("YES\n\nNO\n", "YES\nNO\n", False),
        ("  *\n ***\n", "*\n ***\n", False),
    ],
)
def test_empty_lines_around_an_output_do_not_count_and_others_do(
    expected: str, written: str, is_same: bool
) -> None:
    assert same_output(expected, written) is is_same


@pytest.mark.parametrize(
    ("expected", "written", "is_same"),
    [
        ("0.500000\n", "0.5\n", True),  # right answers of APPS and LiveCodeBench were graded 0
        ("2.0 3\n-1.50", "2 3\n-1.5", True),
        ("0.00001", "1e-05", True),
        ("0.5", "0.51", False),
        ("0.5 1", "0.5", False),
        ("0.1", "0.1000000000000000055511151231257827", False),
        ("x = 0.50", "x = 0.5", False),
        ("007", "7", False),
        ("2", "2.0", False),
        ("1.0", "nan", False),
        ("1.2.3", "1.2.30", False),
        ("1.0\n", "1\n\n1", False),
    ],
)
def test_numbers_with_a_point_are_printed_in_any_way_and_no_others(
    expected: str, written: str, is_same: bool
) -> None:
    assert same_output(expected, written) is is_same


SOLUTION = """class Solution:
    def most(self, words: List[str]) -> Optional[str]:
        counts = defaultdict(int)
        for word in words:
            counts[word] += 1
        heap = [(-count, word) for word, count in counts.items()]
        heapq.heapify(heap)
        return heap[0][1] if heap and pow(2, 3, 5) == 3 and inf > 1 else None
"""


@pytest.mark.parametrize("head", ["", "from typing import List, Optional\n"])
def test_a_solution_finds_the_names_that_leetcode_imports_for_it(head: str) -> None:
    # LiveCodeBench's own grader gives them, too; such answers were graded 0.
    case = {"input": '["b", "a", "b"]', "output": '"b"', "testtype": "functional"}
    row = {"public_test_cases": json.dumps([case]), "metadata": '{"func_name": "most"}'}

    with CodeJudge("B", lanes=1) as judge:
        judgement = judge.grade(head + SOLUTION, task_of_row(None, row))

    assert judgement.grade == "pass", judgement.detail


def test_other_programs_find_what_they_import_as_in_an_interpreter() -> None:
    source = "def most(words):\n    return Counter(words).most_common()[0][0]\n"
    names: dict[str, Any] = {}
    exec(source, names)
    with pytest.raises(NameError):
        names["most"](["a"])

    with CodeJudge("B", lanes=1) as judge:
        judgement = judge.grade(source, read_task([{"args": [["a"]], "expected": "a"}], "most"))

    assert judgement.grade == "error"
