"""The tasks of the last planned tests: right answers by brute force."""

import random
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


def test_hikes_without_a_path_and_queues_out_of_order_are_wrong() -> None:
    hike = "hike a to f by a b a c b c b d b f c d c e d e d f e g f g :"
    queue = "queue c a f b a e d b c e :"

    assert HIKING.is_solution(hike, "a c b f")
    assert HIKING.is_solution(hike, "a b d f")
    assert not HIKING.is_solution(hike, "a d b f")
    assert not HIKING.is_solution(hike, "a b a f")
    assert not HIKING.is_solution(hike, "b a d f")
    assert not HIKING.is_solution(hike, "a c b by")
    assert QUEUEING.is_solution(queue, "c a d f b e")
    assert not QUEUEING.is_solution(queue, "a c d f b e")
    assert not QUEUEING.is_solution(queue, "c a d f b b")
    assert not QUEUEING.is_solution(queue, "c a d f b")


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
        assert set(task.right_answers(problem)) == right
        assert len(task.right_answers(problem)) == len(right) >= 3
        every = product(words, repeat=5)
        assert {answer for answer in every if task.is_right(problem, answer)} == right


def test_letters_that_one_row_lacks_and_climbs_that_fall_or_rest_are_wrong() -> None:
    share = "share a c b d a c b d with c a d b b a c d :"
    climb = "climb 5 2 7 3 1 6 8 4 9 2 :"

    assert SHARING.is_solution(share, "a d a c d")
    assert not SHARING.is_solution(share, "a c b d a")  # in the first row only
    assert not SHARING.is_solution(share, "a b b a c")  # in the second row only
    assert not SHARING.is_solution(share, "a d a c")
    assert CLIMBING.is_solution(climb, "2 3 6 8 9")
    assert not CLIMBING.is_solution(climb, "2 3 8 6 9")
    assert not CLIMBING.is_solution(climb, "2 3 3 8 9")
    assert not CLIMBING.is_solution(climb, "1 3 6 8 9")  # 3 comes before 1
    assert not CLIMBING.is_solution(climb, "2 3 6 8 9 9")


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
        assert set(task.right_answers(problem)) == right
        assert len(task.right_answers(problem)) == len(right) >= 3
        every = product(words, repeat=size)
        assert {answer for answer in every if task.is_right(problem, answer)} == right


def _pairs(tiles: tuple[str, ...]) -> set[str]:
    return {one + other for one, other in pairwise(tiles)}


def test_rows_with_gaps_or_twins_and_baskets_that_lack_a_letter_are_wrong() -> None:
    tile = "tile 17 with 2 3 5 7 :"
    cover = "cover 1 a c e 2 b d f 3 a b g 4 a b c 5 d e f 6 e f g :"

    assert TILING.is_solution(tile, "5 2 7 3")
    assert not TILING.is_solution(tile, "5 2 7 2")  # one short
    assert not TILING.is_solution(tile, "5 5 2 5")  # fills it, two equal side by side
    assert not TILING.is_solution(tile, "1 6 7 3")  # other tiles
    assert COVERING.is_solution(cover, "1 2 3")
    assert not COVERING.is_solution(cover, "2 1 3")
    assert not COVERING.is_solution(cover, "4 5 2")
    assert not COVERING.is_solution(cover, "2 4 5")  # no g
    assert not COVERING.is_solution(cover, "1 2 a")


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
        assert set(task.right_answers(problem)) == right
        assert len(task.right_answers(problem)) == len(right) >= 3
        every = product(words, repeat=size)
        assert {answer for answer in every if task.is_right(problem, answer)} == right


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
        assert set(task.right_answers(problem)) == right
        assert len(task.right_answers(problem)) == len(right) >= 3
        assert {answer for answer in every if task.is_right(problem, answer)} == right


def test_rows_not_sorted_boxes_too_full_numbers_that_rest_and_closed_ways_are_wrong() -> None:
    swap, pack = "swap a e c i g :", "pack 8 7 4 3 5 4 into 12 20 :"
    swing, trace = "swing 7 9 1 3 5 4 :", "trace d4 e1 e2 b4 c2 :"

    assert SWAPPING.is_solution(swap, "1 1 2 4")
    assert not SWAPPING.is_solution(swap, "1 2 2 4")
    assert not SWAPPING.is_solution(swap, "2 4")  # sorts it, with two swaps
    assert not SWAPPING.is_solution(swap, "1 1 2 5")
    assert PACKING.is_solution(pack, "a b a b b b")
    assert not PACKING.is_solution(pack, "a a b b b b")
    assert not PACKING.is_solution(pack, "b b a b b b")
    assert not PACKING.is_solution(pack, "a b a b b 5")
    assert SWINGING.is_solution(swing, "7 9 1 5 3")
    assert not SWINGING.is_solution(swing, "9 7 5 1 3")
    assert not SWINGING.is_solution(swing, "7 9 1 5 1")
    assert not SWINGING.is_solution(swing, "7 9 1 8 3")  # 8 is not given
    assert TRACING.is_solution(trace, "r r r u u r u u")
    assert not TRACING.is_solution(trace, "r r r u u u r u")  # d4 is closed
    assert not TRACING.is_solution(trace, "r r r r u u u u")  # e1 too
    assert not TRACING.is_solution(trace, "u u u u u r r r")  # leaves the grid


def test_a_problem_bent_is_not_solved_any_more() -> None:
    rng = random.Random(0)
    for task in (SWAPPING, PACKING, SWINGING, TRACING):
        for problem in task.problems()[:50]:
            answer = rng.choice(task.right_answers(problem))
            assert not task.is_right(task.bend(problem, answer, rng), answer)
