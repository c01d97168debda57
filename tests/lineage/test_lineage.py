import json
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from mlflow_rlrisk.errors import ComparabilityError
from mlflow_rlrisk.lineage import LineageMember, PairOrder, Phase, trace_lineage
from mlflow_rlrisk.lineage.table import PASS_AT_1, SIGNAL, build_table
from mlflow_rlrisk.statistics import group_signal
from tests.lineage.ladders import beta_rates, collapsing, drawn, member
from tests.prompt_statistics import prompt, prompts


@pytest.fixture(scope="module")
def ladder() -> list[LineageMember]:
    return collapsing()


def differences(ladder: list[LineageMember], left: int, right: int) -> tuple[np.ndarray, ...]:
    """Per-prompt differences of pass@1 and of the group signal, computed here."""

    def columns(one: LineageMember) -> tuple[np.ndarray, np.ndarray]:
        ordered = sorted(one.statistics, key=lambda each: each.prompt_id)
        correct = np.array([each.num_correct for each in ordered])
        scored = np.array([each.num_scored for each in ordered])
        return correct / scored, group_signal(correct, scored, 8)

    first, second = columns(ladder[left]), columns(ladder[right])
    return first[0] - second[0], first[1] - second[1]


def test_a_collapsed_ladder_is_inverted_and_says_which_version_and_why(
    ladder: list[LineageMember],
) -> None:
    lineage = trace_lineage(ladder, base="base")

    assert lineage.choice.best_pass_at_1 == "epoch25"
    assert lineage.choice.start_from == "epoch1"  # as safe as the base, with the higher pass@1
    assert "of 2 versions of equal risk" in lineage.choice.next_steps[0]
    assert {"epoch25", "epoch1"} in [
        {pair.first, pair.second} for pair in lineage.inversions if pair.measure == SIGNAL
    ]
    assert any("resolved against the order by pass@1" in why for why in lineage.choice.reasons)
    json.dumps(lineage.to_dict(), allow_nan=False)


def test_inversion_probabilities_agree_with_a_recomputation_without_bootstrap(
    ladder: list[LineageMember],
) -> None:
    close = [*ladder[:2], member("twin", drawn(beta_rates(3.0, 3.6), 32, 0.4, seed=11))]

    lineage = trace_lineage(close)

    for pair in (pair for pair in lineage.pairs if pair.measure == SIGNAL):
        names = [each.name for each in close]
        by_pass, by_signal = differences(close, names.index(pair.first), names.index(pair.second))
        size = by_pass.size
        mean = [by_pass.mean(), by_signal.mean()]
        both = stats.multivariate_normal(mean, np.cov(by_pass, by_signal, ddof=0) / size)
        same = both.cdf([0.0, 0.0]) + (
            1
            - stats.norm.cdf(0, mean[0], np.sqrt(by_pass.var() / size))
            - stats.norm.cdf(0, mean[1], np.sqrt(by_signal.var() / size))
            + both.cdf([0.0, 0.0])
        )
        assert pair.probability_inverted == pytest.approx(1.0 - same, abs=0.03)
        assert pair.difference.value == pytest.approx(by_signal.mean())


def test_standard_errors_of_differences_are_those_of_paired_prompts(
    ladder: list[LineageMember],
) -> None:
    table = build_table(ladder, num_resamples=4000)

    for left, right in combinations(range(4), 2):
        by_pass, by_signal = differences(ladder, left, right)
        for name, column in ((PASS_AT_1, by_pass), (SIGNAL, by_signal)):
            found = table.measures[name].difference_error()[left, right]
            assert found == pytest.approx(column.std() / np.sqrt(column.size), rel=0.06)


def test_twins_are_resolved_falsely_in_at_most_the_stated_share() -> None:
    # Four equal checkpoints: any resolved pair is a false claim; alpha is 5 % over all of them.
    rates = beta_rates(2.0, 2.0, num_prompts=60)
    false = 0
    for repeat in range(60):
        twins = [member(f"t{i}", drawn(rates, 16, 0.3, 100 * repeat + i)) for i in range(4)]
        lineage = trace_lineage(twins, num_resamples=400)
        false += any(pair.order is not PairOrder.UNRESOLVED for pair in lineage.pairs)

    assert false <= 7  # P(more than 7 of 60 at a rate of 5 %) is below 2 %


def test_phases_of_a_series_that_drops_recovers_and_collapses() -> None:
    rungs = [
        ("base", beta_rates(3.0, 4.0), 0.50),
        ("shifted", beta_rates(2.0, 6.0), 0.70),
        ("readapted", beta_rates(3.5, 3.5), 0.60),
        ("overfitted", beta_rates(0.2, 0.2), 0.05),
    ]
    series = [member(n, drawn(r, 32, h, seed)) for seed, (n, r, h) in enumerate(rungs)]

    phases = trace_lineage(series, base="base").phases

    assert [label.phase for label in phases.labels] == [
        Phase.BASE,
        Phase.SHIFT,
        Phase.READAPT,
        Phase.OVERFIT,
    ]
    assert all(label.confidence > 0.9 for label in phases.labels)
    assert phases.diversity_peak == "shifted"
    assert phases.recommended == ("shifted", "shifted")
    assert "disagrees" in phases.caution


