import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.stats import beta as beta_distribution
from scipy.stats import bootstrap, kurtosis, norm
from scipy.stats import t as student

from mlflow_rlrisk.config import SamplingConfig
from mlflow_rlrisk.errors import PromptSetError
from mlflow_rlrisk.report import (
    AssessmentContext,
    Evidence,
    RiskLevel,
    RiskReport,
)
from mlflow_rlrisk.statistics.groups import critical_success
from tests.prompt_statistics import ladder_rung, prompt, prompts, report_of

SIGNAL = "rlrisk/group_signal_fraction"
ENTROPY = "rlrisk/token_entropy"


def value(report: RiskReport, name: str) -> float:
    return report.metrics[f"rlrisk/{name}"].value


def test_metrics_equal_closed_forms_computed_with_plain_python() -> None:
    solved, n, g = [0, 1, 3, 8, 16, 16, 5, 2], 16, 8
    entropies = [0.1, 0.2, 0.3, 0.4, 0.5, 0.0, 0.7, 0.8]

    report = report_of(prompts(solved, n, entropies), group_size=g)

    def mean(term: Any) -> float:
        return sum(map(term, solved)) / len(solved)

    draws = math.comb(n, g)
    assert value(report, "pass_at_1") == pytest.approx(mean(lambda c: c / n), abs=1e-12)
    for k in (2, 4, 8, 16):
        expected = mean(lambda c, k=k: 1 - math.comb(n - c, k) / math.comb(n, k))
        assert value(report, f"pass_at_{k}") == pytest.approx(expected, abs=1e-12)
    wrong = mean(lambda c: math.comb(n - c, g) / draws)
    correct = mean(lambda c: math.comb(c, g) / draws)
    assert value(report, "frac_all_wrong") == pytest.approx(wrong, abs=1e-12)
    assert value(report, "frac_all_correct") == pytest.approx(correct, abs=1e-12)
    assert value(report, "frac_reward_zero_std") == pytest.approx(wrong + correct, abs=1e-12)
    assert value(report, "group_signal_fraction") == pytest.approx(1 - wrong - correct, abs=1e-12)
    variance = mean(lambda c: c * (n - c) / (n * (n - 1))) * (g - 1) / g
    assert value(report, "expected_group_variance") == pytest.approx(variance, abs=1e-12)
    edge = critical_success(g)
    assert value(report, "headroom") == pytest.approx(mean(lambda c: c / n) / edge, abs=1e-9)
    starved = mean(lambda c: beta_distribution.cdf(edge, c + 0.5, n - c + 0.5))
    saturated = mean(lambda c: beta_distribution.sf(1 - edge, c + 0.5, n - c + 0.5))
    assert value(report, "starved_share") == pytest.approx(starved, abs=1e-9)
    assert value(report, "saturated_share") == pytest.approx(saturated, abs=1e-9)
    assert value(report, "band_share") == pytest.approx(mean(lambda c: 1 <= c <= 14), abs=1e-12)
    noise = mean(lambda c: c * (n - c) / (n * n * (n - 1)))
    spread = np.var([c / n for c in solved], ddof=1) - noise
    assert value(report, "success_variance") == pytest.approx(spread, abs=1e-12)
    centre = mean(lambda c: c / n)
    assert value(report, "overdispersion") == pytest.approx(spread / centre / (1 - centre))
    assert value(report, "token_entropy") == pytest.approx(sum(entropies) / 8, abs=1e-12)


def test_the_three_entropy_aggregations_differ_where_length_and_entropy_do() -> None:
    # One prompt with 2 tokens of entropy 1, one with 8 tokens of entropy 0.
    long = prompt(0, 1, 1, entropy=1.0, tokens_each=2)
    short = prompt(1, 1, 1, entropy=0.0, tokens_each=8)

    report = report_of([long, short], group_size=2)

    assert value(report, "token_entropy_token_mean") == pytest.approx(0.2)
    assert value(report, "token_entropy_seq_mean") == pytest.approx(0.5)
    assert value(report, "token_entropy") == pytest.approx(0.5)


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    # 80 prompt sets of Beta(1/2, 1/2): signal at g = 8 is .60723876953125 (closed form).
    rng = np.random.default_rng(7)
    covered = 0
    for _ in range(80):
        solved = rng.binomial(16, rng.beta(0.5, 0.5, size=100))
        metric = report_of(prompts(solved, 16)).metrics[SIGNAL]
        assert metric.method == "bca"
        covered += metric.ci_low <= 0.60723876953125 <= metric.ci_high

    assert 69 <= covered <= 80  # binomial(80, .95): under 69 has probability 6e-4


