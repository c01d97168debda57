"""The tasks of the thirteenth test: right answers by brute force, and what is taken out of them."""

import importlib
from itertools import combinations, permutations, product
from typing import Any

import pytest

from examples.study.tasks.multiplying import TASK as MULTIPLYING
from examples.study.tasks.running import RunningTask
from examples.study.tasks.sorting import TASK as SORTING
from examples.study.tasks.summing import TASK as SUMMING
from examples.study.tasks.translating import MEANINGS
from examples.study.tasks.translating import TASK as TRANSLATING
from mlflow_rlrisk.verifiers import VerificationRequest
from mlflow_rlrisk.verifiers.loading import open_verifier
from mlflow_rlrisk.verifiers.specs import parse_spec
from tests.examples.brute_force import check_answers

EVERY_TASK = (SORTING, TRANSLATING, SUMMING, MULTIPLYING)


@pytest.mark.parametrize("number", range(3))
def test_the_right_rows_and_translations_are_those_of_all_that_could_be_said(number: int) -> None:
    given, letters = SORTING.problems()[number], TRANSLATING.problems()[number]
    numbers = [str(n) for n in range(1, 13)]

    rows = {row for row in combinations(numbers, 5) if {*given.given} <= {*row}}
    sentences = {
        words
        for words in permutations("ijklmnop", 4)
        if all(w in MEANINGS[c] for w, c in zip(words, letters.letters, strict=True))
    }

    for task, problem, right, every in (
        (SORTING, given, rows, product([*numbers, "sort"], repeat=5)),
        (TRANSLATING, letters, sentences, product("ijklmnop", repeat=4)),
    ):
        check_answers(task, problem, right, every)


@pytest.mark.parametrize("number", range(3))
def test_the_right_ways_are_those_of_all_that_could_be_said(number: int) -> None:
    problem = MULTIPLYING.problems()[number]
    digits, by = [int(digit) for digit in problem.given], int(problem.divisor)

    ways = set()
    for a, b, c in permutations(digits):
        ways.add(tuple(map(str, (a, a % by, b, a * b % by, c, a * b * c % by))))

    assert set(MULTIPLYING.right_answers(problem)) == ways
    said = product(problem.given, map(str, range(by)), problem.given, map(str, range(by)))
    every = (
        (*start, digit, total)
        for start in said
        for digit, total in product(problem.given, map(str, range(by)))
    )
    assert {answer for answer in every if MULTIPLYING.is_right(problem, answer)} == ways


@pytest.mark.parametrize(("task", "join"), [(SUMMING, sum), (MULTIPLYING, None)])
def test_every_way_ends_in_the_same_total_which_is_extracted(task: RunningTask, join: Any) -> None:
    extract = importlib.import_module(f"examples.study.tasks.{task.name}").extract_answer
    for problem in task.problems()[:40]:
        digits = [int(digit) for digit in problem.given]
        total = join(digits) if join else digits[0] * digits[1] * digits[2]

        answers = {extract(" ".join(way)) for way in task.right_answers(problem)}

        assert answers == {str(total % int(problem.divisor))}
    assert extract("") is None


def test_the_assessment_takes_the_last_total_as_the_answer_and_grades_the_whole_way() -> None:
    verifier, loaded = open_verifier(parse_spec("examples.study.tasks.summing:reward"))
    request = VerificationRequest(
        prompt="sum 3 8 5 6 by 9 :",
        completions=("8 8 5 4 3 7 6 4", "3 3 5 8 6 5 8 4", "3 3 5 7 6 5 8 4", ""),
        truth=None,
    )

    found = verifier.verify(request)

    assert loaded.extracts_answers
    assert [each.reward for each in found] == [1.0, 1.0, 0.0, 0.0]
    assert [each.answer for each in found] == ["4", "4", "4", None]
