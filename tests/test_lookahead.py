"""Updates against torch's own gradients, and looks ahead against success that can be computed."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from mlflow_rlrisk.config import LookaheadConfig
from mlflow_rlrisk.errors import (
    ConfigError,
    InsufficientRolloutsError,
    SamplerError,
    StatisticsError,
)
from mlflow_rlrisk.grpo_updates import Answer, make_update, trainable
from mlflow_rlrisk.lookahead import GradedPrompt, look_ahead
from mlflow_rlrisk.teacher_forced import TeacherForcedScorer

WORDS = 12
RUN = LookaheadConfig(learning_rate=0.01, run_steps=40, prompts_per_step=4, steps=4, repeats=1)


def _model(seed: int = 0, **settings: Any) -> Any:
    from transformers import AutoModelForCausalLM, LlamaConfig

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=WORDS,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
        initializer_range=0.2,
        **settings,
    )
    return AutoModelForCausalLM.from_config(config).eval()


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
    model = _model()
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
}
"""Architectures that do something to their logits, or call their head in another way."""


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


def test_answers_that_teach_nothing_count_in_the_mean_and_cost_no_pass() -> None:
    model, whole = _model(), RUN.model_copy(update={"max_grad_norm": 1e9})
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
    model, whole = _model(), RUN.model_copy(update={"max_grad_norm": 1e9})
    answers = _answers(model)
    expected, most, seen = _change(copy.deepcopy(model), answers, whole), 2, []

    def forward(_: Any, __: Any, given: dict[str, Any]) -> None:
        seen.append(len(given["input_ids"]))
        if seen[-1] > most:
            raise torch.OutOfMemoryError("full")

    model.register_forward_pre_hook(forward, with_kwargs=True)
    monkeypatch.setattr("mlflow_rlrisk.grpo_updates.PASS_TOKENS", 16)

    found = _change(model, answers, whole)

    assert seen[0] == 3
    assert max(seen[1:]) <= 2
    for name, each in expected.items():
        torch.testing.assert_close(found[name], each, rtol=1e-4, atol=1e-6)
    most = 0
    with pytest.raises(SamplerError, match="not even with one answer"):
        _change(model, answers, whole)


def test_no_memory_for_the_moments_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)

    def full() -> None:
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(optimizer, "step", full)
    with pytest.raises(SamplerError, match="two moments in float32"):
        make_update(model, optimizer, _answers(model), RUN, temperature=1.0)


def test_a_step_without_any_lesson_still_is_one() -> None:
    """Its momentum goes on, as a trainer's does."""
    model = _model()
    answers = _answers(model)
    idle = [replace(each, advantage=0.0) for each in answers]
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.0)
    make_update(model, optimizer, answers, RUN, temperature=1.0)
    before = {name: each.detach().clone() for name, each in model.named_parameters()}

    make_update(model, optimizer, idle, RUN, temperature=1.0)

    assert any(not torch.equal(each, before[name]) for name, each in model.named_parameters())


def test_a_long_gradient_is_cut_to_the_norm() -> None:
    model = _model()

    change = _change(model, _answers(model), RUN.model_copy(update={"max_grad_norm": 0.01}))

    norm = torch.sqrt(sum((each**2).sum() for each in change.values()))
    assert float(norm) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize(("shift", "advantage"), [(-0.5, 1.0), (0.5, -1.0)])
def test_a_ratio_beyond_the_clip_gives_no_gradient(shift: float, advantage: float) -> None:
    """A ratio of e^.5 cannot rise further for good answers, nor e^-.5 fall further for bad ones."""
    model = _model()
    answers = [replace(each, advantage=advantage) for each in _answers(model, shift)]

    change = _change(model, answers, RUN)

    assert all(not each.any() for each in change.values())


def _graded(model: Any, prompts: list[list[int]], right: list[int], n: int) -> list[GradedPrompt]:
    """One token an answer, drawn from the model; ``right`` is the right one of each prompt."""
    torch.manual_seed(11)
    found = []
    for prompt, wanted in zip(prompts, right, strict=True):
        logits = model(input_ids=torch.tensor([prompt])).logits[0, -1]
        drawn = torch.multinomial(torch.softmax(logits, -1), n, replacement=True).tolist()
        rewards = [float(token == wanted) for token in drawn]
        found.append(
            GradedPrompt(
                prompt_ids=prompt,
                completions=[[token] for token in drawn],
                rewards=rewards,
                correct=[bool(reward) for reward in rewards],
            )
        )
    return found


