from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from scipy import stats

from mlflow_rlrisk.errors import StatisticsError
from mlflow_rlrisk.records import FinishReason, Grade, GradedGroup, Prompt, Rollout
from mlflow_rlrisk.statistics import AuditRates, group_signal, true_signal
from mlflow_rlrisk.statistics.noise_correction import (
    corrected_group_signal,
    corrected_group_variance,
)
from mlflow_rlrisk.verifier_audit.probing import Judge
from mlflow_rlrisk.verifier_audit.rollouts import (
    JudgedGroup,
    counts,
    disagreement,
    signal,
    suspicious_labels,
)
from mlflow_rlrisk.verifier_audit.sample import random_sample_rates, strata_rates

PERFECT = AuditRates(true_positive=1.0, false_positive=0.0)
JUDGE = Judge(cast(Any, SimpleNamespace(verifier=SimpleNamespace(extracts_answers=True))), None)


def judged(name: str, answers: str, truth: str, second: str | None = None) -> JudgedGroup:
    """One letter a rollout; ``second`` is what the other verifier takes for right."""
    prompt = Prompt(id=name, content=name, truth=truth)
    rollouts = tuple(
        Rollout(
            prompt_id=name,
            sample_index=index,
            completion=letter,
            token_ids=np.array([1, 0]),
            logprobs=None,
            entropies=None,
            finish_reason=FinishReason.STOP,
        )
        for index, letter in enumerate(answers)
    )
    grades = tuple(Grade.scored(float(letter == truth), letter) for letter in answers)
    others = tuple(Grade.scored(float(letter == second), letter) for letter in answers)
    group = GradedGroup(prompt=prompt, rollouts=rollouts, grades=grades)
    return JudgedGroup(group=group, second=None if second is None else others)


def test_labels_are_ranked_by_how_far_the_answers_agree_on_another_one() -> None:
    groups = [
        judged("hard", "abcdefgh", "x"),
        judged("mislabelled", "bbbbbbba", "x"),
        judged("solved", "xxxxaaaa", "x"),
        judged("unsure", "bbbbcccc", "x"),
    ]

    found = suspicious_labels(groups, JUDGE, None)

    assert [each["prompt_id"] for each in found] == ["mislabelled", "unsure", "hard"]
    assert (found[0]["modal_answer"], found[0]["modal_share"]) == ("b", 7 / 8)
    assert found[0]["second_verifier_accepts"] is None
    assert found[0]["solve_rate_upper_95"] == pytest.approx(1 - 0.05 ** (1 / 8))


def test_the_upper_end_of_a_solve_rate_counts_the_rollouts_that_were_right() -> None:
    # 3 of 64 are still suspected; the limit of none of 64 is .046, below the rate that was seen.
    (found,) = suspicious_labels([judged("rare", "x" * 3 + "b" * 61, "x")], JUDGE, None)

    assert found["num_correct"] == 3
    upper = found["solve_rate_upper_95"]
    assert stats.binom.cdf(3, 64, upper) == pytest.approx(0.05)
    assert upper > 3 / 64


def test_a_second_verifier_that_accepts_the_modal_answer_raises_the_suspicion() -> None:
    groups = [judged("a", "bbbbbbcc", "x", second="x"), judged("b", "bbbbcccc", "x", second="b")]

    found = suspicious_labels(groups, JUDGE, JUDGE)

    assert [(each["prompt_id"], each["score"]) for each in found] == [("a", 0.75), ("b", 0.75)]
    assert [each["second_verifier_accepts"] for each in found] == [False, True]


@pytest.mark.parametrize(("true", "false"), [(1.0, 0.0), (0.9, 0.05), (0.8, 0.2)])
@pytest.mark.parametrize(("a", "b"), [(0.5, 0.5), (2.0, 3.0), (0.2, 1.0)])
def test_the_corrected_signal_is_that_of_a_verifier_without_errors(
    true: float, false: float, a: float, b: float
) -> None:
    rates = AuditRates(true_positive=true, false_positive=false)
    rng = np.random.default_rng(3)
    success = rng.beta(a, b, 4000)
    scored = np.full(4000, 16)
    accepted = rng.binomial(16, false + (true - false) * success)

    corrected = corrected_group_signal(accepted, scored, 8, rates)
    variance = corrected_group_variance(accepted, scored, 8, rates).mean()

    assert corrected == pytest.approx(true_signal(success, 8).mean(), abs=0.03)
    assert variance == pytest.approx(7 / 8 * (success * (1 - success)).mean(), abs=0.006)
    if false:  # errors look like signal: the raw one is far off
        raw = group_signal(accepted, scored, 8).mean()
        assert raw > corrected + 0.01


