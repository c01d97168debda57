"""Updates against torch's own gradients of each architecture's own logits."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from mlflow_rlrisk.config import LookaheadConfig
from mlflow_rlrisk.errors import ConfigError, SamplerError
from mlflow_rlrisk.lookahead.grpo_updates import Answer, make_update, trainable
from tests.untrained import WORDS, untrained_llama

RUN = LookaheadConfig(learning_rate=0.01, run_steps=40, prompts_per_step=4, steps=4, repeats=2)


def _logprobs(
    model: Any, prompt: Sequence[int], completion: Sequence[int], temperature: float = 1.0
) -> torch.Tensor:
    """One sequence at a time, no padding."""
    ids = torch.tensor([[*prompt, *completion]])
    logs = torch.log_softmax(model(input_ids=ids).logits[0].float() / temperature, dim=-1)
    return logs[len(prompt) - 1 : -1].gather(1, ids[0, len(prompt) :, None])[:, 0]


def _answers(model: Any, shift: float = 0.0, temperature: float = 1.0) -> list[Answer]:
    """Prompts and completions of different lengths."""
    rows = [([1, 2, 3], [4, 5], 1.5), ([6], [7, 8, 9], -0.5), ([2, 2], [3], -1.0)]
    return [
        Answer(
            prompt_ids=prompt,
            completion=completion,
            advantage=advantage,
            old_logprobs=_logprobs(model, prompt, completion, temperature).detach().numpy() + shift,
        )
        for prompt, completion, advantage in rows
    ]


def _change(
    model: Any, answers: list[Answer], settings: LookaheadConfig, temperature: float = 1.0
) -> dict[str, Any]:
    """What one step of plain descent at rate 1 takes away from the weights: the gradient."""
    before = {name: each.detach().clone() for name, each in model.named_parameters()}
    descent = torch.optim.SGD(model.parameters(), lr=1.0)
    make_update(model, descent, answers, settings, temperature=temperature)
    return {name: before[name] - each.detach() for name, each in model.named_parameters()}


@pytest.mark.parametrize("temperature", [1.0, 0.6, 2.0])
def test_the_first_update_follows_the_policy_gradient(temperature: float) -> None:
    model = untrained_llama()
    answers = _answers(model, temperature=temperature)
    reference = copy.deepcopy(model)
    total = sum(
        each.advantage * _logprobs(reference, each.prompt_ids, each.completion, temperature).sum()
        for each in answers
    )
    (-total / 6).backward()  # six tokens in all

    whole = RUN.model_copy(update={"max_grad_norm": 1e9})
    change = _change(model, answers, whole, temperature)

    for name, each in reference.named_parameters():
        torch.testing.assert_close(change[name], each.grad, rtol=1e-4, atol=1e-6)


SIZES = {"vocab_size": WORDS, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
HEADS: dict[str, dict[str, Any]] = {
    "gpt2": {"vocab_size": WORDS, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32},
    "phi": {**SIZES, "intermediate_size": 32},  # its head has a bias
    "cohere": {**SIZES, "intermediate_size": 32, "logit_scale": 0.25},
    "gemma2": {
        **SIZES,
        "intermediate_size": 32,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "final_logit_softcapping": 0.5,
    },
    "opt": {**SIZES, "ffn_dim": 32, "word_embed_proj_dim": 16, "max_position_embeddings": 32},
    "phi3": {  # turns all positions of a pass otherwise where its longest row has over four tokens
        **SIZES,
        "intermediate_size": 32,
        "pad_token_id": 0,
        "original_max_position_embeddings": 4,
        "rope_parameters": {
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "short_factor": [1.0] * 4,
            "long_factor": [8.0, 6.0, 4.0, 2.0],
        },
    },
}
"""Architectures whose logits, head or positions are unlike Llama's."""


@pytest.mark.parametrize("kind", HEADS)
def test_the_gradient_is_that_of_the_architectures_own_logits(kind: str) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(3)
    config = AutoConfig.for_model(kind, initializer_range=0.2, **HEADS[kind])
    model = AutoModelForCausalLM.from_config(config).eval()
    answers, reference = _answers(model, temperature=0.7), copy.deepcopy(model)
    total = sum(
        each.advantage * _logprobs(reference, each.prompt_ids, each.completion, 0.7).sum()
        for each in answers
    )
    (-total / 6).backward()

    change = _change(model, answers, RUN.model_copy(update={"max_grad_norm": 1e9}), 0.7)

    for name, each in reference.named_parameters():
        grad = torch.zeros_like(each) if each.grad is None else each.grad
        torch.testing.assert_close(change[name], grad, rtol=1e-4, atol=1e-6)


def _another_kind_of_head(model: Any) -> None:
    class Head(torch.nn.Linear):
        """As a quantized one is: what its weights mean is its own affair."""

    model.lm_head.__class__ = Head


