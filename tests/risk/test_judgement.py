import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import beta as beta_distribution

from mlflow_rlrisk.config import DEFAULT_COMPONENTS, ComponentConfig, PolicyConfig
from mlflow_rlrisk.errors import ConfigError, StatisticsError
from mlflow_rlrisk.evidence import AssessmentContext, Evidence
from mlflow_rlrisk.metrics.aggregate import constant_draws
from mlflow_rlrisk.report import RiskLevel
from mlflow_rlrisk.risk import Veto
from mlflow_rlrisk.risk.components import CORE, Quantities, assess_components
from mlflow_rlrisk.risk.judgement import risk_index
from mlflow_rlrisk.statistics.groups import critical_success, true_signal
from tests.judgements import HEALTHY, aggregates, judged, metric

NINE = json.loads((Path(__file__).parents[1] / "data" / "nine_public_rungs.json").read_text())
ORDER = {RiskLevel.LOW: 0, RiskLevel.MEDIUM: 1, RiskLevel.HIGH: 2}
WORSE = {name: np.sign(line.bad - line.ok) for name, line in DEFAULT_COMPONENTS.items()}


@pytest.mark.parametrize("rung", NINE["rungs"], ids=lambda r: f"{r['family']}-{r['epochs']}")
def test_the_nine_public_rungs_get_their_documented_index(rung: dict[str, Any]) -> None:
    size = NINE["group_size"]
    pass_at_1 = rung.get("pass_at_1")
    signal = rung["signal"] if pass_at_1 is None else float(true_signal(pass_at_1, size))
    headroom = rung["headroom"] if pass_at_1 is None else pass_at_1 / critical_success(size)
    family = [each for each in NINE["rungs"] if each["family"] == rung["family"]]
    found = aggregates(
        {
            "starvation": signal,
            "headroom": headroom,
            "entropy_abs": rung["entropy"],
            "truncation": 0.0,
        }
    )
    ratio = np.full(200, rung["entropy"] / family[0]["entropy"])
    found.metrics["rlrisk/token_entropy_relative"] = metric(ratio)
    found.draws["rlrisk/token_entropy_relative"] = ratio

    lines = PolicyConfig(components=NINE["components"])
    assessed = assess_components(Quantities(found, AssessmentContext(), 0.95, 0), lines)
    value, draws = risk_index(assessed)

    assert value == pytest.approx(rung["index"], abs=1e-4)
    np.testing.assert_allclose(draws, value, atol=1e-12)


def test_a_healthy_checkpoint_is_low() -> None:
    judgement = judged(aggregates(HEALTHY))

    assert judgement.level is RiskLevel.LOW
    assert judgement.probabilities == {"low": 1.0, "medium": 0.0, "high": 0.0}
    assert not judgement.vetoes


def test_the_signal_veto_needs_the_whole_interval_below_one_half() -> None:
    clear = judged(aggregates({**HEALTHY, "starvation": np.linspace(0.40, 0.49, 200)}))
    astride = judged(aggregates({**HEALTHY, "starvation": np.linspace(0.40, 0.52, 200)}))

    assert (clear.level, clear.vetoes) == (RiskLevel.HIGH, (Veto.SIGNAL,))
    assert astride.level is RiskLevel.MEDIUM
    assert astride.probabilities["high"] == pytest.approx(100 / 120, abs=0.01)


def test_the_starved_veto_needs_the_whole_interval_above_its_line() -> None:
    assert judged(aggregates(HEALTHY, starved=np.linspace(0.71, 0.8, 200))).vetoes == (
        Veto.STARVED,
    )
    assert not judged(aggregates(HEALTHY, starved=np.linspace(0.69, 0.8, 200))).vetoes


def test_an_index_wholly_beyond_its_line_is_high_without_another_veto() -> None:
    judgement = judged(aggregates({**HEALTHY, "starvation": 0.6, "uncovered": 0.3}))

    assert judgement.vetoes == (Veto.INDEX,)
    assert judgement.level is RiskLevel.HIGH
    assert judgement.index is not None
    assert judgement.index.value == pytest.approx(0.7)


