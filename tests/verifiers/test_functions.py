import asyncio
import itertools
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_rlrisk.errors import VerifierError
from mlflow_rlrisk.verifiers import Outcome, VerificationRequest
from mlflow_rlrisk.verifiers.functions import adapt

REQUEST = VerificationRequest(
    prompt="2+2=",
    completions=["4", "5"],
    truth="4",
    columns={"prompt": "2+2=", "answer": "4", "level": 3},
)
CHAT = VerificationRequest(
    prompt=[{"role": "user", "content": "2+2="}],
    completions=["4", "5"],
    truth="4",
    columns={"answer": "4"},
)


def judge(function: Any, request: VerificationRequest = REQUEST) -> list[Outcome]:
    return list(adapt(function, "grade").verify(request))


def test_a_trl_function_gets_aligned_lists_of_every_column() -> None:
    seen: dict[str, Any] = {}

    def grade(prompts: Any, completions: Any, **columns: Any) -> list[float]:
        seen.update(prompts=prompts, completions=completions, **columns)
        return [1.0, 0.0]

    outcomes = judge(grade)

    assert [outcome.reward for outcome in outcomes] == [1, 0]
    assert seen["prompts"] == ["2+2=", "2+2="]
    assert seen["completions"] == ["4", "5"]
    assert seen["answer"] == ["4", "4"]
    assert seen["level"] == [3, 3]
    assert "prompt" not in seen
    assert seen["trainer_state"].global_step == 0
    assert seen["log_extra"]("column", ["a"]) is None


def test_a_trl_function_gets_messages_where_the_prompt_is_a_chat() -> None:
    def grade(completions: Any, answer: Any) -> list[float]:
        return [float(c[0]["content"] == a) for c, a in zip(completions, answer, strict=True)]

    assert [outcome.reward for outcome in judge(grade, CHAT)] == [1, 0]


def test_a_plain_function_gets_text_and_truth_even_for_a_chat() -> None:
    def grade(completion: str, ground_truth: str) -> bool:
        return completion == ground_truth

    assert [outcome.reward for outcome in judge(grade, CHAT)] == [1, 0]
    assert [outcome.reward for outcome in judge(grade, REQUEST)] == [1, 0]


def test_a_truth_of_another_name_reaches_the_parameter_of_a_trl_function() -> None:
    def grade(completions: Any, solution: Any) -> list[bool]:
        return [c == s for c, s in zip(completions, solution, strict=True)]

    assert [outcome.reward for outcome in judge(grade)] == [1, 0]


def test_async_functions_share_one_event_loop() -> None:
    loops = []

    async def grade(completions: Any, **columns: Any) -> list[float]:
        loops.append(asyncio.get_running_loop())
        await asyncio.sleep(0)
        return [1.0] * len(completions)

    verifier = adapt(grade, "grade")
    outcomes = [*verifier.verify(REQUEST), *verifier.verify(REQUEST)]

    assert [outcome.reward for outcome in outcomes] == [1, 1, 1, 1]
    assert loops[0] is loops[1]
    verifier.runner.close()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([True, 0], [1.0, 0.0]),
        ((0.25, -1.5), [0.25, -1.5]),
        (np.array([1.0, 0.5], dtype=np.float32), [1.0, 0.5]),
        ([np.float64(0.5), np.bool_(True)], [0.5, 1.0]),
        ([np.array(0.5), np.int64(2)], [0.5, 2.0]),
        ([Fraction(1, 2), Decimal("0.25")], [0.5, 0.25]),  # torch.tensor in TRL takes them
    ],
)
def test_numbers_of_every_kind_are_rewards(value: Any, expected: list[float]) -> None:
    outcomes = judge(lambda completions: value)

    assert [outcome.reward for outcome in outcomes] == expected
    assert all(type(outcome.reward) is float for outcome in outcomes)


def test_rewards_that_come_one_by_one_are_a_list_of_rewards() -> None:
    assert [o.reward for o in judge(lambda completions: map(len, completions))] == [1, 1]
    assert [o.reward for o in judge(lambda completions: (0.5 for _ in completions))] == [0.5, 0.5]
    endless = judge(lambda completions: itertools.repeat(1.0))
    assert [outcome.status for outcome in endless] == ["failed", "failed"]


def test_a_class_that_takes_prompts_is_called_as_trl_calls_its_object() -> None:
    class Grade:
        def __call__(self, prompts: Any, completions: Any, **columns: Any) -> list[bool]:
            return [c == a for c, a in zip(completions, columns["answer"], strict=True)]

    assert [outcome.reward for outcome in judge(Grade)] == [1, 0]


