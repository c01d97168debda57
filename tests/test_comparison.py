import json
from dataclasses import replace
from typing import Any

import pytest

from mlflow_rlrisk.comparison import check_comparable, rank
from mlflow_rlrisk.config import PolicyConfig, SamplingConfig
from mlflow_rlrisk.errors import ComparabilityError
from mlflow_rlrisk.report import AssessmentContext, Evidence, RiskLevel, RiskReport
from tests.prompt_statistics import DIGESTS, ladder_rung, prompt, prompts, report_of


@pytest.fixture(scope="module")
def ladder() -> list[RiskReport]:
    rungs = [(0.06, 0.04, 0.01), (1.2, 1.8, 0.3), (0.6, 0.5, 0.12)]
    return [report_of(ladder_rung(*rung), model=f"models:/sft/{i}") for i, rung in enumerate(rungs)]


def test_the_ranking_by_risk_and_by_pass_at_1_and_where_they_disagree(
    ladder: list[RiskReport],
) -> None:
    comparison = rank(ladder)

    assert [entry.model[-1] for entry in comparison.entries] == ["1", "2", "0"]
    assert [entry.risk_rank for entry in comparison.entries] == [1, 2, 3]
    assert [entry.pass_at_1_rank for entry in comparison.entries] == [3, 2, 1]
    pairs = {(pair.higher_pass_at_1[-1], pair.lower_risk[-1]) for pair in comparison.disagreements}
    assert pairs == {("0", "1"), ("0", "2"), ("2", "1")}
    assert comparison.are_tops_different
    json.dumps(comparison.to_dict(), allow_nan=False)


def test_rankings_that_agree_have_no_disagreement() -> None:
    weak = report_of(ladder_rung(0.3, 2.0, 0.1), model="weak")
    strong = report_of(ladder_rung(1.5, 1.5, 0.3), model="strong")

    comparison = rank([weak, strong])

    assert [entry.model for entry in comparison.entries] == ["strong", "weak"]
    assert comparison.disagreements == ()
    assert not comparison.are_tops_different


def test_equal_risks_and_equal_pass_at_1_share_a_rank_and_the_safest_goes_first(
    ladder: list[RiskReport],
) -> None:
    safe, risky = ladder[1], ladder[0]
    twins = [
        replace(safe, provenance=replace(safe.provenance, model_reference=name)) for name in "ab"
    ]
    equal = {"rlrisk/pass_at_1": safe.metrics["rlrisk/pass_at_1"]}
    lucky = replace(risky, metrics={**risky.metrics, **equal})

    comparison = rank([lucky, *twins])

    assert [entry.model for entry in comparison.entries] == ["a", "b", "models:/sft/0"]
    assert [entry.risk_rank for entry in comparison.entries] == [1, 1, 3]
    assert [entry.pass_at_1_rank for entry in comparison.entries] == [1, 1, 1]
    assert not comparison.are_tops_different


def test_an_unknown_level_comes_last_and_takes_no_part_in_disagreements() -> None:
    known = report_of(ladder_rung(1.2, 1.8, 0.3), model="known")
    statistics = [replace(each, num_truncated=16) for each in ladder_rung(3, 1, 0.5)]
    unknown = report_of(statistics, model="unknown")

    comparison = rank([unknown, known])

    assert [entry.model for entry in comparison.entries] == ["known", "unknown"]
    assert comparison.disagreements == ()


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"digests": {**DIGESTS, "prompts": "other"}}, r"prompts \("),
        ({"digests": {**DIGESTS, "verifier": "other"}}, r"verifier \("),
        ({"digests": {**DIGESTS, "tokenizer": "other"}}, r"tokenizer \("),
        ({"digests": {**DIGESTS, "template": "other"}}, r"chat template \("),
        ({"sampling": SamplingConfig(temperature=0.7)}, r"sampling.temperature \(1.0 vs 0.7\)"),
        (
            {"sampling": SamplingConfig(repetition_penalty=1.1)},
            r"sampling.repetition_penalty \(1.0 vs 1.1\)",
        ),
        ({"sampling": SamplingConfig(num_samples=32)}, r"sampling.num_samples \(16 vs 32\)"),
        ({"group_size": 4}, r"group size \(8 vs 4\)"),
        ({"success_threshold": 0.5}, r"success threshold"),
        ({"policy": PolicyConfig(low_below=0.1)}, r"policy"),
        ({"digests": {}}, r"digest not recorded in 1 of 2"),
    ],
)
def test_reports_that_measured_other_things_are_refused_with_what_differs(
    changes: dict[str, Any], word: str
) -> None:
    statistics = prompts([4, 8] * 30, 16)
    with pytest.raises(ComparabilityError, match=word):
        check_comparable([report_of(statistics), report_of(statistics, **changes)])


