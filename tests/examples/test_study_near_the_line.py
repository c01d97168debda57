"""The tasks of the twelfth test: right answers by brute force."""

import random
from itertools import combinations, pairwise, product
from typing import Any

import pytest

from examples.study.tasks.balancing import TASK as BALANCING
from examples.study.tasks.choices import ChoiceTask
from examples.study.tasks.dividing import TASK as DIVIDING
from examples.study.tasks.hiding import TASK as HIDING
from examples.study.tasks.parking import TASK as PARKING


@pytest.mark.parametrize("number", range(4))
def test_the_right_threes_and_sides_are_those_of_all_that_could_be_said(number: int) -> None:
    division, weights = DIVIDING.problems()[number], BALANCING.problems()[number]
    total = sum(map(int, weights.given))

    threes = {
        taken
        for taken in combinations(division.given, 3)
        if (sum(map(int, taken)) / int(division.divisor)).is_integer()
    }
    sides = {
        row
        for row in product("lr", repeat=6)
        if abs(total - 2 * sum(int(w) for w, s in zip(weights.given, row, strict=True) if s == "r"))
        <= 3
    }

    for task, problem, right, every in (
        (DIVIDING, division, threes, product("123456789", repeat=3)),
        (BALANCING, weights, sides, product("lr1", repeat=6)),
    ):
        assert set(task.right_answers(problem)) == right
        assert len(task.right_answers(problem)) == len(right) >= 3
        assert {answer for answer in every if task.is_right(problem, answer)} == right


@pytest.mark.parametrize("number", range(2))
def test_the_right_rows_and_streets_are_those_of_all_that_could_be_said(number: int) -> None:
    hidden, street = HIDING.problems()[number], PARKING.problems()[number]

    rows = {
        row
        for row in product("abcdefgh", repeat=6)
        if hidden.letters in combinations(row, 4)
        and not {letter * 2 for letter in row} & {"".join(each) for each in pairwise(row)}
    }
    streets = set()
    for firsts in product(range(1, 11), repeat=3):
        places = ["-"] * 13
        for taken in (*street.taken, 11, 12, 13):
            places[taken - 1] = "x"
        fits = True
        for car, first in zip(street.cars, firsts, strict=True):
            own = slice(first - 1, first - 1 + int(car))
            fits &= set(places[own]) == {"-"}
            places[own] = ["x"] * int(car)
        if fits:
            streets.add(tuple(map(str, firsts)))

    for task, problem, right, every in (
        (HIDING, hidden, rows, product("abcdefgh", repeat=6)),
        (PARKING, street, streets, product([str(n) for n in range(1, 13)], repeat=3)),
    ):
        assert set(task.right_answers(problem)) == right
        assert len(task.right_answers(problem)) == len(right) >= 3
        assert {answer for answer in every if task.is_right(problem, answer)} == right


def test_sums_with_a_rest_sides_that_sink_rows_not_hidden_and_cars_that_touch_are_wrong() -> None:
    divide, balance = "divide 7 3 9 2 5 4 by 3 :", "balance 7 3 9 2 5 4 :"
    hide, park = "hide c a d b :", "park 2 3 1 between 5 9 10 :"

    assert DIVIDING.is_solution(divide, "7 3 5")
    assert not DIVIDING.is_solution(divide, "7 5 3")  # not in their order
    assert not DIVIDING.is_solution(divide, "7 3 9")
    assert not DIVIDING.is_solution(divide, "7 7 7")
    assert BALANCING.is_solution(balance, "l r r l l r")
    assert not BALANCING.is_solution(balance, "l r r r l r")
    assert not BALANCING.is_solution(balance, "l r r l l 4")
    assert HIDING.is_solution(hide, "c b a c d b")
    assert not HIDING.is_solution(hide, "c a d b")
    assert not HIDING.is_solution(hide, "c a a d b a")
    assert not HIDING.is_solution(hide, "c d a b d a")
    assert not HIDING.is_solution(hide, "c a d b a hide")
    assert PARKING.is_solution(park, "3 6 2")
    assert not PARKING.is_solution(park, "3 6 3")
    assert not PARKING.is_solution(park, "4 6 2")  # 5 is taken
    assert not PARKING.is_solution(park, "3 8 2")


@pytest.mark.parametrize(
    ("task", "prompt"),
    [
        (DIVIDING, "divide 7 3 9 2 5 by 3 :"),
        (BALANCING, "balance 7 3 9 2 5 0 :"),
        (HIDING, "hide c a d z :"),
        (PARKING, "park 2 3 4 between 5 9 10 :"),
    ],
)
def test_a_prompt_of_another_kind_is_refused(task: ChoiceTask[Any], prompt: str) -> None:
    with pytest.raises(ValueError, match="is needed"):
        task.parse(prompt)


def test_a_problem_bent_is_not_solved_any_more() -> None:
    rng = random.Random(0)
    for task in (DIVIDING, BALANCING, HIDING, PARKING):
        for problem in task.problems()[:50]:
            answer = rng.choice(task.right_answers(problem))
            assert not task.is_right(task.bend(problem, answer, rng), answer)