def test_intervals_agree_with_scipys_bca_bootstrap_over_prompts() -> None:
    rng = np.random.default_rng(11)
    entropy, length = rng.exponential(0.3, size=120), rng.integers(2, 40, size=120)
    statistics = [
        prompt(i, 8, 16, entropy=float(entropy[i]), tokens_each=int(length[i])) for i in range(120)
    ]

    report = report_of(statistics, num_resamples=4000)

    def of_scipy(*data: Any, statistic: Any) -> tuple[float, float]:
        # Student's quantile at Satterthwaite's degrees of freedom, for entropies have long tails.
        without = [statistic(*(np.delete(d, i) for d in data), axis=-1) for i in range(120)]
        freedom = min(int(2 * 120 / (kurtosis(without, fisher=False) - 1)), 119)
        quantile = student.ppf(0.975, freedom) * math.sqrt(120 / 119)
        found = bootstrap(
            data,
            statistic,
            paired=True,
            n_resamples=4000,
            vectorized=True,
            confidence_level=2 * norm.cdf(quantile) - 1,
            random_state=rng,
        ).confidence_interval
        return found.low, found.high

    plain = of_scipy(entropy, statistic=lambda x, axis: x.mean(axis=axis))
    weighted = of_scipy(
        entropy * length,
        length,
        statistic=lambda x, n, axis: x.sum(axis=axis) / n.sum(axis=axis),
    )
    for name, expected in (("token_entropy", plain), ("token_entropy_token_mean", weighted)):
        metric = report.metrics[f"rlrisk/{name}"]
        width = expected[1] - expected[0]
        assert metric.method == "bca"
        assert (metric.ci_low, metric.ci_high) == pytest.approx(expected, abs=0.06 * width)


def test_values_that_few_prompts_carry_are_named_and_reach_beyond_what_was_seen() -> None:
    report = report_of(prompts([1, 2] + [0] * 98, 16))

    metric = report.metrics["rlrisk/pass_at_1"]
    assert metric.method == "sparse"
    # Jeffreys: of 100 prompts none is solved always, so that at most 2.5 % would be.
    unseen = float(beta_distribution.ppf(0.975, 0.5, 100.5))
    assert metric.ci_high == pytest.approx(metric.value + unseen * (1 - metric.value), rel=0.01)
    note = next(each for each in report.notes if "few prompts carry" in each)
    assert "pass_at_1" in note


def test_fewer_than_thirty_prompts_get_percentile_intervals_and_no_verdict() -> None:
    report = report_of(prompts([4, 8, 12, 3, 9] * 5, 16))

    assert report.metrics[SIGNAL].method == "percentile"
    assert report.risk_level is RiskLevel.UNKNOWN
    assert "25 prompts" in report.reasons[0]
    assert any("25 more" in step for step in report.next_steps)


@pytest.mark.parametrize(("solved", "end"), [(0, "ci_low"), (16, "ci_high")])
def test_all_wrong_and_all_right_checkpoints_are_high_with_intervals_that_have_a_width(
    solved: int, end: str
) -> None:
    report = report_of(prompts([solved] * 60, 16))

    pass_at_1 = report.metrics["rlrisk/pass_at_1"]
    share = 1 - 0.025 ** (1 / 60)  # Clopper-Pearson: none of 60 prompts differs
    assert getattr(pass_at_1, end) == pass_at_1.value == solved / 16
    assert pass_at_1.ci_high - pass_at_1.ci_low == pytest.approx(share)
    assert pass_at_1.method == "constant"
    assert report.metrics[SIGNAL].ci_high == pytest.approx(share)
    assert report.risk_level is RiskLevel.HIGH
    word = "all wrong" if solved == 0 else "all correct"
    assert any(
        f"100% {word}" in reason or f"100% are {word}" in reason for reason in report.reasons
    )
    assert "harder" in report.next_steps[0] or "sometimes solved" in report.next_steps[0]
    assert "rlrisk/overdispersion" in report.undefined


def test_fewer_rollouts_than_the_group_size_leave_the_signal_undefined_and_the_level_unknown() -> (
    None
):
    report = report_of(prompts([0, 1, 2, 2, 3, 4] * 15, 4), group_size=8)

    assert SIGNAL not in report.metrics
    assert "90 of 90 prompts have fewer" in report.undefined[SIGNAL]
    assert "rlrisk/frac_all_correct" in report.undefined
    assert report.risk_index is None
    assert "rlrisk/risk_index" in report.undefined
    assert report.risk_level is RiskLevel.UNKNOWN
    assert report.level_probabilities == {}
    assert any("--num-samples 16" in step for step in report.next_steps)
    assert any("extrapolated" in note for note in report.notes)