@pytest.mark.parametrize(
    ("counts", "heldout", "is_refused"),
    [
        ((0, 0), False, False),
        ((0, 60), False, True),
        ((None, 0), False, True),
        ((0, 0), True, True),
    ],
)
def test_another_template_counts_where_a_text_may_have_gone_through_it(
    counts: tuple[int | None, int | None], heldout: bool, is_refused: bool
) -> None:
    loss = Evidence(value=1.0, ci_low=0.9, ci_high=1.1, source="expert data") if heldout else None
    reports = [
        report_of(
            prompts([4, 8] * 30, 16),
            digests={**DIGESTS, "template": name},
            context=AssessmentContext(heldout_loss=loss),
        )
        for name in ("of the base", "of the chat model")
    ]
    reports = [
        replace(report, provenance=replace(report.provenance, sampler={"templated_prompts": count}))
        for report, count in zip(reports, counts, strict=True)
    ]

    if not is_refused:
        check_comparable(reports)
        return
    with pytest.raises(ComparabilityError, match=r"chat template \("):
        check_comparable(reports)


def test_stored_rollouts_of_other_numbers_are_refused_whatever_the_settings_say() -> None:
    few, many = report_of(prompts([4] * 60, 16)), report_of(prompts([16] * 60, 64))

    with pytest.raises(ComparabilityError, match=r"rollouts a prompt \(16 vs 64\)"):
        check_comparable([few, many])


@pytest.mark.parametrize(
    ("dtypes", "is_refused"), [(("float32", "bfloat16"), True), (("float32", None), False)]
)
def test_weights_of_another_dtype_are_refused_where_both_are_known(
    dtypes: tuple[str | None, str | None], is_refused: bool
) -> None:
    report = report_of(prompts([4, 8] * 30, 16))
    reports = [
        replace(report, provenance=replace(report.provenance, sampler={"dtype": dtype}))
        for dtype in dtypes
    ]

    if not is_refused:
        check_comparable(reports)
        return
    with pytest.raises(ComparabilityError, match=r"weights \(bfloat16 vs float32\)"):
        check_comparable(reports)


def test_a_report_with_more_evidence_is_not_ranked_as_the_riskier_one() -> None:
    statistics = prompts([4, 8] * 30, 16)
    audit = Evidence(value=0.6, ci_low=0.5, ci_high=0.7, source="audit")
    audited = report_of(statistics, context=AssessmentContext(verifier_youden_j=audit))
    plain = report_of(statistics)

    assert audited.risk_index is not None
    assert plain.risk_index is not None
    assert audited.risk_index > plain.risk_index
    with pytest.raises(ComparabilityError, match=r"components of the index \(.*verifier"):
        rank([audited, plain])
    assert len(rank([audited, audited]).entries) == 2


def test_the_one_version_with_more_evidence_is_named_with_that_evidence_alone() -> None:
    statistics = prompts([4, 8] * 30, 16)
    scored = AssessmentContext(mismatch_kl=Evidence.exact(0.02, "mismatch"))
    plain = [report_of(statistics, model=f"models:/a/{version}") for version in (1, 2)]
    other = report_of(statistics, model="models:/a/3", context=scored)

    with pytest.raises(ComparabilityError) as refused:
        rank([*plain, other])

    assert "components of the index (none vs mismatch of models:/a/3)" in str(refused.value)


def test_a_report_whose_starvation_was_read_otherwise_is_not_ranked_beside_this_one() -> None:
    now = report_of(prompts([16] * 60, 16))
    parts = [
        replace(part, measure="group signal", x=0.0) if part.name == "starvation" else part
        for part in now.components
    ]
    then = replace(now, components=tuple(parts))

    with pytest.raises(ComparabilityError, match="components of the index"):
        rank([now, then])


def test_a_report_without_entropies_is_ranked_by_its_index_and_after_every_known_level() -> None:
    plain = [prompt(place, 12, 16, entropy=None) for place in range(60)]
    unknown, known = report_of(plain, model="models:/a/1"), report_of(prompts([8] * 60, 16))

    comparison = rank([unknown, known])

    assert [entry.risk_level for entry in comparison.entries][-1] is RiskLevel.UNKNOWN
    assert comparison.entries[-1].risk_index is not None
    assert comparison.entries[-1].model == "models:/a/1"


def test_another_seed_model_and_policy_name_are_comparable() -> None:
    statistics = prompts([4, 8] * 30, 16)
    other = report_of(
        statistics,
        model="other",
        sampling=SamplingConfig(seed=5),
        policy=PolicyConfig(name="ours", required_level="medium"),
    )

    check_comparable([report_of(statistics), other])


def test_all_that_differs_is_named_at_once() -> None:
    statistics = prompts([4, 8] * 30, 16)
    other = report_of(statistics[:-1], group_size=4)

    with pytest.raises(ComparabilityError, match=r"number of prompts \(60 vs 59\); group size"):
        rank([report_of(statistics), other])


def test_nothing_to_compare_is_an_error() -> None:
    with pytest.raises(ComparabilityError, match="no report"):
        rank([])
