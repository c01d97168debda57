import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.mlflow_server import mlflow_server, pointed_at  # isort: skip

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.models.evaluation import EvaluationResult, ModelEvaluator
from mlflow.models.evaluation.evaluator_registry import _model_evaluation_registry

from mlflow_rlrisk.errors import CheckpointError, ConfigError, ModelReferenceError, SinkError
from mlflow_rlrisk.evaluator import RLRiskEvaluator
from mlflow_rlrisk.report import RiskReport
from mlflow_rlrisk.sinks.registry import log_checkpoint
from tests.tiny_models import write_llama

pytestmark = [
    pytest.mark.mlflow,
    # MLflow's transformers flavor asks a hub for a model card and warns that there is none.
    pytest.mark.filterwarnings("ignore::UserWarning:mlflow"),
]

VERIFIER = """
def any_digit(prompts, completions, **columns):
    return [float(any(c.isdigit() for c in text)) for text in completions]
"""
NO_TORCH = """
import importlib.abc, sys
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
"""


class ForeignEvaluator(ModelEvaluator):
    """Somebody else's plugin: evaluates everything, returns one metric."""

    @classmethod
    def can_evaluate(cls, **_: Any) -> bool:
        return True

    def evaluate(self, *, run_id: str, dataset: Any, **_: Any) -> EvaluationResult:
        return EvaluationResult({"foreign/rows": float(len(dataset.features_data))}, {}, run_id)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture
def foreign() -> Iterator[None]:
    _model_evaluation_registry.register("foreign", ForeignEvaluator)
    yield
    _model_evaluation_registry._registry.pop("foreign")


@pytest.fixture(scope="module")
def prompts() -> pd.DataFrame:
    rows = [{"question": f"{i}+{i + 1}=", "answer": str(2 * i + 1)} for i in range(6)]
    return pd.DataFrame(rows)


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "verifier.py").write_text(VERIFIER)
    return {
        "verifier": f"{tmp_path / 'verifier.py'}:any_digit",
        "num_samples": 4,
        "group_size": 2,
        "max_new_tokens": 5,
        "num_resamples": 200,
        "verifier_workers": 1,
        "out_dir": tmp_path / "out",
        "progress": False,
    }


def evaluate(prompts: pd.DataFrame, config: dict[str, Any], **call: Any) -> EvaluationResult:
    settings = {"data": prompts, "model_type": "rlrisk", "evaluators": "rlrisk", "model": None}
    return mlflow.models.evaluate(**{**settings, "evaluator_config": config, **call})


