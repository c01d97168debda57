"""Copies with scaled logits, and versions whose entropy alone would mislead."""

from dataclasses import replace

import numpy as np
import pytest

from mlflow_rlrisk.lineage import LineageMember, Phase, Rescaling, trace_lineage
from mlflow_rlrisk.lineage.scaling import TokenLogprobs, find_rescalings
from mlflow_rlrisk.sinks.lineage_page import render_lineage
from tests.lineage.ladders import beta_rates, collapsing, drawn, member


def logits(seed: int, num_contexts: int = 60) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.0, 2.0, size=(num_contexts, 12))


def sampled(scores: np.ndarray, seed: int, rounding: type = np.float32) -> TokenLogprobs:
    """Eight draws in each context of a policy with these logits, as a sampler records them."""
    rng = np.random.default_rng(seed)
    logs = scores - np.logaddexp.reduce(scores, axis=1)[:, None]
    return {
        (f"p{place}", ()): {
            int(token): float(rounding(row[token]))
            for token in rng.choice(row.size, size=8, p=np.exp(row))
        }
        for place, row in enumerate(logs)
    }


@pytest.mark.parametrize("factor", [2.5, 0.5, 1.2])
def test_a_copy_is_found_with_its_factor_and_a_trained_version_is_not(factor: float) -> None:
    base = logits(0)
    trained = base + 0.5 * logits(1)

    found = find_rescalings(
        {
            "base": sampled(base, 1),
            "trained": sampled(trained, 2),
            "copy": sampled(factor * base, 3),
            "twin": sampled(base, 4),
        }
    )

    assert [(each.name, each.original) for each in found] == [("copy", "base")]
    assert found[0].factor == pytest.approx(factor, rel=1e-5)
    assert found[0].error < 1e-6
    assert found[0].is_sharpened is (factor > 1.0)


def test_a_sharpened_policy_that_was_also_trained_a_little_is_no_copy() -> None:
    base = logits(0)

    found = find_rescalings(
        {"base": sampled(base, 1), "other": sampled(2.0 * base + 0.3 * logits(2), 2)}
    )

    assert found == ()


def test_logprobs_as_coarse_as_half_precision_still_tell() -> None:
    base = logits(0)

    found = find_rescalings(
        {"base": sampled(base, 1, np.float16), "copy": sampled(2.0 * base, 2, np.float16)}
    )

    assert found[0].factor == pytest.approx(2.0, abs=0.01)


def test_few_common_contexts_and_a_named_parent_are_respected() -> None:
    base = logits(0)
    few = {key: value for key, value in list(sampled(2.0 * base, 2).items())[:10]}

    assert find_rescalings({"base": sampled(base, 1), "copy": few}) == ()
    found = find_rescalings(
        {"flat": sampled(0.5 * base, 1), "deep": sampled(base, 2)}, {"flat": "deep"}
    )
    assert [(each.name, each.original) for each in found] == [("flat", "deep")]


def controls() -> list[LineageMember]:
    """The collapsing ladder, its last rung flattened, and the base sharpened."""
    flat = member("flattened", drawn(beta_rates(0.3, 0.7), 32, 0.60, seed=21))
    sharp = member("sharpened", drawn(beta_rates(6.0, 3.0), 32, 0.20, seed=22))
    return [*collapsing(), flat, sharp]


COPIES = tuple(
    Rescaling(name=n, original=o, factor=f, num_tokens=500, num_contexts=200, error=1e-6)
    for n, o, f in (("flattened", "epoch25", 0.5), ("sharpened", "base", 2.5))
)