def test_without_errors_the_corrected_variance_is_the_usual_unbiased_one() -> None:
    accepted, scored = np.array([0, 1, 5, 8]), np.array([8, 8, 8, 8])

    found = corrected_group_variance(accepted, scored, 4, PERFECT)

    assert found == pytest.approx(3 / 4 * accepted * (scored - accepted) / (8 * 7))


def test_a_verifier_no_better_than_chance_has_no_corrected_signal() -> None:
    useless = AuditRates(true_positive=0.4, false_positive=0.4)

    for correct in (corrected_group_signal, corrected_group_variance):
        with pytest.raises(StatisticsError, match="must be positive, or rewards say nothing"):
            correct(np.array([1]), np.array([4]), 2, useless)  # type: ignore[operator]


def test_raw_and_corrected_signal_stand_side_by_side() -> None:
    rng = np.random.default_rng(0)
    success = rng.beta(0.4, 0.4, 300)
    accepted = rng.binomial(16, 0.1 + 0.8 * success)
    rates = random_sample_rates(450, 500, 50, 500, 0.95)

    found = signal(accepted, np.full(300, 16), 8, rates, 0.95)

    sides = found["group_signal_fraction"]
    truth = true_signal(success, 8).mean()
    assert sides["corrected"]["ci_low"] < truth < sides["corrected"]["ci_high"]
    assert sides["raw"]["ci_low"] > truth
    assert 0 < found["usable_signal"]["corrected"]["value"] < 1
    assert "corrected" not in signal(accepted, np.full(300, 16), 8, None, 0.95)["pass_at_1"]


def test_a_corrected_variance_is_one_that_rewards_of_0_and_1_can_have() -> None:
    # 12 of 20 accepted beside 9 of 20: J is .15, whose square made a variance of .84.
    weak = random_sample_rates(12, 20, 9, 20, 0.95)
    accepted, scored = np.array([8] * 5), np.full(5, 16)

    found = signal(accepted, scored, 8, weak, 0.95)["expected_group_variance"]
    perfect = signal(accepted, scored, 8, random_sample_rates(900, 900, 0, 900, 0.95), 0.95)

    assert found["corrected"]["value"] == found["raw"]["value"] == pytest.approx(7 / 8 * 64 / 240)
    assert found["corrected"]["ci_high"] <= 0.5
    assert perfect["expected_group_variance"]["corrected"]["value"] == found["raw"]["value"]


def test_disagreement_counts_prompts_and_not_texts() -> None:
    pairs = [("a", True)] * 9 + [("a", False)] + [("b", False)]

    found = disagreement(pairs, 0.95)

    assert found is not None
    assert found["value"] == pytest.approx((0.9 + 0.0) / 2)
    assert (found["num_prompts"], found["num_texts"], found["num_disagreements"]) == (2, 11, 9)
    assert disagreement([], 0.95) is None


def test_failed_grades_are_in_no_denominator() -> None:
    each = judged("a", "xxbb", "x")
    failed = Grade(status=cast(Any, "failed"), reason="why")
    group = GradedGroup(
        prompt=each.group.prompt,
        rollouts=each.group.rollouts,
        grades=(failed, *each.group.grades[1:]),
    )

    accepted, scored = counts([JudgedGroup(group=group, second=None)], JUDGE)

    assert (accepted.tolist(), scored.tolist()) == ([1], [3])


@pytest.mark.parametrize("accepted", [[0] * 20, [16] * 20, [0] * 10 + [16] * 10, [8] * 20])
def test_a_corrected_figure_is_no_surer_than_the_raw_one_where_resampling_shows_no_spread(
    accepted: list[int],
) -> None:
    rates = random_sample_rates(90, 100, 5, 100, 0.95)
    scored = np.full(20, 16)

    found = signal(np.array(accepted), scored, 8, rates, 0.95)

    bare = [each for each in found.values() if isinstance(each, dict) and "raw" in each]
    alike = [each for each in bare if each["raw"]["ci_low"] < each["raw"]["ci_high"]]
    assert len(alike) == 3
    for each in alike:
        own, raw = each["corrected"], each["raw"]
        assert own["ci_low"] <= own["value"] <= own["ci_high"]
        assert own["ci_high"] - own["ci_low"] >= raw["ci_high"] - raw["ci_low"] > 0.05


@pytest.mark.parametrize("accepted", [(2, 2), (100, 100), (98, 100)])
@pytest.mark.parametrize("rejected", [(0, 2), (0, 200), (20, 200)])
def test_rates_by_strata_lie_within_their_own_intervals(
    accepted: tuple[int, int], rejected: tuple[int, int]
) -> None:
    found = strata_rates(0.3, accepted, rejected, 0.95)
    rates = found.rates
    values = {"tpr": rates.true_positive, "fpr": rates.false_positive, "youden_j": rates.youden_j}

    for name, value in values.items():
        low, high = found.intervals[name]
        assert low <= value <= high
        assert low < high