def test_a_verifier_no_better_than_chance_is_a_veto() -> None:
    audit = Evidence(value=-0.05, ci_low=-0.1, ci_high=0.0, source="audit")
    judgement = judged(aggregates(HEALTHY), context=AssessmentContext(verifier_youden_j=audit))

    assert Veto.VERIFIER in judgement.vetoes
    assert judgement.level is RiskLevel.HIGH
    assert judgement.probabilities["high"] == 1.0


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"num_prompts": 49}, "49 prompts"),
        ({"context": AssessmentContext(expected_prompts_digest="a")}, "digests differ"),
    ],
)
def test_unknown_comes_before_every_veto(changes: dict[str, Any], word: str) -> None:
    judgement = judged(aggregates({**HEALTHY, "starvation": 0.1}), **changes)

    assert judgement.level is RiskLevel.UNKNOWN
    assert Veto.SIGNAL in judgement.vetoes
    assert word in judgement.gaps[0].reason
    assert judgement.probabilities == {}


def test_more_truncation_than_allowed_is_unknown_not_bad() -> None:
    assert judged(aggregates({**HEALTHY, "truncation": 0.51})).level is RiskLevel.UNKNOWN
    assert judged(aggregates({**HEALTHY, "truncation": 0.50})).level is not RiskLevel.UNKNOWN


@pytest.mark.parametrize("component", sorted(CORE))
def test_a_missing_core_metric_is_unknown_and_leaves_an_index_only_where_it_is_a_guard(
    component: str,
) -> None:
    # Rollouts without logprobs have no entropy: siblings can still be ranked, none is promoted.
    values = {name: value for name, value in HEALTHY.items() if name != component}

    judgement = judged(aggregates(values))

    assert judgement.level is RiskLevel.UNKNOWN
    assert judgement.probabilities == {}
    if component in ("entropy_abs", "headroom", "truncation"):
        whole = judged(aggregates(HEALTHY)).index
        assert judgement.index is not None
        assert whole is not None
        assert judgement.index.value == whole.value
    else:
        assert judgement.index is None
        assert component in (judgement.index_undefined or "")


def test_evidence_that_is_not_given_is_listed_as_not_assessed() -> None:
    assessed = assess_components(
        Quantities(aggregates(HEALTHY), AssessmentContext(), 0.95, 0), PolicyConfig()
    )

    assert {part.name for part in assessed.components} == set(CORE)
    assert set(assessed.not_assessed) == set(DEFAULT_COMPONENTS) - set(CORE)


def test_each_given_evidence_becomes_its_component() -> None:
    found = aggregates(HEALTHY)
    found.metrics["rlrisk/pass_at_64"] = metric(np.full(200, 0.80))
    found.draws["rlrisk/pass_at_64"] = np.full(200, 0.80)
    context = AssessmentContext(
        sibling_pass_at_64=Evidence.exact(0.85, "sibling"),
        heldout_loss=Evidence.exact(1.05, "loss"),
        lowest_heldout_loss=Evidence.exact(1.0, "lowest"),
        verifier_youden_j=Evidence(value=0.7, ci_low=0.4, ci_high=0.9, source="audit"),
        sft_rl_overlap=Evidence.exact(0.25, "exact match"),
        mismatch_kl=Evidence.exact(0.055, "trainer"),
    )

    assessed = assess_components(Quantities(found, context, 0.95, 0), PolicyConfig())

    q = {part.name: part.q for part in assessed.components}
    assert q["coverage"] == pytest.approx(0.5)
    assert q["gen_loss"] == pytest.approx(0.5)
    assert q["verifier"] == pytest.approx(0.5)  # the lower end counts, not the estimate
    assert q["overlap"] == pytest.approx(0.25)
    assert q["mismatch"] == pytest.approx(0.5)


def test_draws_of_evidence_have_its_interval() -> None:
    evidence = Evidence(value=0.5, ci_low=0.4, ci_high=0.8, source="audit")

    draws = evidence.draws(200_000, 0.95, np.random.default_rng(0))

    assert np.quantile(draws, [0.025, 0.975]) == pytest.approx([0.4, 0.8], abs=0.005)


@pytest.mark.parametrize("ends", [(0.6, 0.4), (float("nan"), 1.0), (0.0, float("inf"))])
def test_evidence_outside_its_own_interval_is_refused(ends: tuple[float, float]) -> None:
    with pytest.raises(StatisticsError, match="audit"):
        Evidence(value=0.5, ci_low=ends[0], ci_high=ends[1], source="audit")


