import math

import numpy as np
import pytest
import torch
from scipy import stats
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from mlflow_rlrisk.config import SamplingConfig
from mlflow_rlrisk.samplers.random_streams import uniforms
from mlflow_rlrisk.samplers.token_choice import TokenChooser


def _chooser(vocab_size: int, **settings: float) -> TokenChooser:
    return TokenChooser(vocab_size, SamplingConfig(**settings))  # type: ignore[arg-type]


def _reference(
    logits: torch.Tensor, *, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0
) -> torch.Tensor:
    """The truncated distribution word by word, in float64: sort, cut, renormalise."""
    probabilities = torch.softmax(logits.double(), dim=-1)
    for row in probabilities:
        order = row.argsort(descending=True, stable=True)
        if top_k:
            row[order[top_k:]] = 0.0
            row /= row.sum()
        before = 0.0
        cut = False
        for word in order.tolist():
            cut = cut or before >= top_p
            before += row[word].item()
            if cut:
                row[word] = 0.0
        row[row < min_p * row.max()] = 0.0
        row /= row.sum()
    return probabilities


@pytest.mark.parametrize(
    ("vocab_size", "settings"),
    [(7, {}), (257, {}), (2048, {}), (50, {"top_k": 9}), (50, {"top_p": 0.8}),
     (50, {"top_k": 20, "top_p": 0.7}), (50, {"min_p": 0.2}), (50, {"min_p": 0.2, "top_p": 0.8})],
)  # fmt: skip
def test_the_words_are_drawn_with_their_probabilities(
    vocab_size: int, settings: dict[str, float]
) -> None:
    num_draws = 200_000
    logits = 1.5 * torch.randn(1, vocab_size, generator=torch.Generator().manual_seed(1))
    expected = _reference(logits, **settings)[0].numpy()  # type: ignore[arg-type]
    rng = np.random.default_rng(5)
    chooser = _chooser(vocab_size, **settings)

    counts = np.zeros(vocab_size)
    for _ in range(num_draws // 10_000):
        draws = torch.from_numpy(rng.random(10_000))
        tokens = chooser.choose(logits.repeat(10_000, 1), draws).tokens
        counts += np.bincount(tokens.numpy(), minlength=vocab_size)

    assert counts[expected == 0].sum() == 0
    possible = expected > 0
    test = stats.chisquare(counts[possible], num_draws * expected[possible])
    assert test.pvalue > 1e-4


@pytest.mark.parametrize("settings", [{}, {"top_k": 5}, {"top_p": 0.6}, {"min_p": 0.1}])
def test_logprobs_are_those_of_the_sampling_distribution_and_entropy_of_the_full_one(
    settings: dict[str, float],
) -> None:
    logits = 3 * torch.randn(64, 301, generator=torch.Generator().manual_seed(2))
    draws = torch.from_numpy(np.random.default_rng(0).random(64))
    full = torch.log_softmax(logits.double(), dim=-1)

    choice = _chooser(301, **settings).choose(logits.clone(), draws)

    expected = _reference(logits, **settings).log()  # type: ignore[arg-type]
    sampled = expected.gather(1, choice.tokens[:, None])[:, 0]
    assert torch.allclose(choice.logprobs.double(), sampled, atol=1e-5)
    assert torch.allclose(choice.entropies.double(), -(full.exp() * full).sum(-1), atol=1e-5)


@pytest.mark.parametrize("settings", [{"min_p": 0.05}, {"min_p": 0.3, "top_p": 0.7, "top_k": 40}])
def test_what_is_cut_is_what_transformers_generate_cuts(settings: dict[str, float]) -> None:
    logits = 2 * torch.randn(500, 60, generator=torch.Generator().manual_seed(4)) / 0.8
    warpers = LogitsProcessorList()
    if "top_k" in settings:
        warpers += [TopKLogitsWarper(int(settings["top_k"])), TopPLogitsWarper(settings["top_p"])]
    warpers.append(MinPLogitsWarper(settings["min_p"]))
    expected = warpers(torch.zeros(500, 1), logits).log_softmax(-1)
    draws = torch.from_numpy(np.random.default_rng(3).random(500))

    choice = _chooser(60, **settings).choose(logits.clone(), draws)

    sampled = expected.gather(1, choice.tokens[:, None])[:, 0]
    assert torch.allclose(choice.logprobs, sampled, atol=1e-5)  # -inf where it was cut away


@pytest.mark.parametrize("vocab_size", [2, 16, 17, 1000, 151_936])
def test_equal_logits_have_the_entropy_of_the_uniform_distribution(vocab_size: int) -> None:
    choice = _chooser(vocab_size).choose(torch.full((3, vocab_size), 4.2), torch.rand(3).double())

    assert choice.entropies.numpy() == pytest.approx(math.log(vocab_size), abs=1e-5)
    assert choice.logprobs.numpy() == pytest.approx(-math.log(vocab_size), abs=1e-5)


def test_a_dominant_logit_gives_zero_and_never_a_negative_entropy() -> None:
    logits = torch.zeros(4, 5000)
    logits[:, 17] = 200.0

    choice = _chooser(5000).choose(logits, torch.tensor([0.0, 0.3, 0.9, 1 - 2**-53]).double())

    assert choice.tokens.tolist() == [17] * 4
    assert (choice.entropies >= 0).all()
    assert choice.entropies.max() < 1e-6
    assert (choice.logprobs <= 0).all()


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-53])
def test_the_ends_of_the_random_interval_hit_words_that_have_mass(uniform: float) -> None:
    # The first and the last words have none: an inverse CDF off by one would return them.
    logits = torch.full((1, 300), -200.0)
    logits[0, 100:110] = 1.0

    choice = _chooser(300).choose(logits, torch.tensor([uniform]).double())

    assert choice.tokens.item() == (100 if uniform == 0 else 109)