def log_with_transformers(checkpoint: Path, name: str, saved: Path) -> str:
    """Register and save through MLflow's own flavor, so that MLflow can load the model."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    parts = {
        "model": AutoModelForCausalLM.from_pretrained(checkpoint),
        "tokenizer": AutoTokenizer.from_pretrained(checkpoint),
    }
    how = {"task": "text-generation", "pip_requirements": ["transformers"]}
    mlflow.transformers.save_model(parts, str(saved), **how)
    info = mlflow.transformers.log_model(parts, name="sft", registered_model_name=name, **how)
    return str(info.model_id)


def num_points(run_id: str, name: str) -> int:
    return len(mlflow.MlflowClient().get_metric_history(run_id, name))


def test_every_way_to_name_the_model_gives_the_same_metrics_once_each(
    store: str, checkpoint: Path, prompts: pd.DataFrame, config: dict[str, Any], tmp_path: Path
) -> None:
    model_id = log_with_transformers(checkpoint, "coder-sft", tmp_path / "saved")
    local = tmp_path / "local"
    local.mkdir()
    mlflow.artifacts.download_artifacts(f"models:/{model_id}", dst_path=str(local))
    mlflow.MlflowClient().set_registered_model_alias("coder-sft", "candidate", "1")
    forms: dict[str, dict[str, Any]] = {
        "config version": {"evaluator_config": {"model_uri": "models:/coder-sft/1"}},
        "config alias": {"evaluator_config": {"model_uri": "models:/coder-sft@candidate"}},
        "config folder": {"evaluator_config": {"model_uri": str(local)}},
        "model_id": {"model_id": model_id},
        "model version": {"model": "models:/coder-sft/1"},
        "model LoggedModel": {"model": f"models:/{model_id}"},
        "model folder": {"model": str(local)},
        "model saved without MLflow's store": {"model": str(tmp_path / "saved")},
        "mlflow.evaluate": {"evaluator_config": {"model_uri": "models:/coder-sft/1"}},
    }
    results, histories, linked = {}, {}, {}
    for form, call in forms.items():
        merged = {**config, **call.get("evaluator_config", {}), "out_dir": tmp_path / form}
        with mlflow.start_run() as run:
            results[form] = evaluate(prompts, merged, **{**call, "evaluator_config": merged})
        points = {num_points(run.info.run_id, name) for name in results[form].metrics}
        histories[form] = points
        inputs = mlflow.get_run(run.info.run_id).inputs
        linked[form] = [given.model_id for given in inputs.model_inputs]

    first = results["config version"].metrics
    assert first
    assert all(result.metrics == first for result in results.values())
    # A folder says which LoggedModel it is only where MLflow wrote that into it and loads it.
    unlinked = {"config folder", "model saved without MLflow's store"}
    assert linked == {form: [] if form in unlinked else [model_id] for form in forms}
    assert histories == {form: {1} for form in forms}
    model = mlflow.get_logged_model(model_id)
    per_run = {(metric.run_id, metric.key) for metric in model.metrics}
    assert len(model.metrics) == len(per_run) == len(first) * (len(forms) - len(unlinked))
    tables = results["config version"].tables
    assert list(tables) == ["rlrisk_prompts"]
    assert len(tables["rlrisk_prompts"]) == len(prompts)


def test_a_raw_checkpoint_is_assessed_logged_and_tagged_through_a_real_server(
    database: Path,
    checkpoint: Path,
    prompts: pd.DataFrame,
    config: dict[str, Any],
    tmp_path: Path,
) -> None:
    with mlflow_server(tmp_path, database) as url, pointed_at(url):
        mlflow.set_experiment("ladder")
        version = log_checkpoint(checkpoint, "coder-sft")

        result = evaluate(prompts, {**config, "model_uri": "models:/coder-sft/1"})

        tags = mlflow.MlflowClient().get_model_version("coder-sft", "1").tags
        model = mlflow.get_logged_model(version.source.removeprefix("models:/"))
        text = mlflow.artifacts.load_text(f"runs:/{result.run_id}/rlrisk/report.json")
        page = mlflow.artifacts.load_text(tags["rlrisk.report_uri"])
        points = num_points(result.run_id, "rlrisk/pass_at_1")
        run = mlflow.get_run(result.run_id)

    report = RiskReport.from_json(text)
    assert tags["rlrisk.risk_level"] == report.risk_level == "unknown"  # 6 prompts are too few
    assert points == 1
    assert {metric.key: metric.value for metric in model.metrics} == pytest.approx(result.metrics)
    assert len(run.inputs.dataset_inputs) == 1
    assert report.provenance.registered_name == "coder-sft"
    assert "mlflow.models.evaluate(model=None" in page


def test_a_foreign_evaluator_beside_ours_runs_and_keeps_its_metrics(
    store: str, foreign: None, checkpoint: Path, prompts: pd.DataFrame, config: dict[str, Any]
) -> None:
    settings = {"rlrisk": {**config, "model_uri": str(checkpoint), "out_dir": None}}

    result = evaluate(prompts, settings, evaluators=["rlrisk", "foreign"])

    assert result.metrics["foreign/rows"] == 6.0
    assert "rlrisk/pass_at_1" in result.metrics
    assert num_points(result.run_id, "rlrisk/pass_at_1") == 1


def test_naming_no_evaluator_never_starts_sampling(
    store: str, foreign: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: Any, **__: Any) -> None:
        raise AssertionError("rlrisk was started by an evaluation that did not ask for it")

    monkeypatch.setattr(RLRiskEvaluator, "evaluate", forbidden)
    frame = pd.DataFrame({"x": [0.0, 1.0, 2.0], "y": [0, 1, 1], "predictions": [0, 1, 0]})

    for model_type in ("regressor", "classifier"):
        result = mlflow.models.evaluate(
            data=frame,
            predictions="predictions",
            targets="y",
            model_type=model_type,
            evaluator_config={"log_model_explainability": False},
        )
        assert result.metrics["foreign/rows"] == 3.0


def test_naming_no_evaluator_with_our_model_type_assesses(
    store: str, checkpoint: Path, prompts: pd.DataFrame, config: dict[str, Any]
) -> None:
    settings = {**config, "model_uri": str(checkpoint)}

    result = evaluate(prompts, settings, evaluators=None)

    assert "rlrisk/pass_at_1" in result.metrics


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_sample": 4}, "num_sample=4: unknown; known: model_uri, verifier"),
        ({"verifier": None}, "verifier=None"),
        ({"group_size": 1}, "group_size=1"),
        ({"temperature": 0}, "temperature=0"),
        ({"sampling": {"num_samples": 8}}, "stands flat and under sampling"),
        ({"sampling": {"n": 8}}, "unknown setting"),
        ({"policy": 7}, "policy=7"),
        ({"policy": {"low_beneath": 0.1}}, "unknown setting"),
    ],
)
def test_an_unusable_setting_is_named_before_anything_starts(
    store: str, prompts: pd.DataFrame, config: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        evaluate(prompts, {**config, **change})

    runs = mlflow.search_runs(output_format="list")
    assert all(run.data.metrics == {} for run in runs)


def test_without_a_model_the_message_says_how_to_name_one(
    store: str, prompts: pd.DataFrame, config: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match=r'evaluator_config=\{"model_uri"'):
        evaluate(prompts, config)


def test_a_function_is_no_checkpoint(
    store: str, prompts: pd.DataFrame, config: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match="does not tell where it came from"):
        evaluate(prompts, config, model=lambda frame: ["2"] * len(frame))


def test_two_names_for_two_models_are_refused(
    store: str, checkpoint: Path, prompts: pd.DataFrame, config: dict[str, Any]
) -> None:
    first, second = log_checkpoint(checkpoint), log_checkpoint(checkpoint)
    settings = {**config, "model_uri": f"models:/{first.model_id}"}

    with pytest.raises(ConfigError, match=f"MLflow was given {second.model_id}"):
        evaluate(prompts, settings, model_id=second.model_id)


def test_a_version_that_does_not_exist_is_our_error_with_mlflows_words(
    store: str, prompts: pd.DataFrame, config: dict[str, Any]
) -> None:
    with pytest.raises(ModelReferenceError, match="nobody"):
        evaluate(prompts, {**config, "model_uri": "models:/nobody/1"})


def test_a_refused_checkpoint_surfaces_as_such(
    store: str, checkpoint: Path, prompts: pd.DataFrame, config: dict[str, Any], tmp_path: Path
) -> None:
    import shutil

    broken = shutil.copytree(checkpoint, tmp_path / "broken")
    (broken / "tokenizer.json").unlink()

    with pytest.raises(CheckpointError, match="tokenizer"):
        evaluate(prompts, {**config, "model_uri": str(broken)})


def test_a_run_that_holds_a_report_is_refused_before_sampling(
    store: str,
    checkpoint: Path,
    prompts: pd.DataFrame,
    config: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = {**config, "model_uri": str(checkpoint)}
    with mlflow.start_run():
        evaluate(prompts, settings)
        monkeypatch.setattr("mlflow_rlrisk.evaluator._assess", None)

        with pytest.raises(SinkError, match="one run per model"):
            evaluate(prompts, settings)


def test_register_decides_whether_the_version_is_tagged(
    store: str, checkpoint: Path, prompts: pd.DataFrame, config: dict[str, Any]
) -> None:
    log_checkpoint(checkpoint, "coder-sft")
    settings = {**config, "model_uri": "models:/coder-sft/1"}
    client = mlflow.MlflowClient()

    with mlflow.start_run():
        evaluate(prompts, {**settings, "register": False})
    assert client.get_model_version("coder-sft", "1").tags == {}

    with mlflow.start_run():
        evaluate(prompts, settings)
    tags = client.get_model_version("coder-sft", "1").tags
    assert tags["rlrisk.risk_level"] == "unknown"

    with pytest.raises(ConfigError, match="no registered version"), mlflow.start_run():
        evaluate(prompts, {**settings, "model_uri": str(checkpoint), "register": True})


def test_an_mlflow_dataset_gives_what_a_frame_gives(
    store: str, checkpoint: Path, prompts: pd.DataFrame, config: dict[str, Any], tmp_path: Path
) -> None:
    settings = {**config, "model_uri": str(checkpoint)}
    dataset = mlflow.data.from_pandas(prompts, targets="answer", name="sums")

    with mlflow.start_run():
        frame = evaluate(prompts, {**settings, "out_dir": tmp_path / "a"})
    with mlflow.start_run() as run:
        named = evaluate(dataset, {**settings, "out_dir": tmp_path / "b"})

    inputs = mlflow.get_run(run.info.run_id).inputs.dataset_inputs
    assert named.metrics == frame.metrics
    assert [given.dataset.name for given in inputs] == ["sums"]


def test_without_torch_other_evaluations_work_and_ours_says_what_is_missing(
    store: str, checkpoint: Path, prompts: pd.DataFrame, config: dict[str, Any], tmp_path: Path
) -> None:
    prompts.to_json(tmp_path / "prompts.json", orient="records")
    settings = {**config, "out_dir": str(config["out_dir"]), "model_uri": str(checkpoint)}
    program = NO_TORCH + (
        "import json, mlflow, pandas as pd\n"
        f"mlflow.set_tracking_uri({store!r}); mlflow.set_experiment('rlrisk')\n"
        "frame = pd.DataFrame({'x': [0.0, 1.0, 2.0], 'y': [0.0, 1.0, 2.0], 'p': [0.0, 1.0, 2.5]})\n"
        "result = mlflow.models.evaluate(data=frame, predictions='p', targets='y',\n"
        "    model_type='regressor', evaluators='default')\n"
        "print(json.dumps(result.metrics['mean_absolute_error']))\n"
        "from mlflow_rlrisk.errors import MissingDependencyError\n"
        "try:\n"
        f"    prompts = pd.read_json({str(tmp_path / 'prompts.json')!r})\n"
        "    mlflow.models.evaluate(model=None, data=prompts,\n"
        "        model_type='rlrisk', evaluators='rlrisk',\n"
        f"        evaluator_config=json.loads({json.dumps(settings)!r}))\n"
        "except MissingDependencyError as error:\n"
        "    print(error)\n"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=120)

    lines = done.stdout.decode().strip().splitlines()
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    assert float(lines[0]) == pytest.approx(0.5 / 3)
    assert "pip install 'mlflow-rlrisk[hf]'" in lines[1]


def test_an_unknown_evaluator_is_still_mlflows_error(store: str, prompts: pd.DataFrame) -> None:
    with pytest.raises(MlflowException, match="could not be evaluated by any"):
        evaluate(prompts, {}, model_type="text", evaluators="rlrisk", predictions=None)