def test_a_torch_tensor_is_a_list_of_rewards() -> None:
    torch = pytest.importorskip("torch")

    assert [o.reward for o in judge(lambda completions: torch.tensor([1.0, 0.0]))] == [1, 0]
    assert [o.reward for o in judge(lambda completions: [torch.tensor(1.0), 0])] == [1, 0]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "returned NoneType None, a list of 2 rewards is needed"),
        (0.5, "returned float 0.5, a list"),
        ({"reward": 1}, "returned dict"),
        ([1.0], "returned 1 reward for 2 completions"),
        ([1.0] * 3, "returned 3 rewards for 2 completions"),
        ([float("nan")] * 2, "returned nan, no finite number"),
        ([float("inf")] * 2, "returned inf, no finite number"),
        ([Decimal("NaN")] * 2, "returned nan, no finite number"),
        (["1.0"] * 2, "returned str '1.0', no number"),
        ([[1.0]] * 2, "returned list"),
        ([1j] * 2, "returned complex"),
    ],
)
def test_what_is_no_reward_fails_with_a_reason(value: Any, reason: str) -> None:
    outcomes = judge(lambda completions: value)

    assert [outcome.status for outcome in outcomes] == ["failed", "failed"]
    assert all(reason in str(outcome.reason) for outcome in outcomes)
    assert all(outcome.reward is None for outcome in outcomes)


def test_none_is_not_applicable_and_no_zero() -> None:
    outcomes = judge(lambda completions: [None, 0.0])

    assert [outcome.status for outcome in outcomes] == ["not_applicable", "scored"]


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True) | st.none(), min_size=2, max_size=2))
def test_a_reward_is_scored_exactly_when_it_is_a_finite_number(values: list[float | None]) -> None:
    outcomes = judge(lambda completions: values)

    for value, outcome in zip(values, outcomes, strict=True):
        is_finite = value is not None and np.isfinite(value)
        assert (outcome.status == "scored") is bool(is_finite)
        assert outcome.reward == (value if is_finite else None)


def test_extract_answer_of_the_same_module_gives_the_answer() -> None:
    def grade(completion: str, truth: str) -> bool:
        return completion == truth

    outcomes = adapt(grade, "grade", lambda text: text if text == "4" else None).verify(REQUEST)

    assert [outcome.answer for outcome in outcomes] == ["4", None]


def test_an_extracted_answer_that_is_no_text_fails() -> None:
    outcomes = adapt(lambda completion, truth: 1.0, "grade", len).verify(REQUEST)

    assert [outcome.status for outcome in outcomes] == ["failed", "failed"]


def test_sampled_tokens_reach_a_function_that_names_them() -> None:
    verifier = adapt(lambda completions, completion_ids: [len(x) for x in completion_ids], "grade")
    request = VerificationRequest(prompt="q", completions=["a", "b"], token_ids=[[1], [1, 2]])

    assert verifier.wants_token_ids
    assert [outcome.reward for outcome in verifier.verify(request)] == [1, 2]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x, y: 0, r"not understood \(parameters: x, y\); needed is one of: f\(prompts"),
        (lambda: 0, "parameters: none"),
        (lambda completions, /: 0, "positional-only"),
        (lambda completions, environments: 0, "environments of a TRL run"),
        (int, "a function is needed"),
        ("text", "a function is needed"),
    ],
)
def test_other_signatures_are_refused_naming_the_parameters(function: Any, message: str) -> None:
    with pytest.raises(VerifierError, match=message):
        adapt(function, "grade")


def test_a_parameter_that_nothing_fills_is_a_problem_naming_the_columns() -> None:
    verifier = adapt(lambda completions, tests: [0, 0], "grade")

    assert verifier.problem_with("4", {"answer": "4"}) == (
        "parameter 'tests' is no column; columns: answer"
    )
    assert verifier.problem_with("4", {"tests": "x"}) is None
    plain = adapt(lambda completion, truth: 0, "grade")
    assert "has no truth" in str(plain.problem_with(None, {}))


def test_a_rubric_function_may_name_the_truth_as_its_dataset_does() -> None:
    def grade(completion: Any, ground_truth: Any, state: Any) -> float:
        return float(completion == ground_truth == state["answer"])

    verifier = adapt(grade, "grade")

    assert verifier.dialect == "verifiers"
    assert verifier.problem_with("4", {"answer": "4"}) is None
    assert "no truth" in str(verifier.problem_with(None, {}))
    assert [outcome.reward for outcome in verifier.verify(REQUEST)] == [1, 0]
