"""The Triton kernel under Triton's interpreter, against float64; run by ``tests/vllm``.

Pytest does not collect this file by itself: Triton reads ``TRITON_INTERPRET`` when it is first
imported, so these tests need a process of their own.
"""

import logging
from typing import Any

import pytest
import torch

from mlflow_rlrisk.kernels import triton_head, triton_route
from mlflow_rlrisk.kernels.logit_shape import LogitShape
from mlflow_rlrisk.kernels.triton_head import TileShape, head_partials
from tests.kernels.test_fused_head import float64_logits, float64_statistics, operands

TOLERANCE_NATS = 2e-5
PLAIN = LogitShape(bias=None, scale=1.0, softcap=None, temperature=1.0)


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = TileShape(tokens=16, words=32, width=16)
    monkeypatch.setattr(TileShape, "of", classmethod(lambda cls, dtype: shape))
    monkeypatch.setattr(triton_head, "PROGRAMS_PER_PROCESSOR", 3)


def check(found: Any, logits: torch.Tensor, targets: torch.Tensor) -> None:
    for values, exact in zip(found, float64_statistics(logits, targets), strict=True):
        assert values.dtype == torch.float32
        torch.testing.assert_close(values.double(), exact, atol=TOLERANCE_NATS, rtol=0.0)


@pytest.mark.parametrize(
    ("tokens", "words", "dtype"),
    [
        (1, 2, torch.float32),
        (16, 32, torch.float32),
        (17, 31, torch.float16),
        (15, 33, torch.bfloat16),
        (33, 100, torch.bfloat16),
    ],
)
def test_no_token_or_word_is_lost_or_invented_at_a_border(
    tokens: int, words: int, dtype: torch.dtype
) -> None:
    # Rows of zeros past the vocabulary are what verl's kernel counts as words.
    hidden, weight, targets = operands(tokens, 24, words, dtype=dtype)
    targets[0], targets[-1] = 0, words - 1

    found = triton_route.triton_statistics(hidden, weight, targets, PLAIN, words)

    check(found, float64_logits(hidden, weight), targets)


@pytest.mark.parametrize("num_shares", [1, 2, 100])
def test_the_number_of_shares_changes_nothing(num_shares: int) -> None:
    hidden, weight, targets = operands(5, 24, 150)
    targets %= 140

    partial = head_partials(
        hidden,
        weight,
        targets,
        num_words=140,
        bias=None,
        scale=1.0,
        softcap=None,
        temperature=1.0,
        num_shares=num_shares,
    )

    assert len(partial) <= num_shares
    m, s, t, chosen = partial.unbind(1)
    found = triton_route.finish(*triton_route.merge(m, s, t), chosen.amax(dim=0))
    check(found, float64_logits(hidden, weight[:140]), targets)


def test_bias_scale_softcap_and_temperature_apply_in_that_order() -> None:
    hidden, weight, targets = operands(20, 16, 130)
    bias = torch.linspace(-2, 2, 130)
    shape = LogitShape(bias=bias, scale=0.5, softcap=3.0, temperature=0.7)

    found = triton_route.triton_statistics(hidden, weight, targets, shape, 130)

    logits = 0.5 * (float64_logits(hidden, weight) + bias.double())
    check(found, 3.0 * torch.tanh(logits / 3.0) / 0.7, targets)


def test_masked_words_have_no_mass_even_where_a_whole_share_is_masked() -> None:
    hidden, weight, targets = operands(7, 16, 200)
    bias = torch.zeros(200)
    bias[:110] = -torch.inf
    targets = targets % 90 + 110
    targets[0] = 3
    shape = LogitShape(bias=bias, scale=1.0, softcap=None, temperature=1.0)

    found = triton_route.triton_statistics(hidden, weight, targets, shape, 200)

    check(found, float64_logits(hidden, weight) + bias.double(), targets)


def test_one_dominant_logit_has_an_entropy_of_exactly_zero() -> None:
    weight = torch.zeros(100, 16)
    weight[97] = 300.0 / 16
    targets = torch.tensor([97, 0])

    logprobs, entropies = triton_route.triton_statistics(
        torch.ones(2, 16), weight, targets, PLAIN, 100
    )

    assert entropies.tolist() == [0.0, 0.0]
    assert logprobs.tolist() == [0.0, -300.0]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy says what a GPU does silently
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_never_becomes_a_number(value: float) -> None:
    hidden, weight, targets = operands(20, 16, 100)
    hidden[3, 2] = value

    _, entropies = triton_route.triton_statistics(hidden, weight, targets, PLAIN, 100)

    assert torch.isfinite(entropies).tolist() == [row != 3 for row in range(20)]


def test_rows_need_not_lie_side_by_side() -> None:
    hidden, weight, targets = operands(5, 16, 100)
    wide, tall = torch.zeros(5, 32), weight.t().contiguous().t()
    wide[:, :16] = hidden

    found = triton_route.triton_statistics(wide[:, :16], tall, targets, PLAIN, 100)

    check(found, float64_logits(hidden, weight), targets)


def test_a_kernel_that_is_wrong_in_its_trial_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # The operands of the trial are larger: tiles of the other tests would take a minute.
    shape = TileShape(tokens=128, words=64, width=64)
    monkeypatch.setattr(TileShape, "of", classmethod(lambda cls, dtype: shape))
    trial = triton_route._passes_trial.__wrapped__
    assert trial(torch.device("cpu"), torch.bfloat16)
    right = head_partials
    monkeypatch.setattr(
        triton_head, "head_partials", lambda *args, **kwargs: right(*args, **kwargs) * 1.001
    )

    with caplog.at_level(logging.WARNING):
        assert not trial(torch.device("cpu"), torch.bfloat16)

    assert "off by" in caplog.text
