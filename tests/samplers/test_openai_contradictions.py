"""Answers that a checkpoint's own model cannot have given, or that leave a text out, are refused.

Each of them would have been graded as it came: cut short, empty, or with words that no tokenizer
knows left out, and a risk level drawn from that.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mlflow_rlrisk.config import AssessmentConfig, SamplingConfig
from mlflow_rlrisk.errors import SamplerError
from mlflow_rlrisk.records import Message, Prompt, Rollout
from mlflow_rlrisk.samplers.endpoint.answers import read_answer
from mlflow_rlrisk.samplers.endpoint.client import AnswerError
from mlflow_rlrisk.samplers.openai import OpenAISampler
from tests.samplers.toy_endpoint import ToyModel, served, write_checkpoint

PROMPTS = [Prompt(id=f"p{i}", content=f"{i} + {i} = ") for i in range(6)]
CHATS = [Prompt(id=f"c{i}", content=(Message(role="user", content=f"{i}?"),)) for i in range(3)]
MAX_NEW_TOKENS = 12
NAMED = "endpoint:toy"

Choice = dict[str, Any]


@dataclass
class TwistedModel(ToyModel):
    """Tells every choice otherwise than it was drawn."""

    stop_bias: float = 2.0  # most answers end
    twist: Callable[[Choice], None] = lambda choice: None

    def answer(self, api: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = super().answer(api, body)
        for choice in answer["choices"]:
            self.twist(choice)
        return answer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("served"), ToyModel())


def _sampled(
    model: ToyModel, source: Path | str, prompts: list[Prompt] = PROMPTS, **options: Any
) -> list[Rollout]:
    with served(model) as url:
        config = AssessmentConfig(
            sampling=SamplingConfig(num_samples=4, max_new_tokens=MAX_NEW_TOKENS),
            backend="openai",
            backend_options={
                **{"base_url": url, "model": "toy", "max_backoff_s": 0.01, "max_retries": 1},
                **options,
            },
        )
        sampler = OpenAISampler(source, config)
        try:
            return [each for group in sampler.sample(prompts) for each in group.rollouts]
        finally:
            sampler.close()


def _without_last_token(choice: Choice) -> None:
    choice["token_ids"] = choice["token_ids"][:-1]
    for name, values in choice["logprobs"].items():
        choice["logprobs"][name] = values[:-1]


def _without_stop_token(choice: Choice) -> None:
    if choice["finish_reason"] == "stop" and len(choice["token_ids"]) > 1:
        _without_last_token(choice)


def _thrice(choice: Choice) -> None:
    choice["token_ids"] = choice["token_ids"] * 3
    for name, values in choice["logprobs"].items():
        choice["logprobs"][name] = values * 3


def _other_ids(choice: Choice) -> None:
    *tokens, last = choice["token_ids"]
    choice["token_ids"] = [*((token + 7) % 60 for token in tokens), last]


@pytest.mark.parametrize("options", [{}, {"check_weights": True}])
def test_a_model_with_more_words_is_another_one(folder: Path, options: dict[str, Any]) -> None:
    # A tokenizer drops ids that it does not have: the answers came back without those words.
    other = ToyModel(spare_words=4000)
    other.table[:, other.num_words :] += 60.0
    size = ToyModel().vocab_size

    with pytest.raises(SamplerError, match=rf"token \d+, the model has {size}: another model is"):
        _sampled(other, folder, **options)


def test_a_word_of_the_head_that_the_tokenizer_lacks_is_one_of_the_models(folder: Path) -> None:
    padded = ToyModel()
    padded.table[:, padded.num_words :] += 60.0

    rollouts = _sampled(padded, folder)

    highest = max(int(rollout.token_ids.max()) for rollout in rollouts)
    assert padded.num_words <= highest < padded.vocab_size


def test_a_stopped_answer_without_its_stop_token_loses_no_other_one(folder: Path) -> None:
    model = TwistedModel(twist=_without_stop_token)

    with pytest.raises(SamplerError, match=r"none of the stop tokens \[2\]: token_ids must end"):
        _sampled(model, folder)


def test_a_model_known_by_name_only_has_stop_tokens_that_nobody_can_check() -> None:
    whole = _sampled(TwistedModel(), NAMED)
    cut = _sampled(TwistedModel(twist=_without_stop_token), NAMED)

    # The text is the endpoint's own, and nothing is taken off it.
    assert _texts(whole) == _texts(cut)


def _texts(rollouts: list[Rollout]) -> dict[tuple[str, int], str]:
    return {(each.prompt_id, each.sample_index): each.completion for each in rollouts}


@pytest.mark.parametrize("is_named", [False, True])
def test_an_answer_longer_than_the_limit_is_refused(folder: Path, is_named: bool) -> None:
    model = TwistedModel(stop_bias=0.0, twist=_thrice)

    with pytest.raises(SamplerError, match=rf"\d+ tokens where max_new_tokens={MAX_NEW_TOKENS}"):
        _sampled(model, NAMED if is_named else folder)


@pytest.mark.parametrize("is_named", [False, True])
def test_ids_of_other_tokens_than_the_logprobs_are_of_are_refused(
    folder: Path, is_named: bool
) -> None:
    model = TwistedModel(twist=_other_ids)

    with pytest.raises(
        SamplerError, match=r"token id \d+ where the logprobs are those of token_id"
    ):
        _sampled(model, NAMED if is_named else folder)


@pytest.mark.parametrize("api", ["completions", "chat"])
@pytest.mark.parametrize("token", [-1, 2**31, 2**70])
def test_what_no_vocabulary_has_is_no_token_id(api: Any, token: int) -> None:
    choice = {"text": "a", "message": {"content": "a"}, "finish_reason": "stop"}

    with pytest.raises(AnswerError, match="token_ids that are no ids, 0 to 2147483647"):
        read_answer({"choices": [{**choice, "token_ids": [5, token]}]}, api, 1)


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", "refusal", "tool_calls"])
def test_a_text_that_stands_elsewhere_is_no_empty_answer(field: str) -> None:
    def moved(choice: Choice) -> None:
        choice["message"] = {"content": None, field: choice["message"]["content"] or "a"}

    model = TwistedModel(is_vllm=False, apis=("chat",), twist=moved)

    with pytest.raises(SamplerError, match=rf"content is null .* stands {field}: "):
        _sampled(model, NAMED, CHATS)


EMPTY = {"message": {"content": None}, "finish_reason": "stop"}
ONE = {"content": [{"token": "</s>", "logprob": -0.1}]}
TWO = {"content": ONE["content"] * 2}


@pytest.mark.parametrize(
    ("told", "charged"),
    [
        ({"logprobs": ONE}, None),
        ({"logprobs": {"content": []}}, None),
        ({"token_ids": [2]}, None),
        ({}, 1),
        ({}, 0),
    ],
)
def test_null_content_of_a_stop_token_alone_is_an_empty_answer(
    told: dict[str, Any], charged: int | None
) -> None:
    raw = {"choices": [{**EMPTY, **told}], "usage": {"completion_tokens": charged}}

    (choice,) = read_answer(raw, "chat", 1).choices

    assert choice.text == ""


@pytest.mark.parametrize(
    ("told", "charged"),
    [({"logprobs": TWO}, None), ({"token_ids": [5, 2]}, 1), ({"logprobs": ONE}, 9), ({}, None)],
)
def test_null_content_of_more_tokens_or_of_untold_ones_is_an_error(
    told: dict[str, Any], charged: int | None
) -> None:
    raw = {"choices": [{**EMPTY, **told}], "usage": {"completion_tokens": charged}}

    with pytest.raises(AnswerError, match=r"content is null .* beside it stands nothing"):
        read_answer(raw, "chat", 1)


def test_a_charge_for_several_choices_says_nothing_of_one_without_content() -> None:
    full = {"message": {"content": "a"}, "finish_reason": "stop"}
    raw = {"choices": [{**EMPTY, "index": 0}, {**full, "index": 1}]}

    with pytest.raises(AnswerError, match="a length that is not told"):
        read_answer({**raw, "usage": {"completion_tokens": 1}}, "chat", 2)
