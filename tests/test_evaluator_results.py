"""What `mlflow.models.evaluate` gives back and to what its metrics and tags are attached."""

import json
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
from mlflow.entities import LoggedModelOutput
from mlflow.models.evaluation import EvaluationResult

from mlflow_rlrisk.errors import GoldRejectedError, PromptSetError
from mlflow_rlrisk.sinks.registry import log_checkpoint
from tests.tiny_models import write_llama

pytestmark = pytest.mark.mlflow

PROMPTS = pd.DataFrame([{"question": f"{i}+1=", "answer": str(i + 1)} for i in range(4)])
SETTINGS = {
    "verifier": "numeric",
    "num_samples": 2,
    "group_size": 2,
    "max_new_tokens": 3,
    "num_resamples": 200,
    "verifier_workers": 1,
    "progress": False,
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("checkpoint"))


def evaluate(
    data: Any, model_uri: str | None = None, model_id: str | None = None, **settings: Any
) -> EvaluationResult:
    config = {**SETTINGS, **settings}
    if model_uri is not None:
        config["model_uri"] = model_uri
    how = {"model_type": "rlrisk", "evaluators": "rlrisk", "evaluator_config": config}
    return mlflow.models.evaluate(model=None, data=data, model_id=model_id, **how)


def test_a_result_is_saved_and_loaded_with_table_report_and_page(
    store: str, checkpoint: Path, tmp_path: Path
) -> None:
    result = evaluate(PROMPTS, str(checkpoint))

    result.save(str(tmp_path / "saved"))
    loaded = EvaluationResult.load(str(tmp_path / "saved"))

    def logged(path: str) -> str:
        return str(mlflow.artifacts.load_text(f"runs:/{result.run_id}/{path}"))

    contents = {name: artifact.content for name, artifact in loaded.artifacts.items()}
    assert contents == {
        "rlrisk_prompts": json.loads(logged("rlrisk_prompts.json")),
        "rlrisk_report": json.loads(logged("rlrisk/report.json")),
        "rlrisk_page": logged("rlrisk/report.html"),
    }
    assert len(contents["rlrisk_prompts"]["data"]) == len(PROMPTS)
    assert loaded.metrics == result.metrics


def test_metrics_belong_to_the_prompts_whatever_else_the_run_has_for_input(
    store: str, checkpoint: Path
) -> None:
    version = log_checkpoint(checkpoint, "coder-sft")
    prompts = mlflow.data.from_pandas(PROMPTS, name="rl-prompts")
    with mlflow.start_run() as run:
        mlflow.log_input(prompts)  # MLflow keeps an input once, at its first place
        mlflow.log_input(mlflow.data.from_pandas(pd.DataFrame({"x": [1]}), name="sft-data"))
        evaluate(prompts, "models:/coder-sft/1")

    inputs = mlflow.get_run(run.info.run_id).inputs.dataset_inputs
    metrics = mlflow.get_logged_model(version.source.removeprefix("models:/")).metrics
    assert {each.dataset.name for each in inputs} == {"rl-prompts", "sft-data"}
    assert {metric.dataset_name for metric in metrics} == {"rl-prompts"}


def test_the_version_that_a_logged_model_is_gets_the_tags_however_it_is_named(
    store: str, checkpoint: Path
) -> None:
    with mlflow.start_run() as run:
        logged = mlflow.create_external_model("sft", source_run_id=run.info.run_id)
        mlflow.MlflowClient().log_outputs(run.info.run_id, [LoggedModelOutput(logged.model_id, 0)])
        mlflow.MlflowClient().log_model_artifacts(logged.model_id, str(checkpoint))
    client = mlflow.MlflowClient()
    client.create_registered_model("coder-sft")
    names = (f"models:/{logged.model_id}", f"runs:/{run.info.run_id}/sft")

    tags = []
    for name in names:
        if tags:
            client.delete_model_version("coder-sft", str(len(tags)))
        version = client.create_model_version("coder-sft", f"models:/{logged.model_id}")
        evaluate(PROMPTS, name)
        tags.append(client.get_model_version("coder-sft", version.version).tags)

    assert [each.get("rlrisk.risk_level") for each in tags] == ["unknown"] * 2


