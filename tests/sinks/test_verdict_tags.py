"""The verdict on a version and on its LoggedModel: one at a time, within MLflow's limits."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pytest

from mlflow_rlrisk.errors import SinkError
from mlflow_rlrisk.report_record import RiskLevel
from mlflow_rlrisk.sinks.registry import MAX_DESCRIPTION, tag_version
from mlflow_rlrisk.sinks.verdict import DESCRIPTION_MARK, MAX_TAG, verdict_tags
from tests.sinks.simulated import assessed, graded_groups, simulated_report

pytestmark = pytest.mark.mlflow


def test_a_new_verdict_replaces_the_old_one_and_no_persons_words(
    store: str, checkpoint: Path
) -> None:
    report = assessed(checkpoint)
    source = report.provenance
    client = mlflow.MlflowClient()
    tag_version(report, report_uri="runs:/1/rlrisk/report.html")
    unknown = simulated_report(graded_groups(num_prompts=9), provenance=source)
    no_index = {n: m for n, m in unknown.metrics.items() if n != "rlrisk/risk_index"}

    tag_version(replace(unknown, metrics=no_index), report_uri="runs:/2/rlrisk/report.html")

    found = client.get_model_version(source.registered_name, source.version)
    assert found.tags["rlrisk.risk_level"] == "unknown"
    assert "rlrisk.risk_index" not in found.tags
    assert "rlrisk.risk_index" not in mlflow.get_logged_model(source.model_id).tags
    assert found.description.startswith(f"{DESCRIPTION_MARK}unknown**")

    client.update_model_version(source.registered_name, source.version, "Trained by Ada.")
    tag_version(report, report_uri="runs:/3/rlrisk/report.html")

    found = client.get_model_version(source.registered_name, source.version)
    assert found.description == "Trained by Ada."


def test_two_verdicts_written_at_once_are_not_mixed(store: str, checkpoint: Path) -> None:
    high = assessed(checkpoint)
    low = replace(high, risk_level=RiskLevel.LOW, reasons=("all is well",))
    name, version = high.provenance.registered_name, high.provenance.version
    plain = mlflow.MlflowClient()
    tag_version(low, report_uri="runs:/low/report.html")

    class Overtaken(mlflow.MlflowClient):
        """Another writer comes in between what it reads first and what it writes."""

        def get_model_version(self, *arguments: Any, **named: Any) -> Any:
            found = super().get_model_version(*arguments, **named)
            if "rlrisk.other" not in found.tags:
                plain.set_model_version_tag(name, version, "rlrisk.other", "came by")
                tag_version(high, report_uri="runs:/high/report.html")
            return found

    tag_version(low, report_uri="runs:/again/report.html", client=Overtaken())

    tags = plain.get_model_version(name, version).tags
    wanted = {**verdict_tags(low), "rlrisk.report_uri": "runs:/again/report.html"}
    assert {key: tags[key] for key in wanted} == wanted


def test_a_logged_model_says_what_its_version_says_whoever_writes_last(
    store: str, checkpoint: Path
) -> None:
    high = assessed(checkpoint)
    source = high.provenance
    low = replace(
        high,
        risk_level=RiskLevel.LOW,
        metrics={n: m for n, m in high.metrics.items() if n != "rlrisk/risk_index"},
    )

    class Overtaken(mlflow.MlflowClient):
        """Another writer is done with both before the first one comes to the LoggedModel."""

        overtaken = False

        def set_logged_model_tags(self, *arguments: Any, **named: Any) -> None:
            if not self.overtaken:
                self.overtaken = True
                tag_version(other, report_uri="runs:/other/report.html")
            super().set_logged_model_tags(*arguments, **named)

    for ours, other in ((low, high), (high, low)):
        tag_version(ours, report_uri="runs:/ours/report.html", client=Overtaken())

        shown = mlflow.MlflowClient().get_model_version(source.registered_name, source.version).tags
        copied = mlflow.get_logged_model(source.model_id).tags
        wanted = {**verdict_tags(other), "rlrisk.report_uri": "runs:/other/report.html"}
        for tags in (shown, copied):
            assert {key: tags[key] for key in wanted} == wanted
            assert ("rlrisk.risk_index" in tags) == ("rlrisk.risk_index" in wanted)


def test_a_logged_model_whose_version_changes_without_end_is_given_up(
    store: str, checkpoint: Path
) -> None:
    report = assessed(checkpoint)

    class Busy(mlflow.MlflowClient):
        def get_model_version(self, *arguments: Any, **named: Any) -> Any:
            found = super().get_model_version(*arguments, **named)
            if self.is_tagging:
                found.tags["rlrisk.assessed_at"] = str(next(self.times))
            return found

        def set_logged_model_tags(self, *arguments: Any, **named: Any) -> None:
            self.is_tagging = True
            super().set_logged_model_tags(*arguments, **named)

        is_tagging, times = False, itertools.count()

    with pytest.raises(SinkError, match="others go on writing their verdicts onto its version"):
        tag_version(report, report_uri="runs:/1/report.html", client=Busy())


def test_tags_keep_within_mlflows_limits_and_count_what_they_leave_out() -> None:
    report = replace(simulated_report(), reasons=tuple(f"reason {i} " * 200 for i in range(9)))

    lines = verdict_tags(report)["rlrisk.reasons"].splitlines()

    assert len("\n".join(lines)) <= MAX_TAG
    assert lines[-1] == f"and {9 - len(lines) + 1} more; see the report"


def test_a_long_verdict_is_cut_between_lines_and_keeps_the_address_of_its_report(
    store: str, checkpoint: Path
) -> None:
    report = assessed(checkpoint)
    reasons = tuple(f"reason {i} " + "of many words " * 30 for i in range(20))
    uri = "runs:/1/rlrisk/report.html"

    tag_version(replace(report, reasons=reasons), report_uri=uri)

    source = report.provenance
    client = mlflow.MlflowClient()
    text = client.get_model_version(source.registered_name, source.version).description
    lines = text.splitlines()
    assert len(text) <= MAX_DESCRIPTION
    assert lines[-1] == f"Report: `{uri}`"
    assert {line for line in lines if line.startswith("- ")} < {f"- {each}" for each in reasons}
    assert "More reasons and steps stand in the report." in lines


def test_a_report_without_a_version_cannot_be_tagged() -> None:
    source = replace(simulated_report().provenance, registered_name=None, version=None)

    with pytest.raises(SinkError, match="no registered version is known"):
        tag_version(replace(simulated_report(), provenance=source), report_uri="runs:/1/x")
