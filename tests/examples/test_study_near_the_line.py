"""The tasks of the twelfth test: right answers by brute force."""

from itertools import combinations, pairwise, product

import pytest

from examples.study.tasks.balancing import TASK as BALANCING
from examples.study.tasks.dividing import TASK as DIVIDING
from examples.study.tasks.hiding import TASK as HIDING
from examples.study.tasks.parking import TASK as PARKING
from tests.examples.brute_force import check_answers


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
        check_answers(task, problem, right, every)


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
        check_answers(task, problem, right, every)
