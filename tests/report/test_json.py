import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlflow_rlrisk.config import AssessmentConfig, PolicyConfig
from mlflow_rlrisk.entropy_profile import EntropyProfile
from mlflow_rlrisk.errors import ReportError
from mlflow_rlrisk.report import (
    Component,
    ExampleRollout,
    Metric,
    Provenance,
    RiskLevel,
    RiskReport,
)
from tests.prompt_statistics import prompts, report_of

texts = st.text(max_size=20)
finite = st.floats(allow_nan=False, allow_infinity=False)
metrics = st.builds(
    Metric,
    value=finite,
    ci_low=finite,
    ci_high=finite,
    num_prompts=st.integers(1, 10**6),
    method=st.sampled_from(["bca", "percentile", "sparse", "constant"]),
)
components = st.builds(
    Component,
    straddles=st.booleans(),
    **{name: texts for name in ("name", "measure", "source", "scope")},
    **{
        name: finite
        for name in ("x", "x_low", "x_high", "q", "q_high", "weight", "contribution", "ok", "bad")
    },
)
examples = st.builds(
    ExampleRollout,
    sample_index=st.integers(0, 99),
    num_tokens=st.integers(1, 99),
    reward=st.none() | finite,
    mean_entropy=st.none() | finite,
    reason=st.none() | texts,
    answer=st.none() | texts,
    truth=st.none() | texts,
    **{name: texts for name in ("prompt_id", "prompt", "completion", "status", "finish_reason")},
)
provenances = st.builds(
    Provenance,
    model_reference=texts,
    version=st.none() | texts,
    digests=st.dictionaries(texts, texts, max_size=3),
    sampler=st.dictionaries(texts, texts | finite | st.booleans() | st.none() | st.integers()),
)


@st.composite
def profiles(draw: st.DrawFn) -> EntropyProfile:
    profile = EntropyProfile()
    profile.histogram[:] = draw(st.integers(0, 10**9))
    profile.position_sum[:] = draw(st.floats(0, 1e9))
    profile.position_count[:] = draw(st.integers(0, 10**9))
    return profile


reports = st.builds(
    RiskReport,
    risk_level=st.sampled_from(RiskLevel),
    reasons=st.lists(texts, max_size=3).map(tuple),
    next_steps=st.lists(texts, max_size=3).map(tuple),
    metrics=st.dictionaries(texts, metrics, max_size=3),
    undefined=st.dictionaries(texts, texts, max_size=3),
    level_probabilities=st.dictionaries(texts, finite, max_size=3),
    components=st.lists(components, max_size=3).map(tuple),
    not_assessed=st.dictionaries(texts, texts, max_size=3),
    config=st.builds(AssessmentConfig, group_size=st.integers(2, 64), confidence=st.just(0.9)),
    policy=st.builds(PolicyConfig, name=texts),
    provenance=provenances,
    num_prompts=st.integers(1, 10**6),
    num_rollouts=st.integers(1, 10**6),
    solve_counts=st.lists(st.tuples(*[st.integers(0, 99)] * 3), max_size=3).map(tuple),
    profile=st.none() | profiles(),
    examples=st.lists(examples, max_size=2).map(tuple),
    notes=st.lists(texts, max_size=2).map(tuple),
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(reports)
def test_a_report_comes_back_from_its_json_equal_and_with_the_same_digest(
    report: RiskReport,
) -> None:
    again = RiskReport.from_json(report.to_json())

    assert again == report
    assert again.digest == report.digest
    assert isinstance(again.risk_level, RiskLevel)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_cannot_enter_a_report(number: float) -> None:
    with pytest.raises(ReportError, match="finite"):
        Metric(value=number, ci_low=0.0, ci_high=1.0, num_prompts=1)


def _without(raw: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: item for key, item in raw.items() if key != name}


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (lambda raw: {**raw, "schema_version": 99}, "schema_version=99"),
        (lambda raw: _without(raw, "schema_version"), "schema_version=None"),
        (lambda raw: _without(raw, "metrics"), "metrics"),
        (lambda raw: {**raw, "extra": 1}, "extra"),
        (lambda raw: {**raw, "risk_level": "fine"}, "risk_level"),
        (lambda raw: {**raw, "num_prompts": "12"}, "num_prompts"),
        (lambda raw: {**raw, "profile": {"histogram": []}}, "profile"),
        (lambda raw: {**raw, "config": {**raw["config"], "group_size": 1}}, "group_size"),
        (lambda raw: {**raw, "metrics": {"rlrisk/x": {"value": 1.0}}}, "metrics"),
        (lambda raw: [raw], "schema_version"),
    ],
)
def test_a_damaged_report_is_refused_with_the_field_that_is_wrong(damage: Any, word: str) -> None:
    raw = report_of(prompts([4] * 5, 16)).to_dict()

    with pytest.raises(ReportError, match=word):
        RiskReport.from_json(json.dumps(damage(raw)))


def test_text_that_is_no_json_and_json_with_nan_are_refused() -> None:
    text = report_of(prompts([4] * 5, 16)).to_json()

    with pytest.raises(ReportError, match="not a JSON report"):
        RiskReport.from_json(text[:-10])
    with pytest.raises(ReportError, match="finite"):
        RiskReport.from_json(text.replace('"num_resamples": 400', '"num_resamples": NaN', 1))