def test_large_vocabularies_keep_entropies_within_a_hundred_thousandth_nat() -> None:
    logits = 4 * torch.randn(16, 151_936, generator=torch.Generator().manual_seed(0))
    full = torch.log_softmax(logits.double() / 0.7, dim=-1)

    choice = _chooser(151_936, temperature=0.7).choose(logits, torch.rand(16).double())

    sampled = full.gather(1, choice.tokens[:, None])[:, 0]
    assert (choice.entropies - -(full.exp() * full).sum(-1)).abs().max() < 1e-5
    assert (choice.logprobs - sampled).abs().max() < 1e-5


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_one_logit_that_is_not_finite_shows_in_the_entropy_of_its_row_only(poison: float) -> None:
    logits = torch.randn(3, 100)
    logits[1, 40] = poison

    choice = _chooser(100).choose(logits, torch.rand(3).double())

    assert choice.entropies.isfinite().tolist() == [True, False, True]


def test_a_row_is_chosen_alike_alone_and_among_others() -> None:
    logits = torch.randn(32, 777, generator=torch.Generator().manual_seed(3))
    draws = torch.from_numpy(np.random.default_rng(3).random(32))
    together = _chooser(777).choose(logits.clone(), draws)

    for row in range(32):
        alone = _chooser(777).choose(logits[row : row + 1].clone(), draws[row : row + 1])
        assert alone.tokens[0] == together.tokens[row]


def test_streams_are_uniform_and_differ_by_seed_prompt_and_sample() -> None:
    streams = [
        uniforms(seed, prompt, sample, 2000)
        for seed in (0, 1)
        for prompt in ("a", "b")
        for sample in (0, 1)
    ]

    assert stats.kstest(np.concatenate(streams), "uniform").pvalue > 1e-4
    correlations = np.corrcoef(streams)[np.triu_indices(len(streams), 1)]
    assert np.abs(correlations).max() < 0.1


def test_a_longer_stream_begins_with_the_shorter_one_and_stays_what_it_was() -> None:
    # Fixed values: another NumPy must not change what a seed means.
    assert uniforms(0, "p", 3, 8)[:3].tolist() == uniforms(0, "p", 3, 3).tolist()
    assert uniforms(0, "p", 3, 2).tolist() == [0.47544672543119026, 0.6532519133677857]
