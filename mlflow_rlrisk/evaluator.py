"""The MLflow evaluator plugin ``rlrisk``: ``mlflow.models.evaluate(..., model_type="rlrisk")``.

MLflow imports this module for everybody who evaluates anything, and an error here would break
evaluations that have nothing to do with us; so only the standard library and MLflow are imported
above, and the evaluator says no unless it is asked for by name.

The primary form is ``model=None`` with ``evaluator_config={"model_uri": ...}``: MLflow then loads
nothing. Where a model is given, MLflow has loaded it already; only its identity is used, because
a loaded pipeline is not what was screened and hashed.

Who logs metrics: MLflow does where it passes a ``model_id`` (to the run and to the LoggedModel);
where it passes none it logs nothing, and we do. Never both, so every history has one point.
"""

import json
import logging
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from mlflow.models.evaluation import EvaluationResult, ModelEvaluator

from mlflow_rlrisk.evaluator_settings import Settings, known_keys

if TYPE_CHECKING:
    from mlflow_rlrisk.assessment.wiring import Assessment
    from mlflow_rlrisk.model_reference import ModelSource
    from mlflow_rlrisk.sinks.mlflow_run import LoggedReport

logger = logging.getLogger(__name__)

MODEL_TYPE = "rlrisk"


class RLRiskEvaluator(ModelEvaluator):
    """Assesses the checkpoint on the prompts given as ``data``."""

    @classmethod
    def can_evaluate(
        cls, *, model_type: str | None, evaluator_config: Mapping[str, Any] | None, **_: Any
    ) -> bool:
        """True for ``model_type="rlrisk"`` and for a configuration that can only be ours.

        With ``evaluators=None`` MLflow asks every installed evaluator; sampling a model for hours
        must not begin because somebody evaluates a classifier.
        """
        if model_type == MODEL_TYPE:
            return True
        config = evaluator_config or {}
        return "verifier" in config and set(config) <= set(known_keys())

    def evaluate(
        self,
        *,
        model_type: str | None = None,
        dataset: Any,
        run_id: str,
        evaluator_config: Mapping[str, Any] | None = None,
        model: Any = None,
        model_id: str | None = None,
        extra_metrics: Any = None,
        custom_artifacts: Any = None,
        **_: Any,
    ) -> EvaluationResult:
        """Sample, verify and judge; write the report to the run and the verdict to the version.

        Raises:
            ConfigError: ``evaluator_config`` cannot be used, or names another model than MLflow.
            SinkError: MLflow does not take the report; found before sampling.
            RLRiskError: The assessment was refused or failed; see ``errors.py``.
        """
        from mlflow_rlrisk.sinks.mlflow_store import check_writable

        if extra_metrics or custom_artifacts:
            logger.warning("rlrisk does not compute extra_metrics or custom_artifacts")
        settings = Settings.parse(evaluator_config or {})
        source = _source(settings, model, model_id)
        is_registered = _is_registered(settings, source)
        check_writable(
            run_id,
            name=source.registered_name if is_registered else None,
            version=source.version if is_registered else None,
        )
        with ExitStack() as stack:  # MLflow gets the rollouts, wherever they lie meanwhile
            folder = settings.out_dir or Path(stack.enter_context(TemporaryDirectory("-rlrisk")))
            assessment = _assess(settings, source, dataset, folder)
            logged = _log(assessment, run_id, model_id, dataset, is_registered=is_registered)
        return _result(assessment, logged)


def _source(settings: Settings, model: Any, model_id: str | None) -> "ModelSource":
    """Find the checkpoint that all given names agree on."""
    from mlflow_rlrisk.errors import ConfigError
    from mlflow_rlrisk.model_reference import resolve_reference

    known = model_id or getattr(model, "model_id", None)
    if settings.model_uri is not None:
        source = resolve_reference(settings.model_uri)
        if known is not None and source.model_id != known:
            need = f"MLflow was given {known}, to which it would log; name one model"
            raise ConfigError("model_uri", settings.model_uri, need)
        return _as_version(source)
    if known is not None:
        return _as_version(resolve_reference(f"models:/{known}"))
    if model is None:
        need = 'evaluator_config={"model_uri": "models:/name/version"} or model_id= is needed'
        raise ConfigError("model_uri", None, need)
    folder = _folder_of(model)
    if folder is None:
        need = "the given model does not tell where it came from; name it here, and give model=None"
        raise ConfigError("model_uri", None, need)
    return resolve_reference(str(folder))


