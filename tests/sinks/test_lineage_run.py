"""A registered ladder in a real tracking store: a parent run, a child for each version."""

import json
from collections.abc import Iterator
from pathlib import Path

import click
import mlflow
import pytest
from mlflow.entities import LoggedModelInput

from mlflow_rlrisk.assessment.wiring import Assessment
from mlflow_rlrisk.commands.compare import _recorded_base, _references, _series
from mlflow_rlrisk.errors import ModelReferenceError
from mlflow_rlrisk.lineage import trace_lineage
from mlflow_rlrisk.model_reference import (
    all_versions,
    named_as,
    parent_of,
    resolve_reference,
)
from mlflow_rlrisk.sinks.html import render
from mlflow_rlrisk.sinks.lineage_page import render_lineage
from mlflow_rlrisk.sinks.lineage_run import log_lineage
from mlflow_rlrisk.sinks.registry import log_checkpoint
from tests.lineage.ladders import collapsing


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[mlflow.MlflowClient]:
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
        client = mlflow.MlflowClient()
        experiment = client.create_experiment(
            "lineage", artifact_location=str(folder / "artifacts")
        )
        mlflow.set_experiment(experiment_id=experiment)
        yield client


def test_the_parent_says_which_version_and_has_a_child_for_each(
    store: mlflow.MlflowClient, tmp_path: Path
) -> None:
    ladder = collapsing()
    lineage = trace_lineage(ladder, base="base")
    assessments = [
        Assessment(report=each.report, statistics=each.statistics, folder=None) for each in ladder
    ]

    run_id = log_lineage(
        lineage,
        assessments,
        [render(each.report) for each in ladder],
        render_lineage(lineage),
    )

    parent = store.get_run(run_id)
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["rlrisk.start_from"] == "epoch1"
    assert parent.data.tags["rlrisk.best_pass_at_1"] == "epoch25"
    children = store.search_runs(
        [parent.info.experiment_id], f"tags.mlflow.parentRunId = '{run_id}'"
    )
    assert len(children) == 4
    assert all("rlrisk/pass_at_1" in child.data.metrics for child in children)
    stored = mlflow.artifacts.load_text(f"{parent.info.artifact_uri}/rlrisk/lineage.json")
    assert json.loads(stored) == lineage.to_dict()


def test_a_bare_model_name_stands_for_all_its_versions_in_order(
    store: mlflow.MlflowClient, tmp_path: Path
) -> None:
    store.create_registered_model("coder's sft")
    for _ in range(11):
        store.create_model_version("coder's sft", str(tmp_path))

    assert all_versions("models:/coder's sft") == [
        f"models:/coder's sft/{version}" for version in range(1, 12)
    ]
    assert all_versions("models:/coder's sft/3") is None
    assert all_versions(str(tmp_path)) is None
    store.create_registered_model("empty")
    with pytest.raises(ModelReferenceError, match="no version"):
        all_versions("models:/empty")
    with pytest.raises(ModelReferenceError, match="nowhere"):
        all_versions("models:/nowhere")


def test_the_parent_that_all_versions_name_is_the_base(
    store: mlflow.MlflowClient, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store.create_registered_model("sft")
    store.create_model_version("sft", str(tmp_path))
    for _ in range(2):
        made = store.create_model_version("sft", str(tmp_path))
        store.set_model_version_tag("sft", made.version, "rlrisk.parent", "models:/sft/1")

    assert parent_of("models:/sft/3") == "models:/sft/1"
    assert parent_of("models:/sft/1") is None
    assert parent_of(str(tmp_path)) is None
    every = {(name := f"models:/sft/{version}"): parent_of(name) for version in (1, 2, 3)}
    assert _recorded_base(every) == "models:/sft/1"
    del every["models:/sft/1"]
    assert _recorded_base(every) is None
    assert "--base adds it" in capsys.readouterr().err


def test_parents_come_from_what_the_training_run_took_in_and_lead_to_the_base(
    store: mlflow.MlflowClient, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    with mlflow.start_run():
        log_checkpoint(tmp_path, "lineage-base")
    base = resolve_reference("models:/lineage-base/1").model_id
    assert base is not None
    with mlflow.start_run() as run:
        log_checkpoint(tmp_path, "lineage-sft")
        log_checkpoint(tmp_path, "lineage-sft", parent="models:/lineage-sft/1")
        own = resolve_reference("models:/lineage-sft/1").model_id
        assert own is not None
        taken = [LoggedModelInput(base), LoggedModelInput(own)]  # trained from one, evaluated one
        store.log_inputs(run.info.run_id, models=taken)
    every = ["models:/lineage-base/1", "models:/lineage-sft/1", "models:/lineage-sft/2"]

    found = {each: named_as(parent_of(each), every) for each in every}

    assert parent_of(every[1]) == f"models:/{base}"
    assert found == {every[0]: None, every[1]: every[0], every[2]: every[1]}
    assert _recorded_base(found) == every[0]
    assert _recorded_base({"a": "b", "b": "a"}) is None
    assert named_as("models:/forgotten/1", every) == "models:/forgotten/1"


def test_a_series_is_named_by_the_option_by_a_tag_or_by_the_registered_model(
    store: mlflow.MlflowClient, tmp_path: Path
) -> None:
    for name in ("narrow", "diverse"):
        store.create_registered_model(name)
        store.create_model_version(name, str(tmp_path))
    store.set_model_version_tag("diverse", "1", "rlrisk.series", "seed 0")
    models = ["models:/narrow/1", "models:/diverse/1", str(tmp_path)]

    assert _series((), models) == {"models:/narrow/1": "narrow", "models:/diverse/1": "seed 0"}
    assert _series(("a=models:/narrow/1",), models) == {"models:/narrow/1": "a"}
    for wrong in ("a=models:/other/1", "models:/narrow/1", f"a={tmp_path},{tmp_path}"):
        with pytest.raises(click.UsageError, match="NAME=MODEL"):
            _series((wrong,), models)


def test_a_model_that_is_spelled_two_ways_is_counted_once_and_said(
    store: mlflow.MlflowClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "ck").mkdir()
    (tmp_path / "other").symlink_to(tmp_path / "ck")
    monkeypatch.chdir(tmp_path)
    ways = ("ck", "./ck", "ck/", "ck/../ck", str(tmp_path / "ck"))

    assert _references(ways, None) == ["ck"]
    said = capsys.readouterr().err
    assert said.splitlines()[0] == "counted once: ./ck is ck, spelled another way"
    assert len(said.splitlines()) == 4
    assert _references(("ck", "other"), "./ck") == ["./ck", "other"]  # a link is a name of its own
    store.create_registered_model("twice")
    store.create_model_version("twice", str(tmp_path / "ck"))
    store.create_model_version("twice", str(tmp_path / "ck"))
    store.set_registered_model_alias("twice", "best", "2")
    assert _references(("models:/twice",), "models:/twice@best") == [
        "models:/twice@best",
        "models:/twice/1",
    ]
    assert "models:/twice/2 is models:/twice@best" in capsys.readouterr().err
