"""The tasks without walks: right answers by brute force, problems apart."""

import random
from itertools import combinations, pairwise, permutations, product
from typing import Any

import pytest

from examples.study.planned_settings import STUDIES
from examples.study.prompts import diverse_examples, draw_sets, narrow_examples
from examples.study.settings import FULL, LineageSettings
from examples.study.tasks import CHOICES
from examples.study.tasks.arranging import TASK as ARRANGING
from examples.study.tasks.arranging import Order
from examples.study.tasks.booking import TASK as BOOKING
from examples.study.tasks.brackets import LENGTH, lines
from examples.study.tasks.brackets import TASK as BRACKETS
from examples.study.tasks.choices import ChoiceTask
from examples.study.tasks.coloring import COLORS
from examples.study.tasks.coloring import TASK as COLORING
from examples.study.tasks.guarding import TASK as GUARDING
from examples.study.tasks.latin import ORDER, squares
from examples.study.tasks.latin import TASK as LATIN
from examples.study.tasks.paying import TASK as PAYING
from examples.study.tasks.seating import TASK as SEATING
from examples.study.tasks.turning import TASK as TURNING
from examples.study.tasks.weaving import TASK as WEAVING
from examples.study.tasks.weighing import TASK as WEIGHING

EVERY_TASK = pytest.mark.parametrize("task", CHOICES.values(), ids=CHOICES)
LINEAGES: dict[str, LineageSettings] = {
    each.task: each for settings in STUDIES.values() for each in settings.lineages
}


def test_there_are_as_many_latin_squares_of_order_four_as_published() -> None:
    assert len(set(squares())) == len(squares()) == 576
    assert ORDER == 4


def test_a_grid_that_breaks_one_constraint_is_wrong() -> None:
    square = "1 2 3 4 2 1 4 3 3 4 1 2 4 3 2 1"
    prompt = "fill 1 _ _ _ _ _ 4 _ _ _ _ _ 4 _ _ _ :"

    assert LATIN.is_solution(prompt, square)
    assert not LATIN.is_solution(prompt.replace("1", "2"), square)  # a given cell is changed
    assert not LATIN.is_solution(prompt, "1 2 3 4 " * 4)  # rows hold, columns do not
    assert not LATIN.is_solution(prompt, square + " 1")
    assert not LATIN.is_solution(prompt, square.replace("2", "5"))
    assert not LATIN.is_solution(prompt, "")


def test_the_right_rows_of_letters_are_those_of_all_permutations() -> None:
    order = Order(tuple("aabcde"), "a", "e", (("a", "b"), ("b", "c")))
    banned = {"ab", "bc", "aa", "bb", "cc", "dd", "ee"}

    expected = {
        row
        for row in permutations(order.letters)
        if row[0] == "a" and row[-1] == "e" and not {x + y for x, y in pairwise(row)} & banned
    }
    found = ARRANGING.right_answers(order)

    assert found == sorted(expected)
    for row in set(permutations("abcde")):
        answer = " ".join(("a", *row))
        assert ARRANGING.is_solution(ARRANGING.prompt(order), answer) == (("a", *row) in expected)


def test_there_are_as_many_balanced_lines_as_published() -> None:
    # Catalan's number of 5, times a kind for each pair.
    assert len(set(lines())) == len(lines()) == 42 * 2**5
    assert LENGTH == 10


@pytest.mark.parametrize("number", range(20))
def test_the_right_answers_are_those_of_all_that_could_be_said(number: int) -> None:
    graph, payment = COLORING.problems()[number], PAYING.problems()[number]
    cells = BRACKETS.problems()[number]
    every_color = product(COLORS, repeat=6)
    every_coin = product([str(coin) for coin in range(1, 10)], repeat=4)

    colors = [row for row in every_color if COLORING.is_right(graph, row)]
    coins = [row for row in every_coin if PAYING.is_right(payment, row)]
    closed = [row for row in product("()[]", repeat=10) if number < 1 and _closes(row, cells)]

    assert COLORING.right_answers(graph) == colors
    assert PAYING.right_answers(payment) == coins
    assert all(sum(map(int, row)) == payment.total for row in coins)
    assert number >= 1 or BRACKETS.right_answers(cells) == closed


@pytest.mark.parametrize("number", range(6))
def test_the_right_seats_bookings_and_weaves_are_those_of_all_that_could_be_said(
    number: int,
) -> None:
    wishes, requests = SEATING.problems()[number], BOOKING.problems()[number]
    rows = WEAVING.problems()[number]

    seats = [row for row in permutations("abcdef", 5) if _is_liked(row, wishes)]
    booked = {
        tuple(str(hour) for request in granted for hour in request)
        for granted in permutations(requests, 3)
        if not any(_overlap(one, other) for one, other in combinations(granted, 2))
        and [begin for begin, _ in granted] == sorted(begin for begin, _ in granted)
    }
    woven = [
        row
        for row in product("abcd", repeat=7)
        if {rows.warp, rows.weft} <= set(combinations(row, 5))
    ]

    assert sorted(SEATING.right_answers(wishes)) == seats
    assert sorted(BOOKING.right_answers(requests)) == sorted(booked)
    assert WEAVING.right_answers(rows) == woven
    for task, problem, right, every in (
        (SEATING, wishes, set(seats), product("abcdef", repeat=5)),
        (BOOKING, requests, booked, (_as_words(some) for some in permutations(requests, 3))),
        (WEAVING, rows, set(woven), product("abcd", repeat=7)),
    ):
        assert {answer for answer in every if task.is_right(problem, answer)} == right