def _as_version(source: "ModelSource") -> "ModelSource":
    """A LoggedModel as the registered version that it is, which gets the tags."""
    from mlflow_rlrisk.model_reference import resolve_reference

    if source.registered_name is not None or source.model_id is None:
        return source
    version = _version_of(source.model_id)
    return source if version is None else resolve_reference(version)


def _version_of(model_id: str) -> str | None:
    """The registered version that is this LoggedModel, where there is exactly one."""
    from mlflow.exceptions import MlflowException

    try:
        found = _versions_from(f"models:/{model_id}")
    except MlflowException as error:  # not every registry can search by source
        logger.debug("versions of %s cannot be searched: %s", model_id, error)
        return None
    if len(found) > 1:
        text = "%s is several versions (%s), none of which is tagged: name one as model_uri"
        logger.warning(text, model_id, ", ".join(found))
    return found[0] if len(found) == 1 else None


def _versions_from(source: str) -> list[str]:
    """Registered versions with this source, and the copies of them."""
    from mlflow import MlflowClient

    from mlflow_rlrisk.model_reference import quoted

    found = MlflowClient().search_model_versions(f"source_path={quoted(source)}")
    versions = [f"models:/{each.name}/{each.version}" for each in found]
    return versions + [copy for each in versions for copy in _versions_from(each)]


def _folder_of(model: Any) -> Path | None:
    """The folder a transformers pipeline was loaded from, if it still holds this very model."""
    from mlflow.exceptions import MlflowException
    from mlflow.models import Model

    metadata = getattr(model, "metadata", None)
    implementation = getattr(model, "_model_impl", None)
    if metadata is None or not hasattr(implementation, "get_raw_model"):
        return None
    pipeline = model.get_raw_model()
    config = getattr(getattr(pipeline, "model", None), "config", None)
    folder = Path(getattr(config, "name_or_path", "") or "nowhere").parent
    try:
        found = Model.load(str(folder))
    except (MlflowException, OSError):
        return None
    return folder if found.model_uuid == metadata.model_uuid else None


def _is_registered(settings: Settings, source: "ModelSource") -> bool:
    from mlflow_rlrisk.errors import ConfigError

    is_known = source.registered_name is not None and source.version is not None
    if settings.register and not is_known:
        raise ConfigError("register", True, f"{source.reference} is no registered version")
    return is_known and settings.register is not False


def _assess(settings: Settings, source: "ModelSource", dataset: Any, folder: Path) -> "Assessment":
    from mlflow_rlrisk.assessment.observer import SilentObserver
    from mlflow_rlrisk.assessment.wiring import run_assessment
    from mlflow_rlrisk.console import ConsoleObserver, progress
    from mlflow_rlrisk.evidence import AssessmentContext
    from mlflow_rlrisk.lookahead.stored_rollouts import with_lookahead
    from mlflow_rlrisk.overlap import overlap_evidence, overlap_with
    from mlflow_rlrisk.prompts import load_prompts

    prompts, context = dataset, None
    if settings.sft_data is not None:
        prompts = load_prompts(dataset, settings.mapping)
        found = overlap_with(prompts, settings.sft_data)
        name = settings.sft_data if isinstance(settings.sft_data, str | Path) else "sft_data"
        context = AssessmentContext(sft_rl_overlap=overlap_evidence(found, name))
    if settings.lookahead is not None:
        from mlflow_rlrisk.mismatch_evidence import require_scorable

        require_scorable(source.reference, settings.config)
    observer = ConsoleObserver() if settings.progress else SilentObserver()
    try:
        assessment = run_assessment(
            source.reference,
            prompts,
            verifier=settings.verifier,
            config=settings.config,
            policy=settings.policy,
            mapping=settings.mapping,
            context=context,
            expert_data=settings.expert_data,
            expert_train_data=settings.expert_train_data,
            lookahead=settings.lookahead,
            out_dir=folder,
            run_preflight=settings.run_preflight,
            observer=observer,
            command=_call(settings, source),
        )
    finally:
        if isinstance(observer, ConsoleObserver):
            observer.close()
    if settings.lookahead is None:
        return assessment
    with progress("first updates", is_shown=settings.progress) as shown:
        return with_lookahead(assessment, settings.lookahead, shown)[0]


