"""An answer is read field by field; what cannot be what it says is an error, never a guess."""

import copy
import itertools
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlflow_rlrisk.config import SamplingConfig
from mlflow_rlrisk.samplers.endpoint.answers import read_answer
from mlflow_rlrisk.samplers.endpoint.client import AnswerError
from mlflow_rlrisk.samplers.endpoint.logprobs_mode import compare
from mlflow_rlrisk.samplers.endpoint.requests import Phrasing, seed_of

GOOD = {"index": 0, "text": "ab", "finish_reason": "stop", "token_ids": [5, 6]}
TOLD = {"tokens": ["a", "b"], "token_logprobs": [-1.0, -2.0], "top_logprobs": [{"a": -1.0}] * 2}


def _answer(**changes: Any) -> dict[str, Any]:
    return {"choices": [{**GOOD, "logprobs": TOLD, **changes}]}


def test_a_good_answer_is_read() -> None:
    (choice,) = read_answer(_answer(), "completions", 1).choices

    assert choice.token_ids == (5, 6)
    assert [token.logprob for token in choice.tokens or ()] == [-1.0, -2.0]


@pytest.mark.parametrize(
    "raw",
    [
        None,
        [],
        "text",
        {},
        {"choices": None},
        {"choices": []},
        {"choices": ["text"]},
        {"error": {"message": "out of memory"}, "choices": [GOOD]},
        {"choices": [GOOD, GOOD]},
        {"choices": [{**GOOD, "index": 1}]},
        _answer(text=None),
        _answer(finish_reason=None),
        _answer(finish_reason="abort"),
        _answer(finish_reason="content_filter"),
        _answer(token_ids=[]),
        _answer(token_ids=["5", "6"]),
        _answer(token_ids=[5, True]),
        _answer(token_ids=[5, 6, 7]),
        _answer(logprobs={**TOLD, "token_logprobs": [-1.0]}),
        _answer(logprobs={**TOLD, "token_logprobs": [-1.0, None]}),
        _answer(logprobs={**TOLD, "token_logprobs": [-1.0, float("nan")]}),
        _answer(logprobs={**TOLD, "token_logprobs": [-1.0, 0.5]}),
        _answer(logprobs={**TOLD, "top_logprobs": [{"a": "-1"}] * 2}),
        _answer(logprobs=[1]),
    ],
    ids=str,
)
def test_what_cannot_be_is_an_error(raw: Any) -> None:
    with pytest.raises(AnswerError):
        read_answer(raw, "completions", 1)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)


CHAT = {
    "usage": {"completion_tokens": 1},
    "choices": [
        {
            **{"index": 0, "finish_reason": "stop", "message": {"content": "a"}},
            "logprobs": {
                "content": [
                    {
                        **{"token": "a", "logprob": -1.0, "bytes": [97]},
                        "top_logprobs": [{"token": "a", "logprob": -1.0, "bytes": [97]}],
                    }
                ]
            },
        }
    ],
}


def _places(raw: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a JSON value."""
    pairs = raw.items() if isinstance(raw, dict) else enumerate(raw)
    found = [(raw, key) for key, _ in pairs]
    for container, key in list(found):
        if isinstance(container[key], dict | list):
            found += _places(container[key])
    return found


@settings(max_examples=300)
@given(
    source=st.sampled_from([("chat", CHAT), ("completions", _answer())]),
    place=st.integers(0, 40),
    value=_json,
)
def test_whatever_stands_at_any_place_is_read_or_refused(
    source: tuple[str, Any], place: int, value: Any
) -> None:
    api, raw = source[0], copy.deepcopy(source[1])
    places = _places(raw)
    container, key = places[place % len(places)]
    container[key] = value
    try:
        answer = read_answer(raw, api, 1)  # type: ignore[arg-type]
    except AnswerError:
        return

    for choice in answer.choices:
        assert isinstance(choice.text, str)
        for token in choice.tokens or ():
            assert math.isfinite(token.logprob)
            assert all(math.isfinite(value) for _, value in token.top)
            assert dict(token.top) is not None  # keys can be looked up


@given(seed=st.integers(0, 2**62), prompt=st.text(max_size=8), first=st.integers(0, 500))
def test_samples_of_a_prompt_have_seeds_in_a_row(seed: int, prompt: str, first: int) -> None:
    seeds = [seed_of(seed, prompt, first + i) for i in range(64)]

    assert len(set(seeds)) == 64
    assert all((b - a) % 2**31 == 1 for a, b in itertools.pairwise(seeds))


def test_nothing_that_shapes_the_distribution_is_left_to_the_servers_defaults() -> None:
    body = Phrasing(model="m", api="completions", has_extensions=True, num_top=2).sampled(
        [1, 2], SamplingConfig(), 1, 7
    )

    neutral = {"top_k": -1, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}
    assert neutral.items() <= body.items()
    penalised = Phrasing(model="m", api="chat", has_extensions=True).sampled(
        [], SamplingConfig(repetition_penalty=1.3), 1, 7
    )
    assert penalised["repetition_penalty"] == 1.3


def test_a_mode_that_both_explain_stays_unknown() -> None:
    flat = {"a": -1.0, "b": -1.0, "c": -1.01}

    assert compare(flat, flat, SamplingConfig(temperature=0.9)) == "unknown"
    assert compare({"a": -0.1}, {"a": -0.1}, SamplingConfig(temperature=0.5)) == "unknown"
    steep = {"a": -0.5, "b": -2.0, "c": -4.0}
    assert compare(steep, steep, SamplingConfig(temperature=0.5)) == "raw"
    shaped = {"a": -0.1, "b": -3.1, "c": -7.1}
    assert compare(steep, shaped, SamplingConfig(temperature=0.5)) == "processed"
