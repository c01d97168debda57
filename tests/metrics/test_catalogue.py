from mlflow.utils.validation import _validate_metric_name

from mlflow_rlrisk.metrics.catalogue import CATALOGUE, PASS_AT_K_FAMILY, PREFIX, spec_of
from tests.prompt_statistics import ladder_rung, prompts, report_of


def test_every_name_is_unique_and_begins_with_the_prefix() -> None:
    names = [spec.name for spec in CATALOGUE]

    assert len(set(names)) == len(names)
    assert all(name.startswith(PREFIX) for name in names)


def test_every_name_is_legal_in_mlflow() -> None:
    for spec in CATALOGUE:
        _validate_metric_name(spec.name.replace("<k>", "64") + "_ci_low")


def test_a_report_emits_and_leaves_out_only_names_of_the_catalogue() -> None:
    for statistics in (ladder_rung(1, 1, 0.3), prompts([1, 2, 3], 4)):
        report = report_of(statistics)
        for name in [*report.metrics, *report.undefined]:
            assert spec_of(name) is not None, name
        assert not set(report.metrics) & set(report.undefined)


def test_every_name_of_the_catalogue_is_either_emitted_or_explained() -> None:
    report = report_of(ladder_rung(1, 1, 0.3))

    for spec in CATALOGUE:
        if spec.name != PASS_AT_K_FAMILY:
            assert spec.name in {*report.metrics, *report.undefined}, spec.name


def test_values_lie_within_the_bounds_of_the_catalogue() -> None:
    report = report_of(ladder_rung(0.3, 0.3, 0.1))

    for name, metric in report.metrics.items():
        spec = spec_of(name)
        assert spec is not None
        assert spec.lower is None or metric.value >= spec.lower - 1e-12, name
        assert spec.upper is None or metric.value <= spec.upper + 1e-12, name


def test_the_pass_at_k_family_has_one_row_and_takes_any_k() -> None:
    assert spec_of("rlrisk/pass_at_64") is spec_of("rlrisk/pass_at_1")
    assert spec_of("rlrisk/pass_at_0") is None
    assert spec_of(PASS_AT_K_FAMILY) is None
    assert spec_of("pass_at_1") is None