def _prompts(count: int) -> list[list[int]]:
    rng = np.random.default_rng(2)
    return [rng.integers(1, WORDS, size=4).tolist() for _ in range(count)]


def _success(model: Any, prompts: list[list[int]], right: list[int]) -> np.ndarray:
    """Exact, from the distribution over the next word."""
    with torch.no_grad():
        logs = torch.log_softmax(model(input_ids=torch.tensor(prompts)).logits[:, -1], dim=-1)
    return logs.exp().numpy()[np.arange(len(prompts)), right]


def test_what_is_the_same_for_all_prompts_is_learned_and_seen_on_the_others() -> None:
    model, prompts = _model(), _prompts(24)
    rows = _graded(model, prompts, [5] * 24, 64)

    found = look_ahead(model, rows, RUN, group_size=8, temperature=1.0)

    assert found.closed.low > 0.02
    assert found.pass_at_1[1] > found.pass_at_1[0]
    assert found.reach.value == pytest.approx(10 * found.closed.value)
    assert found.reach.low == pytest.approx(10 * found.closed.low)


def test_what_is_right_for_one_prompt_only_is_no_progress_on_the_others() -> None:
    model, prompts = _model(), _prompts(24)
    right = np.random.default_rng(3).integers(1, WORDS, size=24).tolist()
    common = look_ahead(
        model, _graded(model, prompts, [5] * 24, 64), RUN, group_size=8, temperature=1.0
    )

    own = look_ahead(model, _graded(model, prompts, right, 64), RUN, group_size=8, temperature=1.0)

    assert own.closed.low < 0.02 < common.closed.low
    assert own.closed.value < common.closed.value / 3