def _is_liked(row: tuple[str, ...], wishes: tuple[tuple[str, ...], ...]) -> bool:
    return all(place in liked for place, liked in zip(row, wishes, strict=True))


def _overlap(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether they share an hour."""
    return bool(set(range(*one)) & set(range(*other)))


def _as_words(requests: tuple[tuple[int, int], ...]) -> tuple[str, ...]:
    return tuple(" ".join(f"{begin} {end}" for begin, end in requests).split())


@pytest.mark.parametrize("number", range(6))
def test_the_right_signs_turns_and_guards_are_those_of_all_that_could_be_said(number: int) -> None:
    balance, dial = WEIGHING.problems()[number], TURNING.problems()[number]
    roads = GUARDING.problems()[number]

    signs = [
        row
        for row in product("+-", repeat=5)
        if sum(int(f"{sign}{w}") for sign, w in zip(row, balance.weights, strict=True))
        == balance.total
    ]
    turns = [
        row
        for row in product(map(str, dial.steps), repeat=3)
        if ("01234" * 7)[dial.start + sum(map(int, row))] == str(dial.end)
    ]
    guards = {
        row
        for chosen in combinations("abcdefg", 4)
        if all(len({*road, *chosen}) < 6 for road in roads)
        for row in permutations(chosen)
    }

    assert sorted(WEIGHING.right_answers(balance)) == sorted(signs)
    assert TURNING.right_answers(dial) == turns
    assert GUARDING.right_answers(roads) == sorted(guards)
    for task, problem, right, every in (
        (WEIGHING, balance, set(signs), product("+-0", repeat=5)),
        (TURNING, dial, set(turns), product("0123456789", repeat=3)),
        (GUARDING, roads, guards, product("abcdefgh", repeat=4)),
    ):
        assert {answer for answer in every if task.is_right(problem, answer)} == right


def _closes(row: tuple[str, ...], cells: tuple[str, ...]) -> bool:
    """By taking pairs away until nothing is left."""
    if any(cell not in ("_", own) for cell, own in zip(cells, row, strict=True)):
        return False
    text = "".join(row)
    while (less := text.replace("()", "").replace("[]", "")) != text:
        text = less
    return not text


@EVERY_TASK
def test_right_answers_are_graded_right_and_bent_problems_wrong(task: ChoiceTask[Any]) -> None:
    rng = random.Random(1)
    for _ in range(50):
        problem, answer = task.draw(rng, 0)
        words = " ".join(answer)

        assert answer in task.right_answers(problem)
        assert task.is_solution(task.prompt(problem), words)
        assert not task.is_solution(task.prompt(task.bend(problem, answer, rng)), words)


@EVERY_TASK
def test_the_base_sees_noise_and_nothing_that_is_graded(task: ChoiceTask[Any]) -> None:
    rng = random.Random(2)
    sets = draw_sets(task, FULL)
    problems = [problem for part in sets for problem in part]
    sizes = LINEAGES[task.name].walk_lengths

    seen = [task.crawl_example(rng, sets.unseen, FULL, sizes) for _ in range(400)]

    assert len(set(problems)) == len(problems)
    assert not {example.prompt for example in seen} & {task.prompt(p) for p in sets.unseen}
    right = sum(task.is_solution(*example) for example in seen) / len(seen)
    assert 0.70 < right < 0.85  # 10 % slips, of which some change nothing, and 15 % off target


@EVERY_TASK
def test_experts_are_right_prompts_equally_long_and_words_known(task: ChoiceTask[Any]) -> None:
    problems = draw_sets(task, FULL).expert
    narrow = narrow_examples(task, problems)
    diverse = diverse_examples(task, problems, 0, FULL.diverse_answers)

    assert all(task.is_solution(*example) for example in (*narrow, *diverse))
    assert len(narrow) == len(problems)
    assert len(set(diverse)) == len(diverse) >= 3 * len(problems)
    assert len({len(example.prompt.split()) for example in narrow}) == 1
    assert all(task.parse(task.prompt(problem)) == problem for problem in problems)
    assert {w for e in diverse for w in f"{e.prompt} {e.answer}".split()} <= set(task.words())
    with pytest.raises(ValueError, match="is needed"):
        task.parse("say something")
