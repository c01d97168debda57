"""Lineages that are too small, too alike or not what they seem; intervals of few prompts."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from mlflow_rlrisk.errors import ComparabilityError, ConfigError
from mlflow_rlrisk.lineage import PairOrder, Phase, trace_lineage
from mlflow_rlrisk.lineage.measures import Measure, mean_estimate
from mlflow_rlrisk.lineage.table import ENTROPY, PASS_AT_1, SIGNAL, build_table
from mlflow_rlrisk.sinks.lineage_page import render_lineage
from mlflow_rlrisk.statistics.bootstrap import PromptBootstrap, interval
from tests.lineage.ladders import beta_rates, collapsing, drawn, member
from tests.prompt_statistics import prompts


@pytest.mark.parametrize("num_prompts", [1, 2])
def test_one_or_two_prompts_resolve_nothing_however_large_the_difference(num_prompts: int) -> None:
    solved = [[0, 0], [4, 9], [8, 8], [16, 12]]
    series = [
        member(f"v{i}", prompts(row[:num_prompts], 16, 0.5 - i / 10))
        for i, row in enumerate(solved)
    ]

    lineage = trace_lineage(series, base="v0", num_resamples=100)

    assert {label.phase for label in lineage.phases.labels[1:]} == {Phase.UNCLEAR}
    assert {pair.order for pair in lineage.pairs} == {PairOrder.UNRESOLVED}
    assert lineage.choice.start_from is None
    assert any("assess at least" in step for step in lineage.choice.next_steps)
    render_lineage(lineage)


def test_prompts_that_stand_twice_and_values_that_are_no_numbers_are_refused_by_name() -> None:
    first, second, *_ = collapsing()
    twice = replace(second, statistics=(*second.statistics, second.statistics[3]))
    broken = replace(first.statistics[7], sequence_entropy=float("nan"))
    unknown = replace(
        second, statistics=tuple(broken if s.prompt_id == "p00007" else s for s in first.statistics)
    )

    with pytest.raises(ComparabilityError, match="epoch1: prompt p00003 stands 2 times"):
        trace_lineage([first, twice])
    with pytest.raises(ComparabilityError, match=r"epoch1: .* of prompt p00007 is nan"):
        trace_lineage([first, unknown])
    with pytest.raises(ConfigError, match="that of base must be a finite number"):
        trace_lineage([first, second], outcomes={"base": float("nan"), "epoch1": 0.5})


def test_versions_with_the_same_bytes_are_told() -> None:
    first, second, *_ = collapsing()
    digests = {**first.report.provenance.digests, "checkpoint": "abcdef0123456789"}
    report = replace(second.report, provenance=replace(second.report.provenance, digests=digests))
    series = [first, *(replace(second, name=name, report=report) for name in ("v2", "v3"))]

    lineage = trace_lineage(series, num_resamples=100)

    told = [note for note in lineage.notes if "same bytes" in note]
    assert len(told) == 1
    assert told[0].startswith("v2 and v3 are one checkpoint")
    assert told[0] in render_lineage(lineage)


def test_a_version_is_not_held_against_an_equal_pass_at_1_of_a_riskier_one() -> None:
    _, healthy, _, collapsed = collapsing()
    value = healthy.report.metrics["rlrisk/pass_at_1"]
    report = replace(
        collapsed.report, metrics={**collapsed.report.metrics, "rlrisk/pass_at_1": value}
    )

    lineage = trace_lineage([replace(collapsed, report=report), healthy], num_resamples=100)

    assert lineage.choice.start_from == lineage.choice.best_pass_at_1 == healthy.name


def test_a_member_is_called_by_its_name_whatever_its_report_was_sampled_from() -> None:
    series = [replace(each, name=f"цепь {i} ②") for i, each in enumerate(collapsing())]

    lineage = trace_lineage(series, base="цепь 0 ②", num_resamples=100)

    assert {entry.model for entry in lineage.ranking.entries} == {each.name for each in series}
    assert lineage.choice.start_from == "цепь 1 ②"
    assert "цепь 1 ②" in render_lineage(lineage)


def test_the_same_rollouts_under_five_names_differ_in_nothing() -> None:
    one = collapsing()[0]
    twins = [replace(one, name=f"t{i}") for i in range(5)]
    outcomes = dict.fromkeys((each.name for each in twins), 0.5)

    lineage = trace_lineage(twins, base="t0", outcomes=outcomes, num_resamples=100)

    assert lineage.inversions == ()
    assert {label.phase for label in lineage.phases.labels[1:]} == {Phase.UNCLEAR}
    assert set(lineage.ranks[PASS_AT_1]) == {1}
    assert all(found.spearman is None and found.p_value is None for found in lineage.outcomes)
    assert all(found.regret == 0.0 for found in lineage.outcomes)
    assert {estimate.value for estimate in lineage.relative_entropy.values()} == {1.0}


def test_a_metric_that_one_member_lacks_is_compared_of_none_and_said() -> None:
    first, second, *rest = collapsing()
    silent = member(
        second.name, [replace(each, sequence_entropy=None) for each in second.statistics]
    )

    lineage = trace_lineage([first, silent, *rest], base="base", num_resamples=100)

    assert ENTROPY not in lineage.measures
    assert "epoch1: token entropies were not recorded" in lineage.undefined[ENTROPY]
    assert ENTROPY not in {pair.measure for pair in lineage.pairs}
    assert lineage.relative_entropy == {}


def test_a_reason_says_which_of_both_differences_is_not_resolved() -> None:
    safe = member("safe", drawn(beta_rates(3.0, 3.0), 16, 0.4, seed=1))
    deep = member("deep", drawn(beta_rates(0.1, 0.0985), 16, 0.05, seed=2))

    choice = trace_lineage([safe, deep], num_resamples=400).choice

    assert (choice.start_from, choice.best_pass_at_1) == ("safe", "deep")
    assert len(choice.reasons) == 3
    assert all("resolved; what is not is their difference in pass@1" in r for r in choice.reasons)


def test_ranks_and_relative_entropy_are_those_of_the_values() -> None:
    series = collapsing()

    lineage = trace_lineage(series, base="base", num_resamples=200)

    means = [np.mean([s.sequence_entropy for s in each.statistics]) for each in series]
    assert lineage.ranks[ENTROPY] == (1, 2, 3, 4)
    assert lineage.ranks[PASS_AT_1] == tuple(
        1 + sum(other > own for other in lineage.measures[PASS_AT_1])
        for own in lineage.measures[PASS_AT_1]
    )
    for place, name in enumerate(lineage.names[1:], start=1):
        ratio = lineage.relative_entropy[name]
        assert ratio.value == pytest.approx(means[place] / means[0])
        assert ratio.ci_low < ratio.value < ratio.ci_high


def test_few_prompts_hold_the_true_difference_as_often_as_they_say() -> None:
    population = np.stack([beta_rates(0.6, 1.2, 2000), beta_rates(1.2, 0.6, 2000, seed=8)])
    truth = population[0].mean() - population[1].mean()
    bootstrap = PromptBootstrap(15, 400)
    rng = np.random.default_rng(0)
    held, plain, runs = 0, 0, 1500
    for _ in range(runs):
        rates = population[:, rng.choice(2000, size=15, replace=False)]
        difference = np.subtract(*(rng.binomial(16, rates) / 16))
        draws = bootstrap.means(difference[:, None])[:, 0]
        found = mean_estimate(difference, draws, 0.95, (-1.0, 1.0))
        low, high = interval(draws, 0.95)
        held += found.ci_low <= truth <= found.ci_high
        plain += low <= truth <= high

    assert held / runs == pytest.approx(0.95, abs=0.018)
    assert plain < held - 0.015 * runs  # percentiles of the draws are too narrow


def test_a_difference_that_one_prompt_carries_is_not_taken_for_certain() -> None:
    counts = [8] * 200
    pair = [member("a", prompts(counts, 16)), member("b", prompts([*counts[:-1], 16], 16))]

    found = build_table(pair).measures[SIGNAL].difference(0, 1, 0.95)

    assert found.value == pytest.approx(1 / 200, abs=1e-3)
    assert found.ci_low < 0.0 < found.ci_high


def test_differences_of_many_pairs_are_those_of_each_pair_alone() -> None:
    rng = np.random.default_rng(0)
    draws = rng.normal(size=(200, 40))
    draws[:, 3] = draws[:, 2]  # no spread between these two
    values = draws.mean(axis=0)
    measure = Measure(
        name="m", values=values, draws=draws, left_out=rng.normal(size=(1000, 40)), bounds=(0, 1)
    )
    pairs = list(combinations(range(40), 2))  # more than one part

    together = measure.differences(pairs, 0.95)

    assert together == [measure.difference(*pair, 0.95) for pair in pairs]
    assert together[pairs.index((2, 3))].ci_high > 0.0
