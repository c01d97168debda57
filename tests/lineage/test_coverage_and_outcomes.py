import numpy as np
import pytest

from mlflow_rlrisk.lineage import LineageMember
from mlflow_rlrisk.lineage.coverage import CoverageChange, coverage_changes
from mlflow_rlrisk.lineage.outcomes import rank_evidence
from mlflow_rlrisk.statistics import PromptBootstrap
from tests.lineage.ladders import drawn, member
from tests.prompt_statistics import prompts

# Aphale and Liu, arXiv:2606.18487: pass@1 and change of pass@10 of nine rungs of two families.
PASS1 = [0.151, 0.163, 0.159, 0.173, 0.187, 0.351, 0.384, 0.415, 0.413]
DELTA = [-0.067, -0.017, -0.061, -0.110, -0.148, 0.003, 0.024, 0.017, 0.021]
FAMILY = ["qwen"] * 5 + ["deepseek"] * 4


def coverage_change(
    reference: LineageMember, checkpoint: LineageMember, bootstrap: PromptBootstrap
) -> CoverageChange | None:
    return next(iter(coverage_changes(reference, [checkpoint], bootstrap)), None)


def test_lost_and_gained_problems_are_estimated_without_bias() -> None:
    rng = np.random.default_rng(3)
    before, after = rng.beta(1.0, 2.0, size=40), rng.beta(2.0, 1.5, size=40)
    k = 4
    solves, still = 1 - (1 - before) ** k, 1 - (1 - after) ** k
    truth = ((solves * (1 - still)).mean(), ((1 - solves) * still).mean())
    twin = (solves * (1 - solves)).mean()
    bootstrap = PromptBootstrap(40, 200)
    found = []
    for seed in range(150):
        change = coverage_change(
            member("a", drawn(before, 8, 0.3, seed)),
            member("b", drawn(after, 8, 0.3, 1000 + seed)),
            bootstrap,
        )
        assert change is not None
        found.append((change.lost.value, change.gained.value, change.lost_to_chance))

    means, errors = np.mean(found, axis=0), np.std(found, axis=0) / np.sqrt(150)
    assert np.all(np.abs(means - [*truth, twin]) <= 4 * errors)


def test_curves_that_cross_are_found_between_the_resolved_ends() -> None:
    # The reference solves half of the prompts sometimes, the checkpoint a quarter of them always.
    wide = prompts([8] * 60 + [0] * 40, 64)
    narrow = prompts([64] * 25 + [0] * 75, 64)

    change = coverage_change(member("wide", wide), member("narrow", narrow), PromptBootstrap(100))

    assert change is not None
    curve = dict(change.curve)
    assert curve[1].value == pytest.approx(0.25 - 0.075)
    assert curve[32].value < -0.3
    (before, after) = change.crossings[0]
    assert curve[before].value > 0.0 > curve[after].value


def test_a_prompt_is_named_lost_only_when_the_fall_is_more_than_chance() -> None:
    before = prompts([32, 16, 1, 0, 0], 32)
    after = prompts([0, 15, 0, 0, 32], 32)

    change = coverage_change(member("a", before), member("b", after), PromptBootstrap(5))

    assert change is not None
    assert change.lost_prompts == ("p00000",)
    assert change.gained_prompts == ("p00004",)


def test_one_rollout_a_prompt_or_undefined_success_has_no_coverage() -> None:
    single = member("a", prompts([1, 0], 1), group_size=2)

    assert coverage_change(single, single, PromptBootstrap(2)) is None


def test_pooled_families_that_turn_the_sign_are_told_apart() -> None:
    evidence = rank_evidence("pass@1", PASS1, DELTA, FAMILY)

    assert evidence.spearman == pytest.approx(2 / 3, abs=0.02)  # published .667 on exact rates
    assert evidence.within is not None
    assert evidence.within < 0.0
    assert evidence.is_sign_reversed
    assert "Simpson" in evidence.remark


def test_the_published_ladder_gives_the_published_statistics() -> None:
    peak = [0.806, 0.750, 0.671, 0.608, 0.481]
    entropy = [0.227, 0.163, 0.156, 0.171, 0.120]

    by_pass, by_entropy = rank_evidence("p", PASS1[:5], peak), rank_evidence("H", entropy, peak)

    assert by_pass.spearman == pytest.approx(-0.9)
    assert by_pass.p_value == pytest.approx(0.0833, abs=1e-4)
    assert (by_pass.discordant, by_pass.num_pairs) == (9, 10)
    assert by_pass.kendall == pytest.approx(-0.8)
    assert by_pass.regret == pytest.approx(0.325)
    assert by_entropy.spearman == pytest.approx(0.7)
    assert by_entropy.p_value == pytest.approx(0.2333, abs=1e-4)
    assert (by_entropy.discordant, by_entropy.regret) == (2, 0.0)
    assert by_pass.smallest_p == pytest.approx(2 / 120)


def test_a_measure_that_does_not_vary_has_no_correlation() -> None:
    evidence = rank_evidence("flat", [0.5, 0.5, 0.5], [0.1, 0.2, 0.3])

    assert evidence.spearman is None
    assert evidence.p_value is None
    assert evidence.regret == pytest.approx(0.2)
