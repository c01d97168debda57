"""What a function was not made for raises by name; nothing comes out as NaN or by overflow."""

import math

import numpy as np
import pytest
from scipy.stats import fisher_exact

from mlflow_rlrisk.errors import InsufficientRolloutsError, StatisticsError
from mlflow_rlrisk.statistics import (
    AuditRates,
    audit_j_interval,
    audit_rates,
    collision,
    entropy_pressure,
    fisher_p_values,
    fork_share,
    group_signal_from_values,
    partial_spearman,
    pass_at_k,
    relative_drop,
    sft_loss_rise,
    smallest_group_size,
    spearman,
    tilted_policy,
)
from mlflow_rlrisk.statistics.noise_correction import (
    corrected_group_signal,
    corrected_group_variance,
)

RATES = AuditRates(true_positive=0.9, false_positive=0.1)


def test_an_answer_that_is_never_given_has_no_part_in_the_optimum_whatever_it_pays() -> None:
    policy, rewards = [0.5, 0.5, 0.0], [1.0, 0.0, 1000.0]
    expected = np.exp([1.0, 0.0]) / np.exp([1.0, 0.0]).sum()

    found = tilted_policy(policy, rewards, 1.0)

    np.testing.assert_allclose(found, [*expected, 0.0])
    assert sft_loss_rise([1.0, 0.0], [0.0, 1000.0], 1.0) == 0.0
    assert sft_loss_rise(policy, rewards, 1.0) == pytest.approx(
        sft_loss_rise([0.5, 0.5], [1.0, 0.0], 1.0)
    )


@pytest.mark.parametrize(
    ("counts", "needed"),
    [
        (([-1], [3], [1], [3]), "at least 0"),
        (([7], [3], [1], [3]), "at most num_scored=3"),
        (([1], [3], [5], [3]), "at most num_scored=3"),
        (([0.5], [3], [1], [3]), "counts are integers"),
        (([1, 1], [3, 3], [1], [3]), "both sides"),
    ],
)
def test_counts_that_cannot_be_have_no_p_value(counts: tuple[list[int], ...], needed: str) -> None:
    with pytest.raises(StatisticsError, match=needed):
        fisher_p_values(*(np.array(each) for each in counts))


def test_p_values_of_counts_that_can_be_are_scipys() -> None:
    sides = [np.array(each) for each in ([8, 0, 3], [10, 5, 3], [1, 5, 0], [5, 5, 4])]

    found = fisher_p_values(*sides)

    for own, (a, n, b, m) in zip(found, np.transpose(sides), strict=True):
        assert own == pytest.approx(fisher_exact([[a, n - a], [b, m - b]]).pvalue)


def test_figures_that_are_not_finite_are_refused() -> None:
    for before, after in ((math.inf, 1.0), (1.0, math.nan), (1.0, math.inf), (math.nan, 1.0)):
        with pytest.raises(StatisticsError, match="finite"):
            relative_drop(before, after)
    with pytest.raises(StatisticsError, match="reference=nan: must be finite"):
        fork_share([0.1, 0.2], math.nan)
    with pytest.raises(StatisticsError, match="must be a number"):
        smallest_group_size(lambda _: math.nan, 0.8)


def test_rank_correlations_never_leave_minus_one_to_one() -> None:
    rng = np.random.default_rng(0)
    for size in range(3, 60):
        x, given = rng.random(size), rng.random(size)

        assert spearman(x, x) <= 1.0
        assert spearman(x, -x) >= -1.0
        if abs(spearman(x, given)) < 0.99:
            assert partial_spearman(x, x, given) <= 1.0


def test_counts_whose_products_overflow_are_refused_or_counted_right() -> None:
    with pytest.raises(StatisticsError, match="num_scored holds 4000000000: at most"):
        pass_at_k([1, 5], [4, 4 * 10**9], 1)
    assert pass_at_k([1, 5], [4, 2 * 10**9], 1) == pytest.approx([0.25, 2.5e-9])
    assert collision([[6_074_001_000, 3]]) == pytest.approx(1.0)


def test_text_is_no_sequence_of_rewards_and_rewards_all_alike_give_no_advantage() -> None:
    with pytest.raises(StatisticsError, match="holds text"):
        group_signal_from_values(["0101"], 2)
    for reward in (0.1, 0.7):
        with pytest.raises(StatisticsError, match="all are equal"):
            entropy_pressure([-0.1, -0.3, -0.5], [reward] * 3)


def test_a_corrected_signal_needs_rollouts_and_rates_that_can_be() -> None:
    for scored in (0, 1):
        with pytest.raises(InsufficientRolloutsError, match="needs 2 scored rollouts"):
            corrected_group_signal([0, 0], [scored, scored], 8, RATES)
    for rate in (math.nan, 1.5):
        rates = AuditRates(true_positive=rate, false_positive=0.1)
        for corrected in (corrected_group_signal, corrected_group_variance):
            with pytest.raises(StatisticsError, match="true_positive"):
                corrected([1, 0], [16, 16], 8, rates)


@pytest.mark.parametrize("accept_rate", [0.05, 0.3, 0.9])
@pytest.mark.parametrize("accepted", [(2, 2), (98, 100), (0, 50)])
@pytest.mark.parametrize("rejected", [(0, 2), (20, 200), (50, 50)])
def test_the_audit_interval_of_j_holds_its_own_estimate(
    accept_rate: float, accepted: tuple[int, int], rejected: tuple[int, int]
) -> None:
    shares = [correct / audited for correct, audited in (accepted, rejected)]
    if shares in ([1.0, 1.0], [0.0, 0.0]):
        with pytest.raises(StatisticsError, match="one kind is missing"):
            audit_j_interval(accept_rate, accepted, rejected)
        return

    low, high = audit_j_interval(accept_rate, accepted, rejected, num_resamples=500)

    assert low <= audit_rates(accept_rate, *shares).youden_j <= high
