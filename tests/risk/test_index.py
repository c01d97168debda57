"""The index itself: what coverage leaves, graded to its very end, unless there is no signal."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlflow_rlrisk.calibration import index_of
from mlflow_rlrisk.config import DEFAULT_COMPONENTS, PolicyConfig
from mlflow_rlrisk.evidence import AssessmentContext
from mlflow_rlrisk.report import RiskLevel
from mlflow_rlrisk.risk.components import ALL_WRONG, Quantities, assess_components
from mlflow_rlrisk.risk.judgement import risk_index
from mlflow_rlrisk.sinks.registered_outcomes import is_of_present_formula
from tests.judgements import HEALTHY, aggregates, metric
from tests.prompt_statistics import prompt, prompts, report_of

shares = st.floats(0.0, 1.0)


@given(shares, shares, shares)
def test_the_index_is_what_coverage_leaves_and_full_without_any_signal(
    signal: float, coverage: float, less: float
) -> None:
    lines = PolicyConfig()
    values = {**HEALTHY, "starvation": signal, "uncovered": coverage}

    def index(changed: dict[str, float]) -> float:
        found = aggregates(changed, num_draws=8)
        quantities = Quantities(found, AssessmentContext(), 0.95, 0)
        return risk_index(assess_components(quantities, lines))[0]

    carried = min(20.0 * signal, 1.0)  # counts where next to none is left
    assert index(values) == pytest.approx(1.0 - carried * coverage, abs=1e-12)
    worse = {**values, "uncovered": coverage * less}
    if carried * coverage * (1.0 - less) > 1e-9:
        assert index(worse) > index(values)
    assert index({**values, "starvation": 0.0}) == 1.0


@given(shares, shares, shares)
def test_what_is_all_right_starves_nobody(signal: float, wrong: float, coverage: float) -> None:
    lines = PolicyConfig()
    mixed = signal * (1.0 - wrong)

    def index(all_wrong: float) -> float:
        found = aggregates({**HEALTHY, "starvation": mixed, "uncovered": coverage}, num_draws=8)
        found.metrics[ALL_WRONG] = metric(np.full(8, all_wrong))
        found.draws[ALL_WRONG] = np.full(8, all_wrong)
        return risk_index(
            assess_components(Quantities(found, AssessmentContext(), 0.95, 0), lines)
        )[0]

    # The rest of the groups, 1 - mixed - wrong, is all right and does not count.
    left = mixed / (mixed + wrong) if mixed + wrong > 0.0 else 1.0
    assert index(wrong) == pytest.approx(1.0 - min(20.0 * left, 1.0) * coverage, abs=1e-9)
    assert index(0.0) == pytest.approx(1.0 - coverage)
    assert index(1.0 - mixed) >= index(wrong) - 1e-12


def test_a_checkpoint_that_solves_everything_has_a_high_level_and_no_high_index() -> None:
    report = report_of(prompts([16] * 60, 16))

    assert report.metrics["rlrisk/risk_index"].value == 0.0
    assert report.risk_level is RiskLevel.HIGH
    assert "100% all correct" in report.reasons[0]
    assert index_of(
        {name: each.value for name, each in report.metrics.items()}, DEFAULT_COMPONENTS
    ) == pytest.approx(0.0)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(0, 16), min_size=2, max_size=40))
def test_bare_figures_give_the_index_of_the_report(solved: list[int]) -> None:
    report = report_of(prompts(solved, 16))

    bare = {name: each.value for name, each in report.metrics.items()}

    assert index_of(bare, DEFAULT_COMPONENTS) == pytest.approx(
        report.metrics["rlrisk/risk_index"].value
    )


def test_coverage_is_read_at_the_most_attempts_sampled_up_to_64() -> None:
    found = aggregates(HEALTHY)
    for k, value in ((16, 0.7), (64, 0.9), (128, 0.99)):
        found.metrics[f"rlrisk/pass_at_{k}"] = metric(np.full(200, value))
        found.draws[f"rlrisk/pass_at_{k}"] = np.full(200, value)

    assessed = assess_components(Quantities(found, AssessmentContext(), 0.95, 0), PolicyConfig())

    read = {part.name: (part.measure, part.x) for part in assessed.components}
    assert read["uncovered"] == ("pass@64", pytest.approx(0.9))


def test_graded_rewards_below_the_threshold_of_success_starve_nobody_where_they_differ() -> None:
    graded = [
        prompt(i, 0, 16, rewards=tuple(0.05 * j for j in range(16))) for i in range(60)
    ]  # every group differs, none succeeds
    report = report_of(graded, success_threshold=1.0)

    part = next(part for part in report.components if part.name == "starvation")
    assert report.metrics["rlrisk/group_signal_fraction"].value == pytest.approx(1.0)
    assert report.metrics["rlrisk/frac_all_wrong"].value == pytest.approx(1.0)
    assert (part.x, part.q) == (pytest.approx(1.0), 0.0)


def test_what_makes_the_index_1_stands_among_the_reasons() -> None:
    report = report_of(prompts([16] * 199 + [0], 16))

    assert report.metrics["rlrisk/risk_index"].value == 1.0
    assert any("among groups not all right 0" in reason for reason in report.reasons)


@pytest.mark.parametrize("solved", [[16] * 120 + [8] * 80, [16] * 70 + [8] * 130])
def test_a_short_group_signal_has_its_steps_where_a_policy_has_no_starvation(
    solved: list[int],
) -> None:
    lines = {name: line for name, line in DEFAULT_COMPONENTS.items() if name != "starvation"}

    report = report_of(prompts(solved, 16), policy=PolicyConfig(components=lines))

    assert any("always solved" in step for step in report.next_steps)
    assert not any("assess more prompts" in step for step in report.next_steps)


def test_an_index_of_the_former_formula_is_known_by_what_its_starvation_read() -> None:
    report = report_of(prompts([16] * 199 + [15], 16))
    parts = tuple(
        replace(
            part, measure="group signal", x=report.metrics["rlrisk/group_signal_fraction"].value
        )
        if part.name == "starvation"
        else part
        for part in report.components
    )

    assert is_of_present_formula(report)
    assert not is_of_present_formula(replace(report, components=parts))


@pytest.mark.parametrize(
    ("solved", "changes"),
    [
        ([8] * 190 + [0] * 10, {"starvation": (1.0, 0.0)}),  # enough signal, but not for its line
        ([16] * 120 + [8] * 80, {}),  # below the veto, where `low` asks for no signal
    ],
)
def test_lines_of_a_users_own_policy_have_their_steps(
    solved: list[int], changes: dict[str, tuple[float, float]]
) -> None:
    lines = dict(DEFAULT_COMPONENTS)
    for name, (ok, bad) in changes.items():
        lines[name] = lines[name].model_copy(update={"ok": ok, "bad": bad})
    own = PolicyConfig(components=lines, low_signal_from=0.0, low_agreement_from=1.0)

    report = report_of(prompts(solved, 16), policy=own)

    assert report.risk_level in (RiskLevel.MEDIUM, RiskLevel.HIGH)
    assert any("times the rollouts if groups without signal" in step for step in report.next_steps)
