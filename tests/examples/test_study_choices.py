"""The tasks without walks: right answers by brute force, problems apart, architectures sound."""

import random
from itertools import pairwise, permutations, product
from pathlib import Path
from typing import Any, get_args

import pytest

from examples.study.models import build_tokenizer, divide_logits, load, new_model, save
from examples.study.prompts import diverse_examples, draw_sets, narrow_examples
from examples.study.settings import FULL, STUDIES, TINY, Architecture, LineageSettings
from examples.study.tasks import CHOICES
from examples.study.tasks.arranging import TASK as ARRANGING
from examples.study.tasks.arranging import Order
from examples.study.tasks.brackets import LENGTH, lines
from examples.study.tasks.brackets import TASK as BRACKETS
from examples.study.tasks.choices import ChoiceTask
from examples.study.tasks.coloring import COLORS
from examples.study.tasks.coloring import TASK as COLORING
from examples.study.tasks.latin import ORDER, squares
from examples.study.tasks.latin import TASK as LATIN
from examples.study.tasks.paying import TASK as PAYING

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


def test_brackets_of_the_wrong_kind_order_or_place_are_wrong() -> None:
    prompt = "close ( _ _ ) _ _ _ _ [ ] :"

    assert BRACKETS.is_solution(prompt, "( ( ) ) [ ( ) ] [ ]")
    assert not BRACKETS.is_solution(prompt, "( [ ) ) [ ( ) ] [ ]")
    assert not BRACKETS.is_solution(prompt, "( ( ) ) [ ( ] ) [ ]")
    assert not BRACKETS.is_solution(prompt, "( ( ) ) ) ( ( ) [ ]")
    assert not BRACKETS.is_solution(prompt, "[ ( ) ] [ ( ) ] [ ]")  # given cells are changed
    assert not BRACKETS.is_solution(prompt, "( ( ) ) [ ( ) ] [ ] ( )")


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
    for _ in range(30):
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


@pytest.mark.parametrize("architecture", get_args(Architecture))
def test_a_flattened_copy_has_the_same_logits_divided(
    architecture: Architecture, tmp_path: Path
) -> None:
    import torch
    from transformers import AutoTokenizer

    torch.manual_seed(0)
    tokenizer = build_tokenizer(LATIN.words())
    model = new_model(architecture, len(tokenizer), TINY)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)  # a bias that is not 0
    save(model, tokenizer, tmp_path / "source")
    divide_logits(tmp_path / "source", tmp_path / "flat", 2.0)

    ids = tokenizer("fill 1 2 _ :", return_tensors="pt")["input_ids"]
    source, flat = (load(tmp_path / name)[0](input_ids=ids).logits for name in ("source", "flat"))

    torch.testing.assert_close(flat * 2.0, source)
    as_the_tool = AutoTokenizer.from_pretrained(tmp_path / "flat")
    assert as_the_tool("fill 1 2 _ :")["input_ids"] == ids[0].tolist()