def test_a_policy_that_could_not_be_applied_is_refused_before_anything_is_sampled() -> None:
    with pytest.raises(ConfigError, match=r"components.luck='luck': unknown component"):
        PolicyConfig(components={"luck": ComponentConfig(ok=0, bad=1, weight=0.5)})
    # An index of guards alone would be 0: a checkpoint of any kind would be low.
    with pytest.raises(ConfigError, match="guards alone have no index"):
        PolicyConfig(components={"headroom": DEFAULT_COMPONENTS["headroom"]})
    with pytest.raises(ConfigError, match=r"low_below=0\.9"):
        PolicyConfig(low_below=0.9)


draw_arrays = st.lists(st.floats(0.0, 1.0), min_size=8, max_size=8).map(np.array)


@st.composite
def measured(draw: st.DrawFn) -> dict[str, np.ndarray]:
    return {
        "starvation": draw(draw_arrays),
        "uncovered": draw(draw_arrays),
        "headroom": draw(draw_arrays) * 6.0,
        "entropy_abs": draw(draw_arrays) * 0.4,
        "truncation": draw(draw_arrays) * 0.45,
    }


@settings(max_examples=200, deadline=None)
@given(measured(), draw_arrays, st.sampled_from(sorted(CORE)), draw_arrays)
def test_worsening_a_component_never_lowers_the_index_or_the_level(
    values: dict[str, np.ndarray], starved: np.ndarray, name: str, shift: np.ndarray
) -> None:
    worse = dict(values)
    worse[name] = values[name] + WORSE[name] * shift * (0.04 if name == "truncation" else 1.0)

    before = judged(aggregates(values, starved, 8))
    after = judged(aggregates(worse, starved, 8))

    assert before.index is not None
    assert after.index is not None
    for end in ("value", "ci_low", "ci_high"):
        assert getattr(after.index, end) >= getattr(before.index, end) - 1e-12
    assert ORDER[after.level] >= ORDER[before.level]
    assert after.probabilities["high"] >= before.probabilities["high"]
    assert after.probabilities["low"] <= before.probabilities["low"]


@st.composite
def policies_and_tighter(draw: st.DrawFn) -> tuple[PolicyConfig, PolicyConfig]:
    share = st.floats(0.0, 1.0)

    def ordered(low_is_tight: bool) -> tuple[float, float]:
        low, high = sorted((draw(share), draw(share)))
        return (high, low) if low_is_tight else (low, high)

    fields: list[dict[str, Any]] = [{}, {}]
    for name, low_is_tight in (
        ("low_below", True),
        ("high_from", True),
        ("max_truncated_share", True),
        ("veto_starved_above", True),
        ("max_component", True),
        ("veto_signal_below", False),
        ("low_signal_from", False),
    ):
        for each, value in zip(fields, ordered(low_is_tight), strict=True):
            each[name] = value
    for each, value in zip(fields, ordered(False), strict=True):
        each["low_headroom_from"] = 6.0 * value
    for each in fields:
        each["low_below"] = min(each["low_below"], each["high_from"])
    components: list[dict[str, ComponentConfig]] = [{}, {}]
    for name in CORE:
        line = DEFAULT_COMPONENTS[name]
        for each, weight in zip(components, ordered(False), strict=True):
            each[name] = ComponentConfig(ok=line.ok, bad=line.bad, weight=weight)
    assume(any(line.weight for line in components[0].values()))
    loose, tight = (
        PolicyConfig(**each, components=parts)
        for each, parts in zip(fields, components, strict=True)
    )
    return loose, tight


@settings(max_examples=300, deadline=None)
@given(measured(), draw_arrays, policies_and_tighter())
def test_tightening_a_policy_never_lowers_the_level(
    values: dict[str, np.ndarray],
    starved: np.ndarray,
    policies: tuple[PolicyConfig, PolicyConfig],
) -> None:
    loose, tight = (judged(aggregates(values, starved, 8), policy) for policy in policies)

    if RiskLevel.UNKNOWN in (loose.level, tight.level):
        # Only a tighter truncation limit may cost the evidence; it never gains a level.
        assert tight.level is RiskLevel.UNKNOWN
    else:
        assert ORDER[tight.level] >= ORDER[loose.level]