def test_the_weights_say_what_the_updated_policy_would_score(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The updated weights are caught before they are put back and asked themselves."""
    import mlflow_rlrisk.lookahead as tried

    model, prompts = _model(), _prompts(40)
    rows, exact = _graded(model, prompts, [5] * 40, 400), []
    put_back = tried._put_back

    def caught(weights: Any, initial: Any) -> None:
        exact.append(_success(model, prompts, [5] * 40))
        put_back(weights, initial)

    monkeypatch.setattr(tried, "_put_back", caught)
    found = look_ahead(model, rows, RUN, group_size=8, temperature=1.0)

    first, second = tried._halves(40, [0, 0])
    after = np.concatenate([exact[0][second], exact[1][first]])
    before = _success(model, prompts, [5] * 40)
    gain = found.pass_at_1[1] - found.pass_at_1[0]
    assert gain == pytest.approx(after.mean() - before.mean(), abs=0.01)
    assert gain > 0.03


def test_the_model_is_as_it_was_also_when_an_update_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow_rlrisk.lookahead as tried

    model, prompts = _model(), _prompts(16)
    rows = _graded(model, prompts, [5] * 16, 32)
    before = {name: each.detach().clone() for name, each in model.named_parameters()}
    look_ahead(model, rows, RUN, group_size=8, temperature=1.0)
    assert all(torch.equal(each, before[name]) for name, each in model.named_parameters())

    calls, update = [], tried.make_update

    def breaks(*args: Any, **kwargs: Any) -> None:
        calls.append(update(*args, **kwargs))
        if len(calls) == 3:
            raise SamplerError("the device is gone")

    monkeypatch.setattr(tried, "make_update", breaks)
    with pytest.raises(SamplerError, match="gone"):
        look_ahead(model, rows, RUN, group_size=8, temperature=1.0)
    assert all(torch.equal(each, before[name]) for name, each in model.named_parameters())
    assert all(each.grad is None for each in model.parameters())


def test_the_same_seed_gives_the_same_figures_and_repeats_average_others() -> None:
    model, prompts = _model(), _prompts(16)
    rows = _graded(model, prompts, [5] * 16, 32)
    ask = {"group_size": 8, "temperature": 1.0}
    thrice = RUN.model_copy(update={"repeats": 3})

    first, again = (look_ahead(model, rows, RUN, seed=1, **ask) for _ in range(2))
    other = look_ahead(model, rows, RUN, seed=2, **ask)
    steps: list[tuple[int, int]] = []
    mean = look_ahead(model, rows, thrice, seed=1, on_step=lambda *at: steps.append(at), **ask)

    assert first == again
    assert other.closed.value != first.closed.value
    assert mean.closed.value != first.closed.value
    done = [each for each, _ in steps]
    assert {total for _, total in steps} == {4 * 16 * 32 + 3 * 6 * 4 * 4 * 8}
    assert done == sorted(done)
    assert done[0] == 32  # the first prompt is scored
    assert done[-1] == steps[-1][1]


def test_an_advantage_is_the_reward_in_standard_deviations_of_its_group() -> None:
    """As TRL has it: the deviation of a sample, and 1e-4 against none at all."""
    import mlflow_rlrisk.lookahead as tried

    model, rewards = _model(), [1.0, 0.0, 0.0, 0.5]
    row = GradedPrompt(
        prompt_ids=[1, 2],
        completions=[[3], [4], [5], [6]],
        rewards=rewards,
        correct=[True, False, False, False],
    )
    scores = TeacherForcedScorer(model).score(tried._pairs(row), temperature=1.0)

    found = [each.advantage for each in tried._group(row, scores, slice(0, 4))]

    expected = (torch.tensor(rewards) - 0.375) / (torch.tensor(rewards).std() + 1e-4)
    assert found == pytest.approx(expected.tolist(), rel=1e-5)


def test_a_collapsed_checkpoint_moves_nowhere() -> None:
    """All rollouts of a prompt are alike, so no group says anything."""
    model, prompts = _model(), _prompts(16)
    rows = [
        GradedPrompt(
            prompt_ids=prompt,
            completions=[[3]] * 16,
            rewards=[float(place < 8)] * 16,
            correct=[place < 8] * 16,
        )
        for place, prompt in enumerate(prompts)
    ]

    found = look_ahead(model, rows, RUN, group_size=8, temperature=1.0)

    assert found.closed.value == pytest.approx(0.0, abs=1e-9)
    assert found.effective_share == pytest.approx(1.0)


def test_what_cannot_be_tried_is_refused() -> None:
    model, prompts = _model(), _prompts(16)
    rows = _graded(model, prompts, [5] * 16, 32)
    ask: dict[str, Any] = {"group_size": 8, "temperature": 1.0}
    worked: list[tuple[int, int]] = []

    with pytest.raises(InsufficientRolloutsError, match="need 160 groups of 8"):
        look_ahead(
            model,
            rows,
            RUN.model_copy(update={"prompts_per_step": 40}),
            on_step=lambda *at: worked.append(at),
            **ask,
        )
    assert not worked  # refused before anything is scored
    with pytest.raises(ConfigError, match="at least 2"):
        look_ahead(model, rows[:1], RUN, **ask)
    with pytest.raises(StatisticsError, match="too few to weigh"):
        look_ahead(model, rows, RUN.model_copy(update={"learning_rate": 1.0}), **ask)
    everything = [replace(row, rewards=[1.0] * 32, correct=[True] * 32) for row in rows]
    with pytest.raises(StatisticsError, match="no gap"):
        look_ahead(model, everything, RUN, **ask)
    with pytest.raises(ConfigError, match="float32"):
        trainable(_model().to(torch.bfloat16))
    with pytest.raises(ConfigError, match="run_steps=4"):
        LookaheadConfig(learning_rate=1e-3, run_steps=4, steps=5)


def test_a_gradient_that_is_not_finite_is_refused() -> None:
    model = _model()
    answers = [replace(each, advantage=float("nan")) for each in _answers(model)]

    with pytest.raises(SamplerError, match="not finite"):
        make_update(
            model, torch.optim.SGD(model.parameters(), lr=1.0), answers, RUN, temperature=1.0
        )