def test_pass_at_k_is_undefined_with_the_count_when_one_prompt_has_fewer_than_k() -> None:
    statistics = prompts([8] * 99, 16)
    statistics.append(prompt(99, 3, 7, num_failed=9))

    report = report_of(statistics, max_failed_share=0.2)

    assert "rlrisk/pass_at_4" in report.metrics
    assert report.metrics["rlrisk/pass_at_4"].num_prompts == 100
    assert "1 of 100 prompts have fewer" in report.undefined["rlrisk/pass_at_8"]
    assert "rlrisk/pass_at_16" in report.undefined


def test_verifier_failures_above_the_limit_give_unknown_and_below_it_a_verdict() -> None:
    statistics = [prompt(i, 8, 16, num_failed=1) for i in range(60)]

    refused = report_of(statistics)
    accepted = report_of(statistics, max_failed_share=0.1)

    assert refused.risk_level is RiskLevel.UNKNOWN
    assert any("verifier failed" in reason for reason in refused.reasons)
    assert any("mend the verifier" in step for step in refused.next_steps)
    assert value(accepted, "verifier_failure_share") == pytest.approx(1 / 17)
    assert accepted.risk_level is not RiskLevel.UNKNOWN
    # Failures are no wrong answers: pass@1 is over the scored rollouts.
    assert value(refused, "pass_at_1") == pytest.approx(0.5)


def test_rollouts_for_which_the_verifier_returned_none_are_missing_evidence() -> None:
    # 16 of 48 completions have a reward; the level was `low` and no line spoke of the others.
    statistics = [prompt(i, 8, 16, num_samples=48) for i in range(60)]

    refused = report_of(statistics)
    accepted = report_of(statistics, max_failed_share=0.7)

    assert value(refused, "verifier_abstained_share") == pytest.approx(2 / 3)
    assert refused.risk_level is RiskLevel.UNKNOWN
    assert any("returned None for 66.7%" in reason for reason in refused.reasons)
    assert any("a reward" in step for step in refused.next_steps)
    assert accepted.risk_level is RiskLevel.LOW
    assert value(accepted, "verifier_failure_share") == 0.0


def test_a_prompt_that_the_verifier_never_scored_is_named_and_not_dropped() -> None:
    unscored = prompt(99, 0, 0, num_samples=16, text_counts=(16,), num_tokens=160)

    report = report_of([*prompts([4, 8, 12] * 20, 16), unscored])

    assert report.num_prompts == 61
    for name in ("pass_at_1", "starved_share", "headroom", "band_share"):
        assert "1 of 61 prompts have fewer" in report.undefined[f"rlrisk/{name}"]
    assert report.risk_level is RiskLevel.UNKNOWN
    assert "scored nothing of 1" in report.next_steps[0]


def test_graded_rewards_without_a_threshold_leave_success_undefined_but_not_the_signal() -> None:
    graded = replace(
        prompt(0, 0, 16), num_correct=None, correct_counts=None, rewards=(0.0,) * 8 + (0.5,) * 8
    )
    statistics = [replace(graded, prompt_id=f"p{i}") for i in range(60)]

    report = report_of(statistics)

    reason = report.undefined["rlrisk/pass_at_1"]
    assert "saw 0.5" in reason
    assert "--success-threshold" in reason
    assert value(report, "group_signal_fraction") == pytest.approx(1 - 2 / math.comb(16, 8))
    assert report.risk_level is RiskLevel.UNKNOWN
    assert any("--success-threshold" in step for step in report.next_steps)
    assert report.solve_counts == ()


def test_rollouts_without_entropies_leave_the_level_unknown() -> None:
    report = report_of([prompt(i, 8, 16, entropy=None) for i in range(60)])

    assert "60 of 60 prompts" in report.undefined[ENTROPY]
    assert report.risk_level is RiskLevel.UNKNOWN
    assert any("entropies" in step for step in report.next_steps)


def test_a_one_token_vocabulary_gets_a_bound_and_no_zero_width_interval() -> None:
    report = report_of(prompts([8] * 60, 16, 0.0))

    entropy = report.metrics[ENTROPY]
    assert (entropy.value, entropy.ci_low) == (0.0, 0.0)
    assert entropy.ci_high > 0.1
    # Surprisal has no upper bound, so its interval cannot be had.
    assert "no bound is known" in report.undefined["rlrisk/sampled_nll"]


def test_mostly_truncated_rollouts_are_unknown_with_the_limit_to_raise() -> None:
    report = report_of(prompts([4, 8, 12] * 20, 16, num_truncated=9))

    assert report.risk_level is RiskLevel.UNKNOWN
    assert any("--max-new-tokens above 256" in step for step in report.next_steps)
    assert any("truncated rollouts" in note for note in report.notes)


def test_no_prompt_and_a_prompt_that_occurs_twice_are_errors() -> None:
    with pytest.raises(PromptSetError, match="empty"):
        report_of([])
    with pytest.raises(PromptSetError, match="p00001 occurs twice"):
        report_of([prompt(1, 1, 2), prompt(1, 1, 2)], group_size=2)


