import itertools
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_rlrisk.demo.make_data import DISTANCE, draw_sets
from mlflow_rlrisk.demo.task import (
    MAX_OPERAND,
    MAX_STEPS,
    MAX_VALUE,
    OPERATIONS,
    is_solution,
    render_chain,
    render_prompt,
    reward,
    shortest_chain,
    steps_from,
)

WORDS = [*OPERATIONS, "=", *map(str, range(MAX_VALUE + 1))]


def results_by_fractions(start: int, moves: tuple[tuple[str, int], ...]) -> list[Fraction]:
    """The oracle: exact rational arithmetic, no table and no integer division."""
    values = [Fraction(start)]
    for operation, operand in moves:
        value = values[-1]
        values.append(
            {
                "*": value * operand,
                "/": value / operand,
                "+": value + operand,
                "-": value - operand,
            }[operation]
        )
    return values[1:]


def all_moves() -> list[tuple[str, int]]:
    return [
        (operation, operand)
        for operation in OPERATIONS
        for operand in range(2 if operation in "*/" else 1, MAX_OPERAND + 1)
    ]


@pytest.mark.parametrize("start", [1, 7, 24, 59, 60])
def test_a_chain_counts_exactly_when_rational_arithmetic_reaches_the_target(start: int) -> None:
    for moves in itertools.product(all_moves(), repeat=2):
        results = results_by_fractions(start, moves)
        text = " ".join(
            f"{op} {operand} = {result}"
            for (op, operand), result in zip(moves, results, strict=True)
        )
        stays_inside = all(r.denominator == 1 and 1 <= r <= MAX_VALUE for r in results)
        for target in {int(results[-1]), int(results[-1]) + 1, start}:
            expected = stays_inside and results[-1] == target
            assert is_solution(render_prompt(start, target), text) is expected


@given(st.lists(st.sampled_from(WORDS), max_size=24), st.integers(1, 60), st.integers(1, 60))
def test_no_word_salad_is_a_solution_unless_every_step_checks_out(
    words: list[str], start: int, target: int
) -> None:
    judged = is_solution(render_prompt(start, target), " ".join(words))

    if judged:
        moves = tuple((words[i], int(words[i + 1])) for i in range(0, len(words), 4))
        claimed = [Fraction(word) for word in words[3::4]]
        assert results_by_fractions(start, moves) == claimed
        assert claimed[-1] == target


@pytest.mark.parametrize(
    "completion",
    [
        "",
        "* 4 = 28",  # right, but not at the target
        "* 4 = 29 + 2 = 31",  # miscalculated
        "* 4 = 28 + 3 = 31 +",  # breaks off
        "+ 4 = 28 + 3 = 31",
        "* 1 = 7 * 4 = 28 + 3 = 31",  # multiplying by 1 is no step
        "* 4 = 28 + 3 = 31 + 1 = 32 - 1 = 31 + 0 = 31",
        "* 4 = 28 + 3 = 31 + 1 = 32 - 1 = 31 + 1 = 32 - 1 = 31",  # too many steps
        "- 5 = 2 - 2 = 0 + 31 = 31",
        "* 4 = 28 + ３ = 31",  # a full-width digit
    ],
)
def test_a_wrong_or_malformed_chain_is_refused(completion: str) -> None:
    assert not is_solution("from 7 to 31 :", completion)


def test_spaces_and_newlines_do_not_decide() -> None:
    assert is_solution("from 7 to 31 :", " * 4 = 28\n+ 3 = 31 ")


def test_the_reward_function_has_the_signature_of_trl_and_gives_zero_or_one() -> None:
    prompts = ["from 7 to 31 :", "from 7 to 31 :"]

    rewards = reward(
        prompts=prompts,
        completions=["* 4 = 28 + 3 = 31", "* 4 = 28"],
        completion_ids=[[1], [1]],
        solution=["", ""],
    )

    assert rewards == [1.0, 0.0]


def test_a_foreign_prompt_is_an_error_and_not_a_zero() -> None:
    with pytest.raises(ValueError, match="is needed"):
        reward(["What is 2 + 3?"], ["5"])


def test_no_shorter_chain_than_the_experts_exists() -> None:
    for start, target in draw_sets().expert[:40]:
        reached = {start}
        for _ in range(DISTANCE - 1):
            reached |= {step.result for value in reached for step in steps_from(value)}
            assert target not in reached
        assert len(shortest_chain(start, target)) == DISTANCE


def test_every_expert_answer_and_every_gold_answer_is_accepted() -> None:
    for start, target in itertools.chain.from_iterable(draw_sets()):
        chain = shortest_chain(start, target)
        assert is_solution(render_prompt(start, target), render_chain(chain))
        assert len(chain) <= MAX_STEPS


def test_every_rl_prompt_has_many_right_answers() -> None:
    def count(value: int, target: int, steps_left: int) -> int:
        here = int(value == target)
        if steps_left == 0:
            return here
        return here + sum(count(s.result, target, steps_left - 1) for s in steps_from(value))

    numbers = [count(start, target, MAX_STEPS) for start, target in draw_sets().rl[:10]]

    assert min(numbers) >= 10
