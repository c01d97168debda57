"""The tasks of the last planned tests: right answers by brute force."""

from itertools import combinations, pairwise, permutations, product

import pytest

from examples.study.tasks.climbing import TASK as CLIMBING
from examples.study.tasks.covering import TASK as COVERING
from examples.study.tasks.hiking import TASK as HIKING
from examples.study.tasks.packing import TASK as PACKING
from examples.study.tasks.queueing import TASK as QUEUEING
from examples.study.tasks.sharing import TASK as SHARING
from examples.study.tasks.swapping import TASK as SWAPPING
from examples.study.tasks.swinging import TASK as SWINGING
from examples.study.tasks.tiling import TASK as TILING
from examples.study.tasks.tracing import TASK as TRACING
from tests.examples.brute_force import check_answers


@pytest.mark.parametrize("number", range(4))
def test_the_right_hikes_and_queues_are_those_of_all_that_could_be_said(number: int) -> None:
    hike, pairs = HIKING.problems()[number], QUEUEING.problems()[number]
    either_way = {*hike.paths, *(path[::-1] for path in hike.paths)}

    hikes = [
        row
        for row in product("abcdefg", repeat=4)
        if row[0] == hike.start
        and row[-1] == hike.end
        and set(pairwise(row)) <= either_way
        and len({*row}) == 4
    ]
    queues = [row for row in permutations("abcdef") if set(pairs) <= set(combinations(row, 2))]

    assert HIKING.right_answers(hike) == hikes
    assert QUEUEING.right_answers(pairs) == queues
    every = product("abcdefg", repeat=4)
    assert [row for row in every if HIKING.is_right(hike, row)] == hikes
    every_queue = product("abcdef", repeat=6)
    assert [row for row in every_queue if QUEUEING.is_right(pairs, row)] == queues


@pytest.mark.parametrize("number", range(4))
def test_the_right_letters_and_climbs_are_those_of_all_that_could_be_said(number: int) -> None:
    rows, rocks = SHARING.problems()[number], CLIMBING.problems()[number]

    shared = set(combinations(rows.first, 5)) & set(combinations(rows.second, 5))
    climbs = {
        row
        for row in combinations(rocks.heights, 5)
        if list(map(int, row)) == sorted({*map(int, row)})
    }

    for task, problem, right, words in (
        (SHARING, rows, shared, "abcd"),
        (CLIMBING, rocks, climbs, sorted({*rocks.heights})),
    ):
        check_answers(task, problem, right, product(words, repeat=5))


@pytest.mark.parametrize("number", range(4))
def test_the_right_tiles_and_baskets_are_those_of_all_that_could_be_said(number: int) -> None:
    row, baskets = TILING.problems()[number], COVERING.problems()[number]

    laid = {
        tiles
        for tiles in product(row.tiles, repeat=4)
        if sum(map(int, tiles)) == row.length and not {a * 2 for a in row.tiles} & _pairs(tiles)
    }
    chosen = {
        marks
        for marks in product("123456", repeat=3)
        if marks[0] < marks[1] < marks[2]
        and len({letter for mark in marks for letter in baskets[int(mark) - 1]}) == 7
    }

    for task, problem, right, words, size in (
        (TILING, row, laid, "123456789", 4),
        (COVERING, baskets, chosen, "1234567a", 3),
    ):
        check_answers(task, problem, right, product(words, repeat=size))


def _pairs(tiles: tuple[str, ...]) -> set[str]:
    return {one + other for one, other in pairwise(tiles)}


@pytest.mark.parametrize("number", range(4))
def test_the_right_swaps_and_loads_are_those_of_all_that_could_be_said(number: int) -> None:
    row, load = SWAPPING.problems()[number], PACKING.problems()[number]

    def sorted_by(swaps: tuple[str, ...]) -> bool:
        text = "".join(row.letters)
        for swap in map(int, swaps):
            text = text[: swap - 1] + text[swap] + text[swap - 1] + text[swap + 1 :]
        return text == "".join(sorted(text))

    right_swaps = {swaps for swaps in product("1234", repeat=4) if sorted_by(swaps)}
    everything = sum(map(int, load.things))
    right_loads = {
        boxes
        for boxes in product("ab", repeat=6)
        if everything - load.holds[1]
        <= sum(int(thing) for thing, box in zip(load.things, boxes, strict=True) if box == "a")
        <= load.holds[0]
    }

    for task, problem, right, words, size in (
        (SWAPPING, row, right_swaps, "12345a", 4),
        (PACKING, load, right_loads, "ab1", 6),
    ):
        check_answers(task, problem, right, product(words, repeat=size))


@pytest.mark.parametrize("number", range(4))
def test_the_right_swings_and_ways_are_those_of_all_that_could_be_said(number: int) -> None:
    numbers, grid = SWINGING.problems()[number], TRACING.problems()[number]

    swings = {
        row for row in permutations(numbers.given, 5) if row[0] < row[1] > row[2] < row[3] > row[4]
    }
    closed = {("abcde".index(column), int(line) - 1) for column, line in grid.closed}
    ways = {
        way
        for way in product("ru", repeat=8)
        if way.count("r") == 4
        and not closed & {(way[:n].count("r"), way[:n].count("u")) for n in range(9)}
    }

    for task, problem, right, every in (
        (SWINGING, numbers, swings, product("123456789", repeat=5)),
        (TRACING, grid, ways, product("ru1", repeat=8)),
    ):
        check_answers(task, problem, right, every)
