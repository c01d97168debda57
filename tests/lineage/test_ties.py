"""Two checkpoints that solve as much, on other prompts: rounding puts neither ahead."""

from dataclasses import replace
from math import comb

import numpy as np
import pytest

from mlflow_rlrisk.comparison import rank
from mlflow_rlrisk.experts.profile import ExpertProfile, heldout_rises
from mlflow_rlrisk.lineage import LineageMember, rank_evidence, trace_lineage
from mlflow_rlrisk.statistics import PromptBootstrap
from tests.lineage.ladders import member
from tests.prompt_statistics import prompts, report_of

NUM_SAMPLES = 10  # tenths are no binary fractions, so sums of them depend on their order


def solved(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Solve counts of 60 prompts, and the same counts on other ones."""
    rng = np.random.default_rng(seed)
    counts = rng.binomial(NUM_SAMPLES, rng.beta(2, 2, 60))
    return counts, rng.permutation(counts)


def equal_ladder(seed: int) -> list[LineageMember]:
    """Four versions with the same solve counts, entropies and losses, each on other prompts."""
    rng = np.random.default_rng(seed)
    counts, entropies = solved(seed)[0], rng.integers(1, 9, 60) / NUM_SAMPLES
    losses = rng.integers(1, 30, 60) / NUM_SAMPLES
    orders = [rng.permutation(60) for _ in "abcd"]
    return [
        replace(
            member(name, prompts(counts[order], NUM_SAMPLES, entropies[order])),
            expert=expert(losses[order]),
        )
        for name, order in zip("abcd", orders, strict=True)
    ]


def expert(losses: np.ndarray) -> ExpertProfile:
    """Examples of one token with these losses."""
    ones, zeros = np.ones(losses.size), np.zeros(losses.size)
    return ExpertProfile(
        identity={"expert": "e", "tokenizer": "t"},
        source="examples",
        examples=ones,
        tokens=ones,
        nll=losses,
        phi=zeros,
        mastered=zeros,
        disruptive=zeros,
    )


@pytest.mark.parametrize("seed", [0, 4, 8, 9])
def test_of_versions_that_are_equal_but_for_rounding_the_first_is_named(seed: int) -> None:
    members = equal_ladder(seed)

    alone = trace_lineage(members, num_resamples=50)
    series = trace_lineage(members, base="a", num_resamples=50)

    assert {change.reference for change in alone.coverage} == {"a"}
    assert all(pair.first < pair.second for pair in alone.pairs)
    assert series.phases.diversity_peak == "b"  # the base is no candidate
    assert series.phases.validation_loss_minimum == "a"
    assert [each.name for each in series.heldout if each.above_least.ci_low == 0.0] == ["a"]
    profiles = [each.expert for each in members if each.expert is not None]
    rises = heldout_rises(profiles, num_resamples=50, seed=0, confidence=0.95)
    assert ["the least of 4" in each.source for each in rises] == [True, False, False, False]


def test_a_ratio_to_the_spread_of_equal_versions_is_undefined() -> None:
    lineages = [trace_lineage(equal_ladder(seed), num_resamples=50) for seed in range(4)]

    ratios = [each.spread_ratio for lineage in lineages for each in lineage.agreement]

    assert ratios == [None] * len(ratios)


def test_losses_that_differ_by_rounding_alone_are_not_above_one_another() -> None:
    losses = [np.full(60, 0.1 + 0.2), np.full(60, 0.3)]
    members = [
        replace(each, expert=expert(own))
        for each, own in zip(equal_ladder(0), losses, strict=False)
    ]

    found = trace_lineage(members, num_resamples=50).heldout

    assert [each.is_above for each in found] == [False, False]


@pytest.mark.parametrize("seed", range(4))
def test_a_loss_of_exactly_what_is_negligible_is_negligible(seed: int) -> None:
    # One of 150 prompts is lost, on the 95 % quantile of the resamples three: 0.02 of them.
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, NUM_SAMPLES, 150)
    counts[0] = NUM_SAMPLES
    fewer = np.where(np.arange(150) == 0, 0, counts)
    entropies = rng.uniform(0.4, 0.6, 150)
    members = [
        member("a", prompts(counts, NUM_SAMPLES, entropies)),
        member("b", prompts(fewer, NUM_SAMPLES, entropies - 0.1)),
    ]

    lineage = trace_lineage(members, base="a", num_resamples=400, seed=seed)

    times_drawn = PromptBootstrap(150, 400, seed).sums(np.eye(150)[:, :1])[:, 0]
    assert np.quantile(times_drawn, 0.95) == 3  # what this test is about occurs
    assert any(
        note.startswith("b: its entropy is lower and it solves no") for note in lineage.notes
    )


def test_prompts_whose_solve_rates_moved_as_far_are_named_in_the_order_of_their_ids() -> None:
    high, low = prompts([100, 90], 100), prompts([40, 30], 100)

    ((fell,), (rose,)) = (
        trace_lineage([member("a", one), member("b", other)], base="a", num_resamples=50).coverage
        for one, other in ((high, low), (low, high))
    )

    assert fell.lost_prompts == ("p00000", "p00001")
    assert rose.gained_prompts == ("p00000", "p00001")


def test_means_of_the_same_outcomes_in_another_order_tie() -> None:
    runs = [0.1, 0.2, 0.3]

    found = rank_evidence("measure", [1.0, 2.0], [sum(runs) / 3, sum(runs[::-1]) / 3])

    assert (found.spearman, found.num_pairs, found.regret) == (None, 0, 0.0)


def test_shares_half_way_between_two_decimals_tie() -> None:
    # An odd count over 40960 ends in 5 at the thirteenth decimal place.
    rng = np.random.default_rng(9)
    counts = rng.binomial(NUM_SAMPLES, rng.beta(2, 2, 4096))
    reports = [
        report_of(prompts(each, NUM_SAMPLES), model=name, num_resamples=200)
        for name, each in zip("ab", (counts, rng.permutation(counts)), strict=True)
    ]

    ranking = rank(reports)

    assert counts.sum() % 2 == 1
    assert [entry.pass_at_1_rank for entry in ranking.entries] == [1, 1]


@pytest.mark.parametrize("seed", [0, 7, 15, 30])
def test_equal_solve_counts_share_their_ranks_and_disagree_in_nothing(seed: int) -> None:
    members = [
        member(name, prompts(counts, NUM_SAMPLES))
        for name, counts in zip("ab", solved(seed), strict=True)
    ]

    ranking = rank([each.report for each in members])
    lineage = trace_lineage(members, num_resamples=100)

    assert [entry.pass_at_1_rank for entry in ranking.entries] == [1, 1]
    assert ranking.disagreements == ()
    assert not ranking.are_tops_different
    assert lineage.ranks["rlrisk/pass_at_1"] == (1, 1)


def test_a_resample_in_which_pass_at_1_ties_is_not_inverted() -> None:
    first, second = solved(0)
    members = [member("a", prompts(first, NUM_SAMPLES)), member("b", prompts(second, NUM_SAMPLES))]

    lineage = trace_lineage(members, num_resamples=2000, seed=3)

    # Whole numbers have no rounding: 10 pass@1 and C(10, 4) (1 - pass@4).
    fails = np.array([comb(NUM_SAMPLES - c, 4) for c in range(NUM_SAMPLES + 1)])
    whole = np.stack([first - second, fails[second] - fails[first]], axis=1)
    sums = PromptBootstrap(60, 2000, 3).sums(whole.astype(float))
    expected = (sums[:, 0] * sums[:, 1] < 0).mean()
    assert (sums == 0).any()  # what this test is about occurs
    (pair,) = [each for each in lineage.pairs if each.measure == "rlrisk/pass_at_4"]
    assert pair.probability_inverted == expected


def test_two_checkpoints_of_one_pass_at_1_are_not_inverted_in_the_evaluate_module() -> None:
    evaluate = pytest.importorskip("evaluate")
    from mlflow_rlrisk.evaluate_modules import evaluate_path

    module = evaluate.load(evaluate_path("rlrisk_rank_inversion"), keep_in_memory=True)
    first, second = solved(0)
    rewards = [
        [[1.0] * c + [0.0] * (NUM_SAMPLES - c) for c in counts.tolist()]
        for counts in (first, second)
    ]

    found = [
        module.compute(predictions1=one, predictions2=other, k=4, num_resamples=10)["is_inverted"]
        for one, other in (
            (rewards[0], [*rewards[1][1:], rewards[1][0]]),
            (rewards[1], [*rewards[0][1:], rewards[0][0]]),
        )
    ]

    assert found == [False, False]