def test_a_metric_that_too_few_prompts_carry_is_undefined() -> None:
    statistics = prompts([2] + [0] * 59, 16)

    report = report_of(statistics)

    assert "too few prompts" in report.undefined["rlrisk/correct_diversity"]


def test_a_ladder_like_the_trial_goes_from_low_to_high_while_pass_at_1_rises() -> None:
    shallow = report_of(ladder_rung(3.0, 4.0, 0.30))
    middle = report_of(ladder_rung(0.6, 0.5, 0.12))
    deep = report_of(ladder_rung(0.06, 0.04, 0.01))

    assert [report.risk_level for report in (shallow, middle, deep)] == ["low", "medium", "high"]
    assert value(shallow, "pass_at_1") < value(middle, "pass_at_1") < value(deep, "pass_at_1")
    assert any("group signal" in reason for reason in deep.reasons)
    assert any("token entropy" in reason for reason in deep.reasons)
    assert any("shallower" in step for step in deep.next_steps)
    assert shallow.next_steps == ()
    assert any("not assessed" in reason for reason in shallow.reasons)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.integers(0, 8), min_size=1, max_size=70),
    st.floats(0.0, 0.5),
    st.integers(0, 2),
    st.sampled_from([2, 4, 8, 16]),
)
def test_every_report_has_reasons_and_a_next_step_unless_it_is_low(
    solved: list[int], entropy: float, num_failed: int, group_size: int
) -> None:
    statistics = prompts(solved, 8, entropy, num_failed=num_failed)

    report = report_of(statistics, group_size=group_size, num_resamples=200)

    assert report.reasons
    assert report.next_steps or report.risk_level is RiskLevel.LOW
    json.loads(report.to_json(), parse_constant=pytest.fail)  # NaN and Infinity are constants
    for metric in report.metrics.values():
        assert metric.ci_low <= metric.ci_high
    if report.level_probabilities:
        assert sum(report.level_probabilities.values()) == pytest.approx(1.0)
    assert RiskReport.from_json(report.to_json()) == report


def test_the_report_does_not_depend_on_the_order_in_which_prompts_finish() -> None:
    statistics = ladder_rung(1, 1, 0.2)

    assert report_of(statistics).to_json() == report_of(statistics[::-1]).to_json()


def test_a_report_is_the_same_to_the_bit_when_made_twice_and_moves_with_the_seed() -> None:
    statistics = ladder_rung(1, 1, 0.2)
    other = SamplingConfig(seed=1)

    assert report_of(statistics).digest == report_of(statistics).digest
    moved = report_of(statistics, sampling=other).metrics[SIGNAL]
    assert moved.value == report_of(statistics).metrics[SIGNAL].value
    assert moved.ci_low != report_of(statistics).metrics[SIGNAL].ci_low


def test_all_metrics_and_the_index_come_from_the_same_resamples() -> None:
    # Signal and zero-std share are mirror images, draw by draw, so their intervals are too.
    report = report_of(ladder_rung(0.4, 0.4, 0.2))

    signal, zero = report.metrics[SIGNAL], report.metrics["rlrisk/frac_reward_zero_std"]
    assert zero.value == pytest.approx(1 - signal.value)
    assert zero.ci_low == pytest.approx(1 - signal.ci_high, abs=2e-3)
    assert zero.ci_high == pytest.approx(1 - signal.ci_low, abs=2e-3)


def test_entropy_relative_to_a_reference_becomes_a_metric_and_a_component() -> None:
    reference = Evidence(value=0.6, ci_low=0.55, ci_high=0.65, source="base")
    statistics = ladder_rung(1, 1, 0.3)

    report = report_of(statistics, context=AssessmentContext(reference_entropy=reference))

    ratio = report.metrics["rlrisk/token_entropy_relative"]
    assert ratio.value == pytest.approx(report.metrics[ENTROPY].value / 0.6)
    assert ratio.ci_low < ratio.value < ratio.ci_high
    assert "entropy_rel" in {part.name for part in report.components}
    assert "entropy_rel" in report_of(statistics).not_assessed


def test_medium_says_how_many_prompts_would_resolve_a_straddling_interval() -> None:
    report = report_of(ladder_rung(0.35, 0.4, 0.4))

    signal = report.metrics["rlrisk/group_signal_fraction"]
    assert report.risk_level is RiskLevel.MEDIUM
    assert signal.ci_low < 0.5 <= signal.ci_high
    assert any("group signal" in step and step.endswith("line 0.5") for step in report.next_steps)


def test_solve_counts_add_up_to_the_prompts() -> None:
    report = report_of(prompts([0, 0, 3, 16], 16))

    assert report.solve_counts == ((0, 16, 2), (3, 16, 1), (16, 16, 1))