def test_the_report_says_once_what_each_control_is_and_starts_from_neither() -> None:
    lineage = trace_lineage(controls(), base="base", rescalings=COPIES, num_resamples=400)

    said = {
        name: [note for note in lineage.notes if note.startswith(name)]
        for name in ("flattened", "sharpened")
    }
    assert len(said["flattened"]) == len(said["sharpened"]) == 1
    assert "epoch25 flattened: the same policy with its logits times 0.5" in said["flattened"][0]
    assert "noise, not exploration" in said["flattened"][0]
    assert "epoch25 (high)" in said["flattened"][0]
    assert "base sharpened: the same policy with its logits times 2.5" in said["sharpened"][0]
    assert "no exploration lost by training" in said["sharpened"][0]
    assert lineage.choice.start_from == "epoch1"
    assert lineage.choice.best_pass_at_1 == "sharpened"
    copied, *against = lineage.choice.reasons
    assert "sharpened is base with its logits times 2.5" in copied
    assert all("for epoch1" in why and "for epoch25" in why for why in against)  # the best trained
    assert "resolved against" in against[0]
    assert any(each.startswith("if it has to be epoch25:") for each in lineage.choice.next_steps)
    assert {label.name for label in lineage.phases.labels} == {
        "base",
        "epoch1",
        "epoch5",
        "epoch25",
    }
    # Their entropy is against the order by pass@1, and that predicts nothing.
    inverted = {name for pair in lineage.inversions for name in (pair.first, pair.second)}
    assert inverted == {"base", "epoch1", "epoch5", "epoch25"}
    page = render_lineage(lineage)
    assert "Copies with scaled logits are left out." in page
    assert "flattened copy of epoch25" in page
    assert "sharpened copy of base" in page


def test_without_rollouts_the_same_two_are_told_by_what_they_solve() -> None:
    lineage = trace_lineage(controls(), base="base", num_resamples=400)

    flat = next(note for note in lineage.notes if note.startswith("flattened"))
    sharp = next(note for note in lineage.notes if "sharpened (" in note)
    assert "such entropy is noise" in flat
    assert "than that of base" in sharp
    assert "sharpened, not collapsed" in sharp
    assert "epoch25" not in sharp  # it solves less


def test_two_runs_of_training_are_labelled_apart() -> None:
    base, *rungs = collapsing()
    members = [
        base,
        *(replace(each, name=f"{run}-{each.name}", series=run) for run in "ab" for each in rungs),
    ]
    members = [
        replace(
            m,
            report=replace(
                m.report, provenance=replace(m.report.provenance, model_reference=m.name)
            ),
        )
        for m in members
    ]

    lineage = trace_lineage(members, base="base", num_resamples=200)
    alone = trace_lineage(collapsing(), base="base", num_resamples=200)

    labels = {label.name: label for label in lineage.phases.labels}
    expected = {label.name: label.phase for label in alone.phases.labels}
    assert {s.series for s in lineage.series} == {"a", "b"}
    for run in "ab":
        for rung in ("epoch1", "epoch5", "epoch25"):
            assert labels[f"{run}-{rung}"].phase is expected[rung]
            assert labels[f"{run}-{rung}"].series == run
    assert labels["base"].phase is Phase.BASE
    assert lineage.phases.recommended is None
    assert "a: Interval to look at" in render_lineage(lineage)


def test_outcomes_of_several_runs_are_compared_within_each() -> None:
    base, *rungs = collapsing()
    members = [base, *(replace(each, series="a") for each in rungs)]
    known = {"base": 0.9, "epoch1": 0.2, "epoch5": 0.3, "epoch25": 0.4}

    lineage = trace_lineage(members, base="base", outcomes=known, num_resamples=100)

    by_pass = next(each for each in lineage.outcomes if each.measure == "rlrisk/pass_at_1")
    assert by_pass.within is not None
    assert by_pass.within > 0.9
    assert by_pass.spearman is not None
    assert by_pass.spearman < 0.0
    assert by_pass.is_sign_reversed
    assert "Simpson" in by_pass.remark


def test_the_base_is_not_called_noise_for_solving_less_than_what_was_trained_from_it() -> None:
    base = member("base", drawn(beta_rates(1.0, 4.0), 32, 0.50, seed=1))
    better = member("better", drawn(beta_rates(4.0, 3.0), 32, 0.30, seed=2))

    told = trace_lineage([base, better], base="base", num_resamples=400).notes
    untold = trace_lineage([base, better], num_resamples=400).notes

    assert not any("noise" in note for note in told)
    assert any("earlier stage of training (--base tells)" in note for note in untold)