def _a_head_that_is_not_called(model: Any) -> None:
    class Owner(type(model)):  # type: ignore[misc]
        def forward(self, **given: Any) -> Any:
            states = self.model(**given).last_hidden_state
            return SimpleNamespace(logits=states @ self.lm_head.weight.T)

    model.__class__ = Owner


@pytest.mark.parametrize("change_head", [_another_kind_of_head, _a_head_that_is_not_called])
def test_a_head_that_cannot_be_replaced_gives_the_same_gradient(
    change_head: Callable[[Any], None],
) -> None:
    model, whole = untrained_llama(), RUN.model_copy(update={"max_grad_norm": 1e9})
    answers, other = _answers(model), copy.deepcopy(model)
    change_head(other)

    for given in (answers, answers[:1]):
        expected, found = (_change(copy.deepcopy(each), given, whole) for each in (model, other))
        for name, each in expected.items():
            torch.testing.assert_close(found[name], each, rtol=1e-4, atol=1e-6)


def test_answers_that_teach_nothing_count_in_the_mean_and_cost_no_pass() -> None:
    model, whole = untrained_llama(), RUN.model_copy(update={"max_grad_norm": 1e9})
    answers = _answers(model)
    idle = replace(answers[1], completion=[1] * 6, advantage=0.0, old_logprobs=np.zeros(6))
    alone, seen = _change(copy.deepcopy(model), answers, whole), []
    model.register_forward_pre_hook(
        lambda _, __, given: seen.append(len(given["input_ids"])), with_kwargs=True
    )

    beside = _change(model, [*answers, idle], whole)

    assert seen == [3]
    for name, each in alone.items():
        torch.testing.assert_close(beside[name], each / 2, rtol=1e-4, atol=1e-7)


def test_passes_that_do_not_fit_in_memory_are_made_shorter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, whole = untrained_llama(), RUN.model_copy(update={"max_grad_norm": 1e9})
    answers = _answers(model)
    expected, most, seen = _change(copy.deepcopy(model), answers, whole), 2, []

    def forward(_: Any, __: Any, given: dict[str, Any]) -> None:
        seen.append(len(given["input_ids"]))
        if seen[-1] > most:
            raise torch.OutOfMemoryError("full")

    model.register_forward_pre_hook(forward, with_kwargs=True)
    monkeypatch.setattr("mlflow_rlrisk.lookahead.grpo_updates.PASS_TOKENS", 16)

    found = _change(model, answers, whole)

    assert seen[0] == 3
    assert max(seen[1:]) <= 2
    for name, each in expected.items():
        torch.testing.assert_close(found[name], each, rtol=1e-4, atol=1e-6)
    most = 0
    with pytest.raises(SamplerError, match="not even with one answer"):
        _change(model, answers, whole)


def test_no_memory_for_the_moments_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    model = untrained_llama()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)

    def full() -> None:
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(optimizer, "step", full)
    with pytest.raises(SamplerError, match="two moments in float32"):
        make_update(model, optimizer, _answers(model), RUN, temperature=1.0)


def test_a_step_without_any_lesson_still_is_one() -> None:
    """Its momentum goes on, as a trainer's does."""
    model = untrained_llama()
    answers = _answers(model)
    idle = [replace(each, advantage=0.0) for each in answers]
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.0)
    make_update(model, optimizer, answers, RUN, temperature=1.0)
    before = {name: each.detach().clone() for name, each in model.named_parameters()}

    make_update(model, optimizer, idle, RUN, temperature=1.0)

    assert any(not torch.equal(each, before[name]) for name, each in model.named_parameters())


def test_a_long_gradient_is_cut_to_the_norm() -> None:
    model = untrained_llama()

    change = _change(model, _answers(model), RUN.model_copy(update={"max_grad_norm": 0.01}))

    norm = torch.sqrt(sum((each**2).sum() for each in change.values()))
    assert float(norm) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize(("shift", "advantage"), [(-0.5, 1.0), (0.5, -1.0)])
def test_a_ratio_beyond_the_clip_gives_no_gradient(shift: float, advantage: float) -> None:
    """A ratio of e^.5 cannot rise further for good answers, nor e^-.5 fall further for bad ones."""
    model = untrained_llama()
    answers = [replace(each, advantage=advantage) for each in _answers(model, shift)]

    change = _change(model, answers, RUN)

    assert all(not each.any() for each in change.values())


def test_a_gradient_that_is_not_finite_is_refused() -> None:
    model = untrained_llama()
    answers = [replace(each, advantage=float("nan")) for each in _answers(model)]

    with pytest.raises(SamplerError, match="not finite"):
        make_update(
            model, torch.optim.SGD(model.parameters(), lr=1.0), answers, RUN, temperature=1.0
        )


def test_weights_that_a_small_rate_would_not_change_are_refused() -> None:
    with pytest.raises(ConfigError, match="float32"):
        trainable(untrained_llama().to(torch.bfloat16))
