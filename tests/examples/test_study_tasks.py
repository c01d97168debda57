"""The study's walks: their graders are held to enumeration, their prompt sets to disjointness."""

import random
from itertools import product

import pytest

from examples.study.prompts import diverse_examples, draw_sets, narrow_examples
from examples.study.settings import FULL
from examples.study.tasks import WALKS
from examples.study.tasks.chains import apply
from examples.study.tasks.rewriting import LENGTH, RULES
from examples.study.tasks.stack import INSTRUCTIONS
from examples.study.tasks.stack import run as run_program
from examples.study.tasks.walks import Pair, WalkTask, all_pairs, right_answers

EVERY_TASK = pytest.mark.parametrize("task", WALKS.values(), ids=lambda task: task.name)


@EVERY_TASK
def test_the_grader_accepts_exactly_the_moves_of_a_state(task: WalkTask) -> None:
    rng = random.Random(3)
    steps = [rng.choice(task.moves(rng.choice(task.states()))).words for _ in range(60)]
    for state in rng.sample(task.states(), 12):
        possible = {move.words: move.state for move in task.moves(state)}

        accepted = {words: task.follow(state, words) for words in (*steps, *possible)}

        assert {words: to for words, to in accepted.items() if to is not None} == possible


@EVERY_TASK
def test_a_prompt_has_several_right_answers_and_no_shorter_one(task: WalkTask) -> None:
    for pair in random.Random(4).sample(all_pairs(task), 10):
        answers = set(right_answers(task, pair))

        assert len(answers) >= 3
        assert all(task.is_solution(task.prompt(pair), answer) for answer in answers)
        assert min(len(answer.split()) for answer in answers) == task.distance * task.step_words


@EVERY_TASK
def test_both_experts_answer_rightly_and_only_one_of_them_variedly(task: WalkTask) -> None:
    pairs = draw_sets(task, FULL).expert[:12]
    narrow = narrow_examples(task, pairs)
    diverse = diverse_examples(task, pairs, 0, FULL.diverse_answers)

    assert all(task.is_solution(*example) for example in (*narrow, *diverse))
    assert len(narrow) == len(pairs)
    assert len(set(diverse)) == len(diverse) > 3 * len(pairs)


@EVERY_TASK
def test_no_prompt_is_in_two_sets_and_the_base_sees_none_that_is_graded(task: WalkTask) -> None:
    sets = draw_sets(task, FULL)
    pairs = [pair for part in sets for pair in part]
    rng = random.Random(5)
    seen = {task.crawl_example(rng, sets.unseen, FULL, (-1, 0, 1)).prompt for _ in range(300)}

    assert len(set(pairs)) == len(pairs)
    assert not seen & {task.prompt(pair) for pair in sets.unseen}


@EVERY_TASK
def test_prompts_are_equally_long_and_come_back_from_their_text(task: WalkTask) -> None:
    prompts = {task.prompt(pair): pair for pair in draw_sets(task, FULL).rl}

    assert len({len(prompt.split()) for prompt in prompts}) == 1
    assert all(task.parse(prompt) == pair for prompt, pair in prompts.items())
    with pytest.raises(ValueError, match="is needed"):
        task.parse("say something")


@EVERY_TASK
def test_an_answer_that_is_too_long_or_cut_off_is_wrong(task: WalkTask) -> None:
    pair = all_pairs(task)[0]
    right = next(right_answers(task, pair)).split()
    there_and_back = next(right_answers(task, pair)).split() * 3

    assert not task.is_solution(task.prompt(pair), " ".join(right[:-1]))
    assert not task.is_solution(task.prompt(pair), " ".join(there_and_back))
    assert not task.is_solution(task.prompt(pair), "")


def test_every_program_of_the_list_language_ends_in_a_list_of_the_same_length() -> None:
    for program in product(INSTRUCTIONS, repeat=2):
        result = run_program(program, (3, 1, 2))
        assert result is not None
        assert len(result) == 3
        assert all(0 <= value < 5 for value in result)
    assert run_program(["rotl", "add", "rev"], (3, 1, 2)) == (3, 2, 3)
    assert run_program(["jump"], (3, 1, 2)) is None


def test_arithmetic_and_rules_do_what_their_texts_say() -> None:
    assert [apply(12, operation, 5) for operation in "+-*/"] == [17, 7, 60, None]
    assert apply(12, "/", 6) == 2
    assert apply(40, "*", 3) is None
    task = WALKS["rewriting"]
    for left, right in RULES:
        assert task.follow(tuple(f"{left}cd"), tuple(f"{right}cd")) == tuple(f"{right}cd")
    assert task.follow(tuple("abcd"), tuple("bacd")) is not None
    assert task.follow(tuple("abcd"), tuple("badc")) is None
    assert task.follow(tuple("abcd"), tuple("abcd")) is None
    assert len({len(state) for state in task.states()} | {LENGTH}) == 1


def test_the_words_of_a_task_are_all_in_its_vocabulary() -> None:
    for task in WALKS.values():
        pair = Pair(*all_pairs(task)[5])
        words = {w for answer in right_answers(task, pair) for w in answer.split()}
        assert words | set(task.prompt(pair).split()) <= set(task.words())
