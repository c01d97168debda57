"""Two checkpoints that solve as much, on other prompts: rounding puts neither ahead."""

from math import comb

import numpy as np
import pytest

from mlflow_rlrisk.comparison import rank
from mlflow_rlrisk.lineage import trace_lineage
from mlflow_rlrisk.statistics import PromptBootstrap
from tests.lineage.ladders import member
from tests.prompt_statistics import prompts

NUM_SAMPLES = 10  # tenths are no binary fractions, so sums of them depend on their order


def solved(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Solve counts of 60 prompts, and the same counts on other ones."""
    rng = np.random.default_rng(seed)
    counts = rng.binomial(NUM_SAMPLES, rng.beta(2, 2, 60))
    return counts, rng.permutation(counts)


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