@pytest.mark.parametrize("is_configured", [False, True])
def test_a_model_that_is_several_versions_tags_none_and_says_so(
    store: str, checkpoint: Path, caplog: pytest.LogCaptureFixture, is_configured: bool
) -> None:
    client = mlflow.MlflowClient()
    version = log_checkpoint(checkpoint, "coder-sft")
    client.copy_model_version("models:/coder-sft/1", "prod")

    if is_configured:
        evaluate(PROMPTS, version.source)
    else:
        evaluate(PROMPTS, model_id=version.source.removeprefix("models:/"))

    for name in ("coder-sft", "prod"):
        assert client.get_model_version(name, "1").tags == {}
    assert "is several versions (models:/coder-sft/1, models:/prod/1)" in caplog.text


def test_rollouts_may_be_kept_in_a_folder_of_the_home(
    store: str, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)

    evaluate(PROMPTS, str(checkpoint), out_dir="~/rollouts")

    assert (tmp_path / "home" / "rollouts" / "report.json").is_file()
    assert not (tmp_path / "~").exists()


def test_lists_give_the_metrics_of_the_frame(store: str, checkpoint: Path) -> None:
    rows = PROMPTS.to_dict("records")
    forms: dict[str, dict[str, Any]] = {
        "dicts": {"data": rows},
        "dicts and targets": {
            "data": [{"question": row["question"], "extra": 1} for row in rows],
            "targets": PROMPTS["answer"].tolist(),
        },
        "rows": {"data": PROMPTS.to_numpy().tolist(), "feature_names": list(PROMPTS)},
        "array": {"data": PROMPTS.to_numpy(), "feature_names": list(PROMPTS)},
    }
    framed = PROMPTS.rename(columns={"answer": "target"}).assign(extra=1)
    config = {**SETTINGS, "model_uri": str(checkpoint)}
    how = {"model": None, "model_type": "rlrisk", "evaluators": "rlrisk"}

    results = {}
    for name, given in forms.items():
        with mlflow.start_run():
            found = mlflow.models.evaluate(**how, **given, evaluator_config=config)
        results[name] = found.metrics

    assert results["dicts"] == results["rows"] == results["array"]
    assert results["dicts"] == evaluate(PROMPTS, str(checkpoint)).metrics
    assert results["dicts and targets"] == evaluate(framed, str(checkpoint)).metrics


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"data": ["1+1=", "2+2="]}, "no prompt column among 'feature_1'"),
        (
            {"data": [{"question": "1+1=", "target": "2"}], "targets": ["3"]},
            "the column 'target' stands there twice",
        ),
    ],
)
def test_a_list_that_says_no_prompts_is_refused(
    store: str, checkpoint: Path, given: dict[str, Any], message: str
) -> None:
    config = {**SETTINGS, "model_uri": str(checkpoint)}
    how = {"model": None, "model_type": "rlrisk", "evaluators": "rlrisk"}

    with pytest.raises(PromptSetError, match=message):
        mlflow.models.evaluate(**how, **given, evaluator_config=config)


def test_a_verifier_that_needs_a_format_is_used_without_the_preflight_where_that_is_asked_for(
    store: str, checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "tagged.py").write_text(
        "def reward(prompts, completions, answer, **columns):\n"
        "    return [float(f'<<{a}>>' in c) for c, a in zip(completions, answer)]\n"
    )
    verifier = f"{tmp_path / 'tagged.py'}:reward"
    with pytest.raises(GoldRejectedError, match=r"run_preflight=False"):
        evaluate(PROMPTS, str(checkpoint), verifier=verifier)

    with mlflow.start_run():
        result = evaluate(PROMPTS, str(checkpoint), verifier=verifier, run_preflight=False)

    report = json.loads(mlflow.artifacts.load_text(f"runs:/{result.run_id}/rlrisk/report.json"))
    assert "the preflight of the verifier was skipped" in report["notes"]
    assert "'run_preflight': False" in report["provenance"]["command"]
