import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mlflow_rlrisk.errors import ConfigError, SamplerError
from mlflow_rlrisk.kernels import fused_head, token_statistics

TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 1e-4, torch.float16: 1e-4}
"""Nats, against float64."""


def operands(
    tokens: int, width: int, words: int, *, dtype: torch.dtype = torch.float32, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gaussian operands whose logits have a standard deviation of 4."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(tokens, width, generator=generator)
    weight = torch.randn(words, width, generator=generator) * (4.0 / math.sqrt(width))
    targets = torch.randint(words, (tokens,), generator=generator)
    return hidden.to(dtype), weight.to(dtype), targets


def float64_logits(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return hidden.double() @ weight.double().T


def float64_statistics(
    logits: torch.Tensor, targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log probabilities and entropies by the textbook formula on the whole matrix."""
    log_probs = torch.log_softmax(logits, dim=1)
    entropies = -torch.special.xlogy(log_probs.exp(), log_probs.exp()).sum(dim=1)
    return log_probs.gather(1, targets[:, None])[:, 0], entropies


def assert_close(found: Any, expected: tuple[torch.Tensor, torch.Tensor], tolerance: float) -> None:
    pairs = zip((found.logprobs, found.entropies), expected, strict=True)
    for values, exact in pairs:
        assert values.dtype == torch.float32
        torch.testing.assert_close(values.double(), exact, atol=tolerance, rtol=0.0)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("is_compiled", [False, True])
def test_a_large_vocabulary_agrees_with_float64(dtype: torch.dtype, is_compiled: bool) -> None:
    hidden, weight, targets = operands(40, 64, 50_021, dtype=dtype)

    found = token_statistics(hidden, weight, targets, is_compiled=is_compiled)

    expected = float64_statistics(float64_logits(hidden, weight), targets)
    assert_close(found, expected, TOLERANCE[dtype])


@pytest.mark.parametrize("tokens", [1, 2, 1023, 1024, 1025, 2060])
@pytest.mark.parametrize("words", [1, 2, 1023, 1025, 2047, 2048, 2049, 4097])
def test_no_token_or_word_is_lost_at_a_border_of_the_tiles(tokens: int, words: int) -> None:
    hidden, weight, targets = operands(tokens, 8, words)
    targets[0], targets[-1] = 0, words - 1

    found = token_statistics(hidden, weight, targets)

    assert_close(found, float64_statistics(float64_logits(hidden, weight), targets), 2e-5)


@pytest.mark.parametrize("is_compiled", [False, True])
def test_bias_scale_softcap_and_temperature_apply_in_that_order(is_compiled: bool) -> None:
    hidden, weight, targets = operands(20, 16, 3001)
    bias = torch.linspace(-2, 2, 3001)

    found = token_statistics(
        hidden,
        weight,
        targets,
        bias=bias,
        scale=0.5,
        softcap=3.0,
        temperature=0.7,
        is_compiled=is_compiled,
    )

    logits = 0.5 * (float64_logits(hidden, weight) + bias.double())
    capped = 3.0 * torch.tanh(logits / 3.0) / 0.7
    assert_close(found, float64_statistics(capped, targets), 2e-5)


@pytest.mark.parametrize("is_compiled", [False, True])
def test_masked_words_have_no_mass_even_where_a_whole_tile_is_masked(is_compiled: bool) -> None:
    hidden, weight, targets = operands(7, 16, 5000)
    bias = torch.zeros(5000)
    bias[:2500] = -torch.inf
    targets = targets % 2500 + 2500
    targets[0] = 3

    found = token_statistics(hidden, weight, targets, bias=bias, is_compiled=is_compiled)

    expected = float64_statistics(float64_logits(hidden, weight) + bias.double(), targets)
    assert_close(found, expected, 2e-5)
    assert found.logprobs[0] == -torch.inf


def test_padding_of_the_vocabulary_gets_no_mass() -> None:
    hidden, weight, targets = operands(9, 16, 3000)
    targets %= 2900

    found = token_statistics(hidden, weight, targets, vocab_size=2900)

    expected = float64_statistics(float64_logits(hidden, weight[:2900]), targets)
    assert_close(found, expected, 2e-5)


@pytest.mark.parametrize("is_compiled", [False, True])
def test_one_dominant_logit_has_an_entropy_of_exactly_zero(is_compiled: bool) -> None:
    weight = torch.zeros(4100, 1)
    weight[4097] = 300.0
    targets = torch.tensor([4097, 0])

    found = token_statistics(torch.ones(2, 1), weight, targets, is_compiled=is_compiled)

    assert found.entropies.tolist() == [0.0, 0.0]
    assert found.logprobs.tolist() == [0.0, -300.0]


def test_equal_logits_have_the_logarithm_of_the_vocabulary() -> None:
    found = token_statistics(
        torch.ones(3, 4), torch.full((151_936, 4), 5.0), torch.tensor([0, 77, 151_935])
    )

    log_v = math.log(151_936)
    assert found.entropies.tolist() == pytest.approx([log_v] * 3, abs=2e-6)
    assert found.logprobs.tolist() == pytest.approx([-log_v] * 3, abs=2e-6)


def test_no_tokens_give_no_statistics() -> None:
    hidden, weight, targets = operands(0, 8, 100)

    found = token_statistics(hidden, weight, targets)

    assert found.logprobs.shape == found.entropies.shape == (0,)


@given(st.integers(0, 2**31), st.integers(1, 20), st.integers(2, 40), st.floats(0.1, 10.0))
@settings(deadline=None, max_examples=60)
def test_laws_of_the_softmax_hold(seed: int, tokens: int, words: int, temperature: float) -> None:
    hidden, weight, targets = operands(tokens, 4, words, seed=seed)
    order = torch.randperm(words, generator=torch.Generator().manual_seed(seed))
    position = torch.empty_like(order)
    position[order] = torch.arange(words)

    plain = token_statistics(hidden, weight, targets, temperature=temperature)
    shifted = token_statistics(
        hidden, weight, targets, temperature=temperature, bias=torch.full((words,), 8.0)
    )
    permuted = token_statistics(hidden, weight[order], position[targets], temperature=temperature)

    assert (plain.entropies >= 0).all()
    assert (plain.entropies <= math.log(words) + 1e-5).all()
    assert (plain.logprobs <= 1e-6).all()
    for other, tolerance in ((shifted, 1e-5 / min(temperature, 1.0)), (permuted, 1e-5)):
        torch.testing.assert_close(other.entropies, plain.entropies, atol=20 * tolerance, rtol=0)
        torch.testing.assert_close(other.logprobs, plain.logprobs, atol=20 * tolerance, rtol=0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("is_compiled", [False, True])
def test_the_first_token_that_is_not_finite_is_named(value: float, is_compiled: bool) -> None:
    hidden, weight, targets = operands(1100, 8, 3000)
    hidden[1035, 2] = hidden[1090, 0] = value

    with pytest.raises(SamplerError, match="token 1035 of 1100"):
        token_statistics(hidden, weight, targets, is_compiled=is_compiled)


def test_infinities_that_would_pass_for_a_mask_are_refused() -> None:
    with pytest.raises(SamplerError, match="token 1 of 2"):
        token_statistics(
            torch.tensor([[1.0], [-math.inf]]), torch.tensor([[1.0], [2.0]]), torch.tensor([0, 0])
        )


def test_a_token_without_a_possible_word_is_refused() -> None:
    hidden, weight, targets = operands(3, 8, 100)

    with pytest.raises(SamplerError, match="no word is possible"):
        token_statistics(hidden, weight, targets, bias=torch.full((100,), -math.inf))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"targets": torch.tensor([0, 100])}, "targets"),
        ({"targets": torch.tensor([0, -1])}, "targets"),
        ({"targets": torch.tensor([0])}, "targets"),
        ({"targets": torch.tensor([0.0, 1.0])}, "targets"),
        ({"hidden": torch.zeros(2, 7)}, "hidden"),
        ({"hidden": torch.zeros(2, 8, dtype=torch.float64)}, "hidden"),
        ({"bias": torch.zeros(99)}, "bias"),
        ({"vocab_size": 101}, "vocab_size"),
        ({"vocab_size": 0}, "vocab_size"),
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": math.nan}, "temperature"),
        ({"softcap": -1.0}, "softcap"),
        ({"softcap": 5.0, "bias": torch.tensor([-math.inf, *[0.0] * 99])}, "softcap"),
        ({"scale": math.inf}, "scale"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(change: dict[str, Any], field: str) -> None:
    hidden, weight, targets = operands(2, 8, 100)
    arguments: dict[str, Any] = {"hidden": hidden, "weight": weight, "targets": targets, **change}

    with pytest.raises(ConfigError, match=f"^{field}="):
        token_statistics(**arguments)


def test_parameters_with_gradients_are_read_and_left_alone() -> None:
    hidden, weight, targets = operands(3, 8, 100)
    weight.requires_grad_()

    found = token_statistics(hidden.requires_grad_(), weight, targets)

    assert not found.entropies.requires_grad
    assert weight.grad is None


def test_wide_models_get_narrower_tiles_of_copied_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused_head, "LARGEST_COPY", 8 * 300)
    hidden, weight, targets = operands(5, 8, 1000, dtype=torch.bfloat16)

    found = token_statistics(hidden, weight, targets)

    assert_close(found, float64_statistics(float64_logits(hidden, weight), targets), 1e-4)
