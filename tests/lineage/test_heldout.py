"""The loss on expert data along a lineage whose true losses are known."""

from dataclasses import replace

import numpy as np
import pytest

from mlflow_rlrisk.assessment.wiring import Assessment
from mlflow_rlrisk.errors import ComparabilityError
from mlflow_rlrisk.experts.profile import ExpertProfile, heldout_rises, paired_forget_ratio
from mlflow_rlrisk.lineage import LineageMember, Phase, trace_lineage
from mlflow_rlrisk.lineage_evidence import with_heldout_rises
from mlflow_rlrisk.report import AssessmentContext, RiskLevel
from mlflow_rlrisk.report.advice import LEAST_LOSS
from mlflow_rlrisk.sinks.lineage_page import render_lineage
from mlflow_rlrisk.statistics import interval
from tests.benchmarks.expert_pairs_coverage import draw
from tests.lineage.ladders import beta_rates, drawn, member
from tests.prompt_statistics import report_of

NUM_PROMPTS = 400


def profile(
    level: float, *, noise: float = 0.02, seed: int = 0, expert: str = "e"
) -> ExpertProfile:
    """Loss ``level`` on average; what makes an example hard is the same for every checkpoint."""
    shared = np.random.default_rng(99)
    tokens = shared.integers(5, 40, NUM_PROMPTS).astype(float)
    difficulty = shared.lognormal(0.0, 0.8, NUM_PROMPTS)
    own = np.random.default_rng(seed).normal(0.0, noise, NUM_PROMPTS)
    zeros = np.zeros(NUM_PROMPTS)
    return ExpertProfile(
        identity={"expert": expert, "tokenizer": "t"},
        source="examples",
        examples=np.ones(NUM_PROMPTS),
        tokens=tokens,
        nll=tokens * (level * difficulty / difficulty.mean() + own),
        phi=zeros,
        mastered=zeros,
        disruptive=zeros,
    )


def series(levels: list[float]) -> list[LineageMember]:
    """Equal success and entropy throughout: only the losses differ."""
    rates = beta_rates(3.0, 3.0)
    return [
        replace(
            member(f"v{place}", drawn(rates, 16, 0.4, seed=place)),
            expert=profile(level, seed=place),
        )
        for place, level in enumerate(levels)
    ]


def test_a_version_past_the_least_loss_is_in_overfit_and_its_neighbours_are_not() -> None:
    lineage = trace_lineage(series([1.0, 0.8, 0.7, 0.9]), base="v0", num_resamples=300)

    phases = {label.name: label for label in lineage.phases.labels}
    assert phases["v3"].phase is Phase.OVERFIT
    assert "held-out loss" in phases["v3"].reason
    assert phases["v3"].confidence > 0.95
    assert {phases[name].phase for name in ("v1", "v2")} == {Phase.UNCLEAR}
    assert lineage.phases.validation_loss_minimum == "v2"
    assert [each.is_above for each in lineage.heldout] == [True, True, False, True]
    page = render_lineage(lineage)
    assert "Loss on held-out expert data" in page
    assert "least held-out loss" in page


def test_pairing_resolves_a_rise_that_two_marginal_intervals_do_not() -> None:
    # The examples differ by far more than the checkpoints do.
    lineage = trace_lineage(series([1.0, 0.8, 0.7, 0.73]), base="v0", num_resamples=300)

    least, risen = lineage.heldout[2], lineage.heldout[3]
    assert risen.loss.ci_low < least.loss.ci_high
    assert risen.is_above
    assert risen.relative.value == pytest.approx(risen.loss.value / least.loss.value - 1.0)


def test_members_scored_on_other_examples_are_refused_and_a_gap_is_named() -> None:
    members = series([1.0, 0.8])
    foreign = replace(members[1], expert=profile(0.8, expert="other"))
    absent = replace(members[1], expert=None)

    with pytest.raises(ComparabilityError, match="expert data"):
        trace_lineage([members[0], foreign], num_resamples=50)
    lineage = trace_lineage([members[0], absent], num_resamples=50)
    assert lineage.heldout == ()
    assert "v1" in lineage.undefined["rlrisk/heldout_nll"]


def test_outcomes_rank_by_low_loss() -> None:
    lineage = trace_lineage(
        series([1.0, 0.8, 0.7]), outcomes={"v0": 0.1, "v1": 0.2, "v2": 0.3}, num_resamples=50
    )

    found = {each.measure: each for each in lineage.outcomes}
    assert found["-rlrisk/heldout_nll"].regret == 0.0
    assert "rlrisk/heldout_nll" not in found


