"""Looks ahead against success that can be computed."""

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
from mlflow_rlrisk.forward.teacher_forced import TeacherForcedScorer
from mlflow_rlrisk.lookahead import GradedPrompt, look_ahead
from tests.untrained import WORDS, untrained_llama

RUN = LookaheadConfig(learning_rate=0.01, run_steps=40, prompts_per_step=4, steps=4, repeats=2)


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
    model, prompts = untrained_llama(), _prompts(24)
    rows = _graded(model, prompts, [5] * 24, 64)

    found = look_ahead(model, rows, RUN, group_size=8, temperature=1.0)

    assert found.closed.low > 0.02
    assert found.pass_at_1[1] > found.pass_at_1[0]
    assert found.reach.value == pytest.approx(10 * found.closed.value)
    assert found.reach.low == pytest.approx(10 * found.closed.low)


def test_what_is_right_for_one_prompt_only_is_no_progress_on_the_others() -> None:
    model, prompts = untrained_llama(), _prompts(24)
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
    import mlflow_rlrisk.lookahead.first_updates as tried

    model, prompts = untrained_llama(), _prompts(40)
    rows, exact = _graded(model, prompts, [5] * 40, 400), []
    put_back = tried._put_back

    def caught(weights: Any, initial: Any) -> None:
        exact.append(_success(model, prompts, [5] * 40))
        put_back(weights, initial)

    monkeypatch.setattr(tried, "_put_back", caught)
    found = look_ahead(model, rows, RUN, group_size=8, temperature=1.0)

    after = []
    for turn in range(RUN.repeats):
        first, second = tried._halves(40, [0, turn])
        after += [*exact[2 * turn][second], *exact[2 * turn + 1][first]]
    before = _success(model, prompts, [5] * 40)
    gain = found.pass_at_1[1] - found.pass_at_1[0]
    assert gain == pytest.approx(np.mean(after) - before.mean(), abs=0.01)
    assert gain > 0.03


def test_the_model_is_as_it_was_also_when_an_update_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow_rlrisk.lookahead.first_updates as tried

    model, prompts = untrained_llama(), _prompts(16)
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
    model, prompts = untrained_llama(), _prompts(16)
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
    import mlflow_rlrisk.lookahead.first_updates as tried

    model, rewards = untrained_llama(), [1.0, 0.0, 0.0, 0.5]
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
    model, prompts = untrained_llama(), _prompts(16)
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
    model, prompts = untrained_llama(), _prompts(16)
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
    with pytest.raises(ConfigError, match="run_steps=4"):
        LookaheadConfig(learning_rate=1e-3, run_steps=4, steps=5)
