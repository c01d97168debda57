"""The kernel for rows of logits under Triton's interpreter, against float64.

Pytest does not collect this file by itself: Triton reads ``TRITON_INTERPRET`` when it is first
imported, so these tests need a process of their own.
"""

import logging

import pytest
import torch

from mlflow_rlrisk.samplers.vllm_recorder import row_kernel, row_route
from mlflow_rlrisk.samplers.vllm_recorder.row_kernel import row_values

LANES = 16


@pytest.fixture(autouse=True)
def few_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_kernel, "LANES", LANES)


def check(logits: torch.Tensor, temperature: float | torch.Tensor | None = None) -> None:
    divisor = 1.0 if temperature is None else temperature
    if isinstance(divisor, torch.Tensor):
        divisor = divisor[:, None].double()
    logs = (logits.double() / divisor).log_softmax(dim=1)
    normalisers, entropies = row_values(logits, temperature)
    exact = torch.special.entr(logs.exp()).sum(dim=1)
    torch.testing.assert_close(entropies.double(), exact, atol=1e-5, rtol=0.0)
    exact = (logits.double() / divisor).logsumexp(dim=1)
    torch.testing.assert_close(normalisers.double(), exact, atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize("words", [1, 2, LANES - 1, LANES, LANES + 1, 5 * LANES + 3])
def test_no_word_is_lost_or_invented_at_a_border(words: int) -> None:
    logits = torch.randn((3, words), generator=torch.Generator().manual_seed(words)) * 4.0

    check(logits)
    check(logits - 1000.0)  # words past the end that counted as 0 would have all the mass


def test_a_temperature_may_be_one_number_or_one_a_row() -> None:
    logits = torch.randn((4, 70), generator=torch.Generator().manual_seed(0)) * 4.0 + 300.0

    check(logits, 0.3)
    check(logits, torch.tensor([0.5, 1.0, 2.0, 0.7]))


def test_masked_words_have_no_mass_even_where_lanes_see_nothing_else() -> None:
    logits = torch.randn((2, 60), generator=torch.Generator().manual_seed(0))
    logits[0, ::LANES] = -torch.inf
    logits[1, : LANES + 1] = -torch.inf
    logits[1, 2 * LANES :] = -torch.inf

    check(logits)


def test_one_word_with_all_the_mass_has_an_entropy_of_exactly_zero() -> None:
    logits = torch.full((1, 40), -torch.inf)
    logits[0, 33] = 7.25

    normalisers, entropies = row_values(logits, None)

    assert entropies.tolist() == [0.0]
    assert normalisers.tolist() == pytest.approx([7.25])


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy says what a GPU does silently
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("word", [0, LANES + 2])
def test_what_is_not_finite_never_becomes_a_number(value: float, word: int) -> None:
    logits = torch.zeros((3, 40))
    logits[1, word] = value

    _, entropies = row_values(logits, None)

    assert entropies.isnan().tolist() == [False, True, False]


def test_rows_need_not_lie_side_by_side_and_stay_as_they_are() -> None:
    wide = torch.randn((3, 90), generator=torch.Generator().manual_seed(0))
    tall = wide.t().contiguous().t()
    before = wide.clone()

    check(wide[:, :50])
    check(tall)
    assert torch.equal(wide, before)


def test_a_kernel_that_is_wrong_in_its_trial_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(row_kernel, "LANES", 4096)
    trial = row_route.works.__wrapped__
    assert trial(torch.device("cpu"))
    right = row_values
    monkeypatch.setattr(
        row_kernel, "row_values", lambda *given: [each * 1.0001 for each in right(*given)]
    )

    with caplog.at_level(logging.WARNING):
        assert not trial(torch.device("cpu"))

    assert "off by" in caplog.text
