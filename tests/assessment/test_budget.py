"""The plan of the rounds, the errors they may make, and what they save on known checkpoints."""

import numpy as np
import pytest
from scipy import stats

from mlflow_rlrisk.assessment.budget import is_decided, plan_rounds, sampling_order
from mlflow_rlrisk.budget_record import Look, SequentialBudget
from mlflow_rlrisk.config import AssessmentConfig, PolicyConfig, SamplingConfig
from mlflow_rlrisk.errors import ConfigError, ReportError
from mlflow_rlrisk.records import Prompt
from mlflow_rlrisk.report import RiskLevel
from mlflow_rlrisk.statistics import look_confidences, look_sizes, resamples_needed
from tests.prompt_statistics import prompts, report_of
from tests.sequential_populations import (
    AT_THE_LOW_LINE,
    AT_THE_VETO,
    CLEAR_HIGH,
    CLEAR_LOW,
    CLEAR_MEDIUM,
    INDEX,
    NUM_PROMPTS,
    NUM_SAMPLES,
    SIGNAL,
    Drawn,
    Population,
    covers,
)


def plan(num_prompts: int = 200, num_samples: int = 16, **given: bool) -> list[tuple[int, int]]:
    config = AssessmentConfig(sampling=SamplingConfig(num_samples=num_samples), group_size=8)
    flags = {"can_split_groups": True, "needs_all_samples": False, **given}
    rounds = plan_rounds(config, PolicyConfig(), num_prompts=num_prompts, **flags)
    return [(each.num_prompts, each.num_samples or 0) for each in rounds]


def test_rounds_double_the_prompts_with_one_group_each_and_end_with_the_fixed_budget() -> None:
    assert plan() == [(64, 8), (128, 8), (200, 8), (200, 16)]
    assert plan(num_samples=8) == [(64, 8), (128, 8), (200, 8)]
    assert plan(num_prompts=40) == [(40, 8), (40, 16)]


@pytest.mark.parametrize("flag", [{"can_split_groups": False}, {"needs_all_samples": True}])
def test_whole_groups_are_drawn_where_parts_of_them_would_not_do(flag: dict[str, bool]) -> None:
    assert plan(**flag) == [(64, 16), (128, 16), (200, 16)]


def test_no_round_is_planned_that_the_policy_would_call_unknown_for_its_size() -> None:
    rounds = plan_rounds(
        AssessmentConfig(),
        PolicyConfig(min_prompts=150),
        num_prompts=400,
        can_split_groups=True,
        needs_all_samples=False,
    )

    assert [each.num_prompts for each in rounds] == [150, 300, 400, 400]


@pytest.mark.parametrize("num_looks", [1, 2, 3, 9])
def test_the_looks_spend_the_stated_error_rate_and_no_more(num_looks: int) -> None:
    spent = sum(1 - level for level in look_confidences(num_looks, 0.95))

    assert spent == pytest.approx(0.05)
    assert min(look_confidences(num_looks, 0.95)) >= 0.95


def test_sizes_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="first_samples"):
        look_sizes(num_prompts=9, num_samples=4, first_prompts=9, first_samples=5)
    with pytest.raises(ConfigError, match="num_looks"):
        look_confidences(0)


def test_a_quantile_far_out_gets_the_draws_it_needs() -> None:
    assert resamples_needed(0.95, 2000) == 2000
    assert resamples_needed(0.9984, 2000) == pytest.approx(12500)


def test_intervals_hold_under_the_worst_stopping_rule_and_plain_ones_do_not() -> None:
    # A normal mean watched at N = 64, 128, 200, 400, stopped as soon as its interval excludes the
    # truth: the rule that an adversary would choose.
    sizes = np.array([64, 128, 200, 400])
    steps = np.diff(sizes, prepend=0)
    rng = np.random.default_rng(0)
    sums = (rng.standard_normal((40_000, 4)) * np.sqrt(steps)).cumsum(axis=1)
    z = np.abs(sums / np.sqrt(sizes))

    allowed = stats.norm.ppf([(1 + level) / 2 for level in look_confidences(4, 0.95)])
    missed = (z > allowed).any(axis=1).mean()
    missed_by_plain = (z > 1.96).any(axis=1).mean()

    assert missed <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 40_000)
    assert missed > 0.02  # a bound, but no absurd one
    assert missed_by_plain > 0.10


def test_the_order_of_the_prompts_is_a_random_one_whatever_the_file_was_sorted_by() -> None:
    given = [Prompt(id=f"{place:04d}", content="x") for place in range(1000)]  # by difficulty

    order = sampling_order(given, seed=0)
    beginning = [int(each.id) for each in order[:64]]

    assert sampling_order(given[::-1], seed=0) == order
    assert sampling_order(given, seed=1) != order
    # The mean rank of 64 of 1000, within 3 standard errors of sampling without replacement.
    assert abs(np.mean(beginning) - 499.5) < 3 * np.sqrt((1000**2 / 12) / 64)


@pytest.mark.parametrize("population", [CLEAR_LOW, CLEAR_HIGH, CLEAR_MEDIUM])
def test_a_clear_cut_checkpoint_gets_the_same_level_for_a_third_or_less(
    population: Population,
) -> None:
    for seed in range(4):
        drawn = Drawn(population, seed, num_resamples=400)
        ended, fixed = drawn.in_rounds(), drawn.fixed()

        assert str(ended.report.risk_level) == str(fixed.report.risk_level) == population.level()
        assert 3 * ended.num_rollouts <= fixed.num_rollouts
        assert 3 * ended.num_tokens <= fixed.num_tokens