def _call(settings: Settings, source: "ModelSource") -> str:
    """The call that repeats the assessment, for the report."""
    verifier = settings.verifier
    if callable(verifier):
        verifier = f"{verifier.__module__}:{getattr(verifier, '__qualname__', verifier)}"
    given = {"model_uri": source.reference, "verifier": verifier}
    given |= settings.config.model_dump(mode="json", exclude_defaults=True)
    if policy := settings.policy.model_dump(mode="json", exclude_defaults=True):
        given["policy"] = policy
    if settings.lookahead is not None:
        given["lookahead"] = settings.lookahead.model_dump(mode="json", exclude_unset=True)
    if settings.mapping:
        given["mapping"] = dict(settings.mapping)
    if not settings.run_preflight:
        given["run_preflight"] = False
    for name in ("sft_data", "expert_data", "expert_train_data"):
        if isinstance(found := getattr(settings, name), str | Path):
            given[name] = str(found)
    return (
        'mlflow.models.evaluate(model=None, data=prompts, model_type="rlrisk", '
        f'evaluators="rlrisk", evaluator_config={given!r})'
    )


def _log(
    assessment: "Assessment",
    run_id: str,
    model_id: str | None,
    dataset: Any,
    *,
    is_registered: bool,
) -> "LoggedReport":
    from mlflow_rlrisk.sinks.mlflow_run import log_report
    from mlflow_rlrisk.sinks.registry import tag_version

    logged = log_report(
        assessment.report,
        run_id=run_id,
        rollouts=assessment.folder,
        dataset=_input_of(run_id, dataset),
        log_metrics=model_id is None,
    )
    if is_registered:
        tag_version(assessment.report, report_uri=logged.report_uri)
    return logged


def _input_of(run_id: str, dataset: Any) -> Any:
    """What MLflow logged for ``dataset``: a run may have other inputs, such as training data."""
    from mlflow import MlflowClient

    inputs = MlflowClient().get_run(run_id).inputs
    logged = [each.dataset for each in inputs.dataset_inputs] if inputs else []
    wanted = (dataset.name, getattr(dataset, "digest", None))
    return next((each for each in logged if (each.name, each.digest) == wanted), None)


def _result(assessment: "Assessment", logged: "LoggedReport") -> EvaluationResult:
    from mlflow import MlflowClient
    from mlflow.models.evaluation import artifacts

    from mlflow_rlrisk.sinks.mlflow_run import PROMPT_TABLE, metric_values

    kinds: Any = artifacts  # MLflow leaves these classes untyped
    result: Any = EvaluationResult
    root = MlflowClient().get_run(logged.run_id).info.artifact_uri
    assert logged.table is not None  # the folder of the rollouts was given
    table = json.loads(logged.table.to_json(orient="split", index=False))
    # With their contents, because EvaluationResult.save() fetches none.
    contents = {
        "rlrisk_prompts": kinds.JsonEvaluationArtifact(f"{root}/{PROMPT_TABLE}", table),
        "rlrisk_report": kinds.JsonEvaluationArtifact(
            f"{root}/rlrisk/report.json", assessment.report.to_dict()
        ),
        "rlrisk_page": kinds.TextEvaluationArtifact(f"{root}/rlrisk/report.html", logged.page),
    }
    return result(  # type: ignore[no-any-return]
        metrics=metric_values(assessment.report), artifacts=contents, run_id=logged.run_id
    )
