from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest
from mlflow.utils.validation import _validate_metric_name, _validate_tag_name

from mlflow_rlrisk.errors import SinkError
from mlflow_rlrisk.records import Grade, GradedGroup
from mlflow_rlrisk.report import RiskReport
from mlflow_rlrisk.rollouts.store import RolloutStore
from mlflow_rlrisk.sinks import mlflow_run
from mlflow_rlrisk.sinks.mlflow_run import log_report, metric_values, report_params
from mlflow_rlrisk.sinks.mlflow_store import check_writable
from mlflow_rlrisk.sinks.prompt_table import prompt_table
from mlflow_rlrisk.sinks.registry import tag_version
from mlflow_rlrisk.sinks.verdict import DESCRIPTION_MARK, verdict_tags
from tests.mlflow_server import mlflow_server, pointed_at
from tests.sinks.simulated import (
    CONFIG,
    PROVENANCE,
    assessed,
    graded_groups,
    simulated_report,
    stored,
)

pytestmark = pytest.mark.mlflow


@pytest.fixture(scope="module")
def groups() -> list[GradedGroup]:
    return graded_groups()


@pytest.fixture(scope="module")
def folder(groups: list[GradedGroup], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stored(groups, tmp_path_factory.mktemp("assessment"))


@pytest.fixture(scope="module")
def server(database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with mlflow_server(tmp_path_factory.mktemp("server"), database) as url:
        yield url


@pytest.fixture(params=["sqlite", "server"])
def tracking(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "sqlite":
        yield request.getfixturevalue("store")
        return
    with pointed_at(request.getfixturevalue("server")):
        mlflow.set_experiment(request.node.name)
        yield request.param


def artifacts_of(run_id: str, folder: str | None = None) -> set[str]:
    return {file.path for file in mlflow.MlflowClient().list_artifacts(run_id, folder)}


def test_a_report_arrives_whole_on_the_run_and_on_the_logged_model(
    tracking: str, checkpoint: Path, folder: Path
) -> None:
    report = assessed(checkpoint)

    logged = log_report(report, rollouts=folder)

    client = mlflow.MlflowClient()
    run = client.get_run(logged.run_id)
    model = mlflow.get_logged_model(report.provenance.model_id)
    expected = metric_values(report)
    assert run.info.status == "FINISHED"
    assert run.data.metrics == pytest.approx(expected)
    assert {metric.key: metric.value for metric in model.metrics} == pytest.approx(expected)
    assert len(model.metrics) == len(expected)
    histories = [client.get_metric_history(logged.run_id, name) for name in list(expected)[:6]]
    assert [len(history) for history in histories] == [1] * 6
    assert run.data.params["rlrisk.num_samples"] == "16"
    assert run.data.tags["rlrisk.risk_level"] == report.risk_level
    assert run.data.tags["mlflow.note.content"].startswith(f"{DESCRIPTION_MARK}high**")
    assert [given.model_id for given in run.inputs.model_inputs] == [model.model_id]
    assert artifacts_of(logged.run_id) == {"rlrisk", "rlrisk_prompts.json"}
    assert artifacts_of(logged.run_id, "rlrisk") >= {
        "rlrisk/report.html",
        "rlrisk/report.json",
        "rlrisk/rollouts",
        "rlrisk/grades",
        "rlrisk/manifest.json",
    }
    text = mlflow.artifacts.load_text(f"runs:/{logged.run_id}/rlrisk/report.json")
    assert RiskReport.from_json(text) == report


def test_nothing_is_printed_to_standard_output(
    server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pointed_at(server):  # a server's run has an address, which MLflow prints
        mlflow.set_experiment("silent")
        check_writable()
        log_report(simulated_report())

    assert capsys.readouterr().out == ""


def test_the_table_counts_each_prompt_as_the_report_does(
    store: str, groups: list[GradedGroup], folder: Path
) -> None:
    report = simulated_report(groups)

    logged = log_report(report, rollouts=folder)

    table = mlflow.load_table("rlrisk_prompts.json", run_ids=[logged.run_id])
    assert logged.num_table_rows == len(table) == report.num_prompts
    mean = (table["num_correct"] / table["num_scored"]).mean()
    assert mean == pytest.approx(report.metrics["rlrisk/pass_at_1"].value)
    signal = report.metrics["rlrisk/group_signal_fraction"].value
    assert table["group_signal"].mean() == pytest.approx(signal)
    entropy = report.metrics["rlrisk/token_entropy"].value
    assert table["token_entropy"].mean() == pytest.approx(entropy)


def test_the_table_takes_rewards_between_0_and_1_as_the_report_does(
    groups: list[GradedGroup], tmp_path: Path
) -> None:
    def in_parts(group: GradedGroup) -> GradedGroup:
        rewards = [0.25 * (index % 3) for index in range(len(group.grades))]
        return replace(group, grades=tuple(map(Grade.scored, rewards)))

    valued = [in_parts(group) if place % 2 else group for place, group in enumerate(groups)]
    folder = stored(valued, tmp_path)
    for threshold in (None, 1.0):
        config = CONFIG.model_copy(update={"success_threshold": threshold})
        report = simulated_report(valued, config=config)

        table = prompt_table(report, folder)

        signal = report.metrics["rlrisk/group_signal_fraction"].value
        assert signal > 0.5
        assert table["group_signal"].mean() == pytest.approx(signal)


@pytest.mark.parametrize(
    ("digest", "kind"),
    [("checkpoint", "rollouts"), ("prompts", "rollouts"), ("verifier", "grades")],
)
def test_rollouts_of_another_assessment_are_not_logged_beside_a_report(
    store: str, groups: list[GradedGroup], tmp_path: Path, digest: str, kind: str
) -> None:
    folder = stored(groups, tmp_path)
    RolloutStore(folder).bind_grades({"verifier": "ab" * 32, "timeout_s": "10.0"})
    RolloutStore(folder).append_grades(groups)
    made = replace(PROVENANCE, model_id=None, digests={**PROVENANCE.digests, "verifier": "ab" * 32})
    other = replace(made, digests={**made.digests, digest: "cd" * 32})

    with pytest.raises(SinkError, match=rf"its {kind} are of another {digest} \("):
        log_report(simulated_report(groups, provenance=other), rollouts=folder)

    assert mlflow.search_runs(output_format="list") == []
    logged = log_report(simulated_report(groups, provenance=made), rollouts=folder)
    assert logged.num_table_rows == len(groups)


def test_a_capped_table_says_how_many_prompts_there_are(
    groups: list[GradedGroup], folder: Path
) -> None:
    table = prompt_table(simulated_report(groups), folder, max_rows=7)

    assert table["prompt_id"].tolist() == [group.prompt.id for group in groups[:7]]
    assert table.attrs["num_prompts"] == len(groups)


def test_logging_a_report_twice_leaves_one_point_and_one_table(store: str, folder: Path) -> None:
    report = simulated_report()
    with mlflow.start_run() as run:
        log_report(report, rollouts=folder)
        log_report(report, rollouts=folder)

    client = mlflow.MlflowClient()
    assert len(client.get_metric_history(run.info.run_id, "rlrisk/pass_at_1")) == 1
    assert len(mlflow.load_table("rlrisk_prompts.json", run_ids=[run.info.run_id])) == 80


def test_a_run_refuses_a_second_report_and_keeps_the_first(store: str) -> None:
    first, second = simulated_report(), simulated_report(graded_groups(seed=1))
    with mlflow.start_run() as run:
        log_report(first)

        with pytest.raises(SinkError, match="holds another report; use one run per model"):
            log_report(second)

    text = mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/rlrisk/report.json")
    assert RiskReport.from_json(text) == first


def test_an_attempt_that_broke_off_is_completed_without_doubling(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = simulated_report()
    with mlflow.start_run() as run:
        with monkeypatch.context() as broken:
            broken.setattr(mlflow_run, "report_params", lambda _: {"bad name!": "x"})
            with pytest.raises(SinkError, match="cannot be written to run"):
                log_report(report)

        log_report(report)

    client = mlflow.MlflowClient()
    assert len(client.get_metric_history(run.info.run_id, "rlrisk/pass_at_1")) == 1
    assert client.get_run(run.info.run_id).data.params["rlrisk.verifier"] == "numeric"


def test_without_log_metrics_only_the_metrics_are_missing(store: str) -> None:
    logged = log_report(simulated_report(), log_metrics=False)

    run = mlflow.get_run(logged.run_id)
    assert run.data.metrics == {}
    assert run.data.tags["rlrisk.risk_level"] == "high"


def test_a_failed_write_ends_its_own_run_as_failed(store: str, tmp_path: Path) -> None:
    with pytest.raises(SinkError, match="no graded rollouts"):
        log_report(simulated_report(), rollouts=tmp_path / "nowhere")

    runs = mlflow.search_runs(output_format="list")
    assert [run.info.status for run in runs] == ["FAILED"]


def test_metrics_belong_to_the_dataset_they_were_measured_on(store: str, checkpoint: Path) -> None:
    import pandas as pd

    frame = pd.DataFrame({"question": ["1+1"], "answer": ["2"]})
    dataset = mlflow.data.from_pandas(frame, name="gsm8k")
    report = assessed(checkpoint)

    logged = log_report(report, dataset=dataset)

    run = mlflow.get_run(logged.run_id)
    model = mlflow.get_logged_model(report.provenance.model_id)
    assert [given.dataset.name for given in run.inputs.dataset_inputs] == ["gsm8k"]
    assert {metric.dataset_name for metric in model.metrics} == {"gsm8k"}


def test_every_name_passes_mlflows_own_validation() -> None:
    report = simulated_report()

    for name in metric_values(report):
        _validate_metric_name(name)
    for name in [*report_params(report), *verdict_tags(report)]:
        _validate_tag_name(name)


def test_a_writable_store_is_found_writable_and_left_without_runs(tracking: str) -> None:
    check_writable()

    assert mlflow.search_runs(output_format="list") == []


def test_a_store_that_cannot_be_reached_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pointed_at("http://127.0.0.1:9"), pytest.raises(SinkError, match=r"127\.0\.0\.1:9"):
        check_writable()


def test_an_artifact_store_that_cannot_be_written_is_found_before_sampling(
    store: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    mlflow.create_experiment("blocked", artifact_location=(tmp_path / "file" / "a").as_uri())
    mlflow.set_experiment("blocked")

    with pytest.raises(SinkError, match="cannot be written"):
        check_writable()


def test_a_version_that_does_not_exist_is_found_before_sampling(store: str) -> None:
    with pytest.raises(SinkError, match="version 7 of nobody cannot be tagged"):
        check_writable(name="nobody", version="7")


def test_a_version_carries_the_verdict_and_so_does_its_logged_model(
    tracking: str, checkpoint: Path
) -> None:
    report = assessed(checkpoint)

    for _ in range(2):
        tag_version(report, report_uri="runs:/1/rlrisk/report.html")

    name, version = report.provenance.registered_name, report.provenance.version
    found = mlflow.MlflowClient().get_model_version(name, version)
    model = mlflow.get_logged_model(report.provenance.model_id)
    expected = {**verdict_tags(report), "rlrisk.report_uri": "runs:/1/rlrisk/report.html"}
    assert found.tags == expected
    assert expected.items() <= model.tags.items()
    assert found.tags["rlrisk.reasons"].splitlines() == list(report.reasons)
    assert found.description.startswith(f"{DESCRIPTION_MARK}high**")