def test_phases_of_equal_checkpoints_are_unclear() -> None:
    rates = beta_rates(2.0, 2.0)
    series = [member(f"c{i}", drawn(rates, 16, 0.3, seed=i)) for i in range(5)]

    phases = trace_lineage(series, base="c0").phases

    assert sum(label.phase is Phase.UNCLEAR for label in phases.labels) >= 3


def test_a_short_series_or_one_without_base_has_no_phases(ladder: list[LineageMember]) -> None:
    assert "no base" in str(trace_lineage(ladder).phases.undefined)
    assert "at least 4" in str(trace_lineage(ladder[:3], base="base").phases.undefined)


def test_a_lineage_of_other_prompts_is_refused_with_their_number(
    ladder: list[LineageMember],
) -> None:
    other = replace(
        ladder[1],
        statistics=tuple(
            replace(each, prompt_id=f"q{each.prompt_id}") for each in ladder[1].statistics
        ),
    )

    with pytest.raises(ComparabilityError, match="other prompts: 400"):
        trace_lineage([ladder[0], other])
    with pytest.raises(ComparabilityError, match="at least two"):
        trace_lineage(ladder[:1])
    with pytest.raises(ComparabilityError, match="twice"):
        trace_lineage([ladder[0], ladder[0]])
    with pytest.raises(ComparabilityError, match="none of the members"):
        trace_lineage(ladder, base="other")


def test_deep_pass_at_k_that_shrinks_the_differences_is_compression_not_inversion() -> None:
    rungs = [beta_rates(1.0, 3.0), beta_rates(1.5, 3.0), beta_rates(2.2, 3.0)]
    series = [member(f"c{i}", drawn(r, 64, 0.3, seed=i)) for i, r in enumerate(rungs)]

    lineage = trace_lineage(series)

    deep = next(each for each in lineage.agreement if each.measure == "rlrisk/pass_at_32")
    assert deep.spread_ratio_high is not None
    assert deep.spread_ratio_high < 1.0
    assert deep.num_pairs["inverted"] == 0


def test_outcomes_are_ranked_by_regret_and_too_few_of_them_say_so(
    ladder: list[LineageMember],
) -> None:
    outcomes = {"base": 0.80, "epoch1": 0.85, "epoch5": 0.60, "epoch25": 0.50}

    lineage = trace_lineage(ladder, outcomes=outcomes)

    by_name = {each.measure: each for each in lineage.outcomes}
    assert by_name[PASS_AT_1].regret == pytest.approx(0.35)
    assert by_name[SIGNAL].regret <= 0.05 + 1e-12
    assert lineage.outcomes[0].regret <= lineage.outcomes[-1].regret
    assert "cannot reach significance" in by_name[PASS_AT_1].remark


def test_an_outcome_of_a_stranger_and_a_missing_one_are_said(ladder: list[LineageMember]) -> None:
    lineage = trace_lineage(ladder, outcomes={"base": 0.8, "epoch1": 0.7, "elsewhere": 0.1})

    assert any("epoch5, epoch25" in note for note in lineage.notes)
    assert any("elsewhere" in note for note in lineage.notes)


def test_a_pass_at_k_that_one_member_lacks_is_said_with_its_reason() -> None:
    short = [*prompts([4] * 59, 16), prompt(59, 4, 15, num_failed=1)]
    members = [
        member("a", short, max_failed_share=0.5),
        member("b", prompts([5] * 60, 16), max_failed_share=0.5),
    ]

    (note,) = [each for each in trace_lineage(members).notes if "pass@" in each]

    assert "pass@16 is undefined for a," in note
    assert "1 of 60 prompts have fewer" in note


def test_a_member_without_any_pass_at_k_is_not_said_to_have_a_coverage() -> None:
    failed = [*prompts([4] * 59, 16), prompt(59, 0, 0, num_failed=16)]

    found = trace_lineage([member("a", prompts([5] * 60, 16)), member("b", failed)])

    (note,) = [each for each in found.notes if "pass@" in each]
    assert note.startswith("no pass@k is defined for b, so there is neither coverage nor a risk")


def test_a_flattened_collapsed_checkpoint_and_a_sharpened_base_are_told_for_what_they_are() -> None:
    healthy, collapsed = beta_rates(3.0, 3.0), beta_rates(0.1, 0.08)
    series = [
        member("base", drawn(healthy, 64, 0.5, seed=1)),
        member("sharpened", drawn(healthy, 64, 0.2, seed=2)),
        member("flattened", drawn(collapsed, 64, 0.7, seed=3)),
        member("collapsed", drawn(collapsed, 64, 0.05, seed=4)),
    ]

    lineage = trace_lineage(series, base="base")

    said = {note.split(":")[0]: note for note in lineage.notes}
    assert "noise, not exploration" in said["flattened"]
    assert "no collapse" in said["sharpened"]
    assert "collapsed" not in said
    assert lineage.choice.start_from in ("base", "sharpened")