def test_a_step_that_speaks_of_a_sibling_names_it() -> None:
    members = [
        replace(
            each,
            report=replace(each.report, risk_level=RiskLevel.MEDIUM, next_steps=(LEAST_LOSS,)),
        )
        for each in series([1.0, 0.8, 0.7])
    ]

    lineage = trace_lineage(members, num_resamples=50)

    loss = {each.name: f"{each.loss.value:.3f}" for each in lineage.heldout}
    start = lineage.choice.start_from
    named = (
        f"v2, which has the best held-out loss of these ({loss['v2']}; here {loss[start or '']})"
    )
    assert f"{start}: weigh it against {named}" in lineage.choice.next_steps


@pytest.mark.parametrize("num_lossy", [0, 1])
def test_a_rise_above_a_loss_that_may_be_nothing_is_undefined_and_ends_no_comparison(
    num_lossy: int,
) -> None:
    # Overtrained versions give a few words a probability that float32 rounds to 1.
    other = profile(1.0)
    lossless = replace(other, nll=np.where(np.arange(NUM_PROMPTS) < num_lossy, other.nll, 0.0))
    statistics = drawn(beta_rates(3.0, 3.0), 16, 0.4, seed=0)
    assessments = [
        Assessment(
            report=report_of(statistics, model=name, context=_losses(found)),
            statistics=statistics,
            folder=None,
            context=_losses(found),
            expert=found,
        )
        for name, found in (("lossless", lossless), ("other", other))
    ]

    judged = with_heldout_rises(assessments)

    for before, after in zip(assessments, judged, strict=True):
        assert "smallest held-out loss may be 0" in after.report.not_assessed["gen_loss"]
        assert after.report.risk_index == before.report.risk_index


def _losses(found: ExpertProfile) -> AssessmentContext:
    return AssessmentContext(heldout_loss=found.evidence(400, 0, 0.95)["heldout_loss"])


def test_rises_hold_the_true_one_as_often_as_they_say() -> None:
    # Fresh examples each time, both losses drawn from known means: the true rise is 0.1 / 0.7.
    covered, runs = 0, 200
    for run in range(runs):
        rng = np.random.default_rng(run)
        difficulty = rng.lognormal(0.0, 0.5, 200)
        scale = difficulty / np.exp(0.125)
        base = profile(1.0)
        low, high = (
            replace(
                base,
                tokens=np.full(200, 10.0),
                examples=np.ones(200),
                nll=10.0 * (level * scale + rng.normal(0.0, 0.05, 200)),
            )
            for level in (0.7, 0.8)
        )
        rise = heldout_rises([low, high], 300, 1, 0.95)[1]
        covered += rise.ci_low <= 0.1 / 0.7 <= rise.ci_high

    assert covered / runs == pytest.approx(0.95, abs=0.05)


def test_intervals_of_skew_losses_hold_where_percentiles_of_the_paired_ratio_do_not() -> None:
    base, sft, rl = (each.loss for each in draw(np.random.default_rng(99), 400_000, 0.3))
    truth = {"rise": rl / sft - 1.0, "forgotten": (rl - sft) / (base - sft)}
    reported, percentiles, runs = dict.fromkeys(truth, 0), dict.fromkeys(truth, 0), 0
    for run in range(500):
        profiles = draw(np.random.default_rng(run), 128, 0.3)
        rises = heldout_rises(profiles[1:], 500, 3, 0.95)
        told = paired_forget_ratio(*profiles, num_resamples=500, seed=3, confidence=0.95)
        if rises[0].value != 0.0 or told.ends is None:
            continue  # these examples do not show the true order
        runs += 1
        first, second, third = (each.loss_draws(500, 3) for each in profiles)
        for name, ends, draws in (
            ("rise", (rises[1].ci_low, rises[1].ci_high), third / second - 1.0),
            ("forgotten", told.ends, (third - second) / (first - second)),
        ):
            low, high = interval(draws)
            reported[name] += ends[0] <= truth[name] <= ends[1]
            percentiles[name] += low <= truth[name] <= high

    assert runs > 450
    for name, held in reported.items():
        assert 0.93 * runs < held < 0.975 * runs
        assert held - percentiles[name] > 0.015 * runs


def test_the_forget_ratio_is_told_only_where_sft_gained() -> None:
    base, sft, rl = profile(1.0), profile(0.6, seed=1), profile(0.7, seed=2)
    settings = {"num_resamples": 300, "seed": 0, "confidence": 0.95}

    told = paired_forget_ratio(base, sft, rl, **settings)  # type: ignore[arg-type]
    untold = paired_forget_ratio(base, profile(1.0, seed=3), rl, **settings)  # type: ignore[arg-type]

    expected = (rl.loss - sft.loss) / (base.loss - sft.loss)
    assert told.value == pytest.approx(expected)
    assert told.value == pytest.approx(0.25, abs=0.03)
    assert told.ends is not None
    assert told.ends[0] < 0.25 < told.ends[1]
    assert untold.value is None
    assert untold.undefined is not None
    assert "do not resolve" in untold.undefined