@pytest.mark.slow
@pytest.mark.parametrize("population", [AT_THE_VETO, AT_THE_LOW_LINE])
def test_at_a_line_nothing_is_called_lightly_and_intervals_keep_their_level(
    population: Population,
) -> None:
    level = population.level()
    runs = 30
    held = {SIGNAL: 0, INDEX: 0}
    wrong = 0
    for seed in range(runs):
        ended = Drawn(population, seed, num_resamples=400).in_rounds()
        truth = population.truth(ended.report.num_rollouts // ended.report.num_prompts)
        held = {
            name: count + covers(ended.report, name, truth[name]) for name, count in held.items()
        }
        wrong += str(ended.report.risk_level) not in (level, "medium")
        assert ended.num_rollouts <= NUM_PROMPTS * NUM_SAMPLES

    # Fewer than 24 of 30 at a level of 95 % has a chance of 1 in 1500.
    assert min(held.values()) >= 24
    assert wrong <= 4


def test_an_interval_at_a_look_is_never_narrower_than_that_of_a_fixed_budget() -> None:
    solved = np.random.default_rng(0).binomial(16, 0.4, size=200)
    fixed = report_of(prompts(solved.tolist(), 16))
    for drawn in (Drawn(AT_THE_VETO, 1, num_resamples=400),):
        wide, narrow = drawn.in_rounds().report, drawn.fixed().report
        assert wide.num_rollouts == narrow.num_rollouts
        for name, metric in narrow.metrics.items():
            mine = wide.metrics[name]
            slack = 0.02 * (metric.ci_high - metric.ci_low)  # other numbers of resamples
            assert mine.ci_low <= metric.ci_low + slack, name
            assert mine.ci_high >= metric.ci_high - slack, name
    assert fixed.budget is None


def test_a_level_is_not_decided_while_its_intervals_reach_over_a_line() -> None:
    few = report_of(prompts([4] * 30 + [0] * 34, 8))  # signal about one half
    assert not is_decided(few)
    many = report_of(prompts([4] * 200, 8))
    assert many.risk_level is RiskLevel.LOW
    assert is_decided(many)


def test_too_many_truncated_rollouts_decide_that_nothing_can_be_said() -> None:
    cut = report_of(prompts([4] * 64, 8, num_truncated=8))
    some = report_of(prompts([4] * 64, 8, num_truncated=4))

    assert cut.risk_level is RiskLevel.UNKNOWN
    assert is_decided(cut)
    assert not is_decided(some)


def test_missing_evidence_that_may_still_come_decides_nothing() -> None:
    few_prompts = report_of(prompts([4] * 20, 8))

    assert few_prompts.risk_level is RiskLevel.UNKNOWN
    assert not is_decided(few_prompts)


@pytest.mark.parametrize(
    ("num_scored", "planned", "decided"), [(8, 8, True), (8, 16, False), (16, 16, True)]
)
def test_a_coverage_that_more_samples_may_raise_decides_no_medium(
    num_scored: int, planned: int, decided: bool
) -> None:
    # Three prompts in five are solved at times: an index of .4, or of less if more of them are.
    lines = PolicyConfig(low_signal_from=0.1, veto_signal_below=0.1)
    solved = prompts([4] * 120 + [0] * 80, num_scored)

    report = report_of(solved, policy=lines, sampling=SamplingConfig(num_samples=planned))

    assert report.risk_level is RiskLevel.MEDIUM
    assert is_decided(report) is decided


def record(rounds: int, planned_rounds: int, num_looks: int) -> SequentialBudget:
    look = Look(
        num_prompts=64,
        num_samples=8,
        num_rollouts=512,
        num_tokens=4096,
        confidence=0.99,
        risk_level="high",
        is_decided=True,
    )
    return SequentialBudget(
        rounds=rounds,
        planned_rounds=planned_rounds,
        is_stopped_early=True,
        num_rollouts=512,
        max_rollouts=3200,
        num_tokens=4096,
        tokens_saved=21504,
        looks=(look,) * num_looks,
    )


@pytest.mark.parametrize("counts", [(2, 4, 1), (0, 4, 0), (2, 1, 2)])
def test_a_record_whose_rounds_do_not_fit_its_looks_is_refused(counts: tuple[int, ...]) -> None:
    with pytest.raises(ReportError, match=f"rounds={counts[0]}"):
        record(*counts)


def test_one_round_of_one_is_a_record() -> None:
    assert record(1, 1, 1).last.num_prompts == 64


def test_agreement_that_is_too_low_by_its_whole_interval_decides_a_medium() -> None:
    # Half are right, spread over eight answers; of the wrong ones all say the same, or none.
    right = {"right_answer_counts": (1,) * 8}
    agreeing = prompts([8] * 200, 16, answer_counts=(8, *[1] * 8), **right)
    rare = prompts([4, 5] * 100, 16, answer_counts=(1,) * 16, right_answer_counts=())

    wrong, luck = report_of(agreeing), report_of(rare)

    assert wrong.risk_level is luck.risk_level is RiskLevel.MEDIUM
    assert is_decided(wrong)
    assert not is_decided(luck)  # first updates may overrule a short headroom