def test_lines_are_met_by_whole_intervals_and_not_by_estimates() -> None:
    values = {**HEALTHY, "uncovered": np.linspace(0.30, 0.37, 200)}

    index_astride = judged(aggregates(values))

    assert index_astride.index is not None
    assert index_astride.index.ci_low < 0.66 <= index_astride.index.ci_high
    assert index_astride.level is RiskLevel.MEDIUM
    audit = Evidence(value=-0.05, ci_low=-0.3, ci_high=0.1, source="audit")
    judgement = judged(aggregates(HEALTHY), context=AssessmentContext(verifier_youden_j=audit))
    assert Veto.VERIFIER not in judgement.vetoes


@pytest.mark.parametrize(
    ("changes", "starved", "lines", "level"),
    [
        ({"uncovered": 0.75}, 0.1, {"low_below": 0.25}, RiskLevel.MEDIUM),
        ({"uncovered": 0.375}, 0.1, {"high_from": 0.625}, RiskLevel.HIGH),
        ({"starvation": 0.5}, 0.1, {"veto_signal_below": 0.5}, RiskLevel.MEDIUM),
        ({"starvation": 0.75}, 0.1, {"low_signal_from": 0.75}, RiskLevel.LOW),
        ({}, 0.7, {"veto_starved_above": 0.7}, RiskLevel.LOW),
        ({"headroom": 4.0}, 0.1, {"low_headroom_from": 4.0}, RiskLevel.LOW),
        ({"uncovered": 1.0}, 0.1, {"max_component": 0.0}, RiskLevel.LOW),
    ],
)
def test_on_a_line_itself_its_name_says_the_level_and_replicates_agree(
    changes: dict[str, float], starved: float, lines: dict[str, float], level: RiskLevel
) -> None:
    judgement = judged(aggregates({**HEALTHY, **changes}, starved), PolicyConfig(**lines))

    assert judgement.level is level
    assert judgement.probabilities[level] == 1.0


def test_the_smallest_number_of_prompts_that_the_policy_asks_for_is_enough() -> None:
    assert judged(aggregates(HEALTHY), num_prompts=50).level is RiskLevel.LOW


def test_replicates_beyond_the_starved_line_count_as_high() -> None:
    judgement = judged(aggregates(HEALTHY, starved=np.linspace(0.6, 0.8, 200)))

    assert judgement.probabilities["high"] == pytest.approx(0.5, abs=0.01)


def test_a_component_straddles_where_its_interval_crosses_the_severity_line() -> None:
    found = aggregates({**HEALTHY, "entropy_abs": np.linspace(0.19, 0.23, 200)})

    assessed = assess_components(Quantities(found, AssessmentContext(), 0.95, 0), PolicyConfig())

    assert [part.name for part in assessed.components if part.straddles] == ["entropy_abs"]


def test_draws_of_combined_evidence_lie_around_its_value() -> None:
    context = AssessmentContext(
        heldout_loss=Evidence(value=1.05, ci_low=1.04, ci_high=1.06, source="loss"),
        lowest_heldout_loss=Evidence.exact(1.0, "lowest"),
    )

    assessed = assess_components(Quantities(aggregates(HEALTHY), context, 0.95, 0), PolicyConfig())

    quantity = assessed.find("gen_loss")
    assert quantity is not None
    assert quantity.draws.mean() == pytest.approx(0.05, abs=0.002)
    assert (quantity.low, quantity.high) == pytest.approx((0.04, 0.06), abs=0.003)


@pytest.mark.parametrize(("value", "sign"), [(0.0, 1.0), (1.0, -1.0)])
def test_draws_where_all_prompts_agree_follow_the_posterior_of_how_many_might_not(
    value: float, sign: float
) -> None:
    draws = constant_draws(value, (0.0, 1.0), 60, 100_000, np.random.default_rng(0))

    expected = beta_distribution.ppf([0.5, 0.975], 0.5, 60.5)
    assert np.quantile(sign * (draws - value), [0.5, 0.975]) == pytest.approx(expected, rel=0.05)
