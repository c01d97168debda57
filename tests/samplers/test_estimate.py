"""The time estimate before sampling: it costs little and changes nothing."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mlflow_rlrisk.config import AssessmentConfig, SamplingConfig
from mlflow_rlrisk.records import Prompt
from mlflow_rlrisk.samplers import transformers as module
from mlflow_rlrisk.samplers.transformers import TransformersSampler
from tests.tiny_models import write_llama

PROMPTS = [Prompt(id=f"p{i}", content="1 + 2 = 3; " * (1 + i % 3)) for i in range(6)]


@pytest.fixture
def sampler(tmp_path: Path) -> TransformersSampler:
    sampling = SamplingConfig(num_samples=4, max_new_tokens=32)
    config = AssessmentConfig(sampling=sampling, batch_size=8, device="cpu")
    return TransformersSampler(write_llama(tmp_path), config)


def _tokens(sampler: TransformersSampler, prompts: Sequence[Prompt]) -> dict[Any, bytes]:
    return {
        (rollout.prompt_id, rollout.sample_index): rollout.token_ids.tobytes()
        for group in sampler.sample(prompts)
        for rollout in group.rollouts
    }


def _count(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> list[Any]:
    calls: list[Any] = []
    method = getattr(owner, name)

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        return method(*args, **kwargs)

    monkeypatch.setattr(owner, name, counted)
    return calls


def test_an_estimate_changes_no_rollout(sampler: TransformersSampler) -> None:
    without = _tokens(sampler, PROMPTS)

    seconds = sampler.estimate_s(PROMPTS)

    assert seconds is not None
    assert seconds > 0
    assert _tokens(sampler, PROMPTS) == without


def test_the_estimate_encodes_for_the_sampling_that_follows(
    sampler: TransformersSampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = _count(monkeypatch, sampler._encoder, "encode")

    sampler.estimate_s(PROMPTS)
    _tokens(sampler, tuple(PROMPTS))

    assert len(calls) == 1


def test_other_prompts_are_encoded_anew(sampler: TransformersSampler) -> None:
    # The same number of prompts under the same ids, so that only their text tells them apart.
    others = [Prompt(id=prompt.id, content="7 * 7 =") for prompt in PROMPTS]

    before = _tokens(sampler, PROMPTS)
    after = _tokens(sampler, others)

    assert before.keys() == after.keys()
    assert before != after
    assert _tokens(sampler, PROMPTS) == before


@pytest.mark.parametrize(("limit_s", "num_forwards"), [(0.0, 2), (60.0, 9)])
def test_a_slow_model_is_timed_for_one_step_and_a_fast_one_for_eight(
    sampler: TransformersSampler,
    monkeypatch: pytest.MonkeyPatch,
    limit_s: float,
    num_forwards: int,
) -> None:
    monkeypatch.setattr(module, "ESTIMATE_S", limit_s)
    sampler._decoder._stop_ids = sampler._decoder._stop_ids[:0]  # no row ends early
    calls = _count(monkeypatch, sampler._decoder, "_forward")

    sampler.estimate_s(PROMPTS)

    assert len(calls) == num_forwards
