"""Notes: what a careful reader must know beside figures that are right as they stand."""

from dataclasses import replace

import numpy as np
import pytest

from mlflow_rlrisk.config import PolicyConfig, SamplingConfig
from mlflow_rlrisk.report import Provenance, summarize
from tests.prompt_statistics import config, prompt, prompts, report_of

TOKENS = "entropy is that of the full softmax"


@pytest.mark.parametrize("truncation", [{"top_p": 0.9}, {"top_k": 20}, {"min_p": 0.1}])
def test_truncated_sampling_is_told_beside_the_entropy_of_the_full_softmax(
    truncation: dict[str, float],
) -> None:
    truncated = report_of(prompts([8] * 60, 16), sampling=SamplingConfig(**truncation))
    full = report_of(prompts([8] * 60, 16))

    ((name, value),) = truncation.items()
    assert any(TOKENS in note and f"{name}={value}," in note for note in truncated.notes)
    assert not any(TOKENS in note for note in full.notes)


def test_a_penalty_is_told_as_what_rl_samples_from_and_trains_without() -> None:
    sampling = SamplingConfig(repetition_penalty=1.2)
    penalised = report_of(prompts([8] * 60, 16), sampling=sampling)
    truncated = report_of(prompts([8] * 60, 16), sampling=SamplingConfig(top_p=0.9))

    assert any(
        "with repetition_penalty=1.2, " in note and f"{TOKENS} without the penalty" in note
        for note in penalised.notes
    )
    assert any("off-policy" in note for note in penalised.notes)
    assert not any("penalty" in note for note in truncated.notes)


@pytest.mark.parametrize(("backend", "is_told"), [("transformers", True), ("replay", False)])
def test_where_logprobs_are_of_what_was_drawn_from_their_mean_is_named(
    backend: str, is_told: bool
) -> None:
    report = summarize(
        prompts([8] * 60, 16),
        config=config(sampling=SamplingConfig(min_p=0.1)),
        policy=PolicyConfig(),
        provenance=Provenance(sampler={"backend": backend}),
    )

    assert any("which sampled_nll estimates" in note for note in report.notes) is is_told


@pytest.mark.parametrize(("dtype", "is_told"), [("bfloat16", True), ("float32", False)])
def test_rounded_logits_are_told(dtype: str, is_told: bool) -> None:
    report = summarize(
        prompts([8] * 60, 16),
        config=config(),
        policy=PolicyConfig(),
        provenance=Provenance(sampler={"logits_dtype": dtype}),
    )

    assert any("rounds its logits" in note for note in report.notes) is is_told


def test_a_signal_that_format_rewards_make_is_told_beside_that_of_correctness() -> None:
    # Nothing is ever correct; half of the rollouts get a format reward of one half.
    noise = [prompt(i, 0, 16, rewards=(0.5,) * 8 + (0.0,) * 8) for i in range(60)]

    report = report_of(noise, success_threshold=1.0)

    note = next(each for each in report.notes if "every difference of rewards" in each)
    signal = report.metrics["rlrisk/group_signal_fraction"].value
    assert signal > 0.99
    assert note.endswith(f"{signal:.2f}; correct or not alone would give 0.00")


def test_rewards_that_are_success_in_other_units_need_no_such_note() -> None:
    rng = np.random.default_rng(0)
    plain = prompts(rng.binomial(16, 0.4, size=60).tolist(), 16)
    signed = [replace(each, rewards=tuple(2 * r - 1 for r in each.rewards)) for each in plain]

    for statistics in (plain, signed):
        report = report_of(statistics, success_threshold=1.0)
        assert not any("every difference of rewards" in note for note in report.notes)
