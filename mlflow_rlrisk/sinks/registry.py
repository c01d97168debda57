"""The registry's two ends: a local checkpoint in, the verdict back onto its version.

`log_checkpoint` registers a Hugging Face folder file by file; it never loads a weight, so it needs
neither torch nor the memory. `tag_version` writes what a report says onto the model version and
its LoggedModel; doing it twice leaves the same tags.
"""

import fnmatch
import logging
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from mlflow_rlrisk.attestation import ATTESTATION_TAG
from mlflow_rlrisk.errors import ModelReferenceError, PromotionRefusedError, SinkError
from mlflow_rlrisk.model_reference import refuse_unnameable
from mlflow_rlrisk.sinks.mlflow_store import mlflow_errors
from mlflow_rlrisk.sinks.verdict import (
    DESCRIPTION_MARK,
    INDEX_TAG,
    verdict_markdown,
    version_tags,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion

    from mlflow_rlrisk.report import RiskReport

logger = logging.getLogger(__name__)

MODEL_TYPE = "rlrisk-checkpoint"
"""``LoggedModel.model_type`` of what `log_checkpoint` writes."""

TRAINER_STATE = (
    "optimizer*",
    "scheduler.*",
    "scaler.*",
    "rng_state*",
    "training_args.bin",
    "global_step*",
    "checkpoint-*",
    "runs",
    ".*",
    "__pycache__",
)
"""Names a trainer leaves beside the weights: pickles of up to twice their size, and no model."""

MAX_DESCRIPTION = 4000
"""SQL registries keep 5000 characters."""

MAX_TRIES = 10
"""Verdicts of others that are overwritten before it is given up."""

_WEIGHTS = ("*.safetensors", "*.bin")
_NAME_BREAKERS = re.compile(r"[/:.%\"']")  # refused in LoggedModel names, legal in registered ones


@overload
def log_checkpoint(
    path: str | os.PathLike[str],
    name: str,
    *,
    tags: Mapping[str, Any] | None = ...,
    params: Mapping[str, Any] | None = ...,
    step: int | None = ...,
    parent: str | None = ...,
    source_run_id: str | None = ...,
) -> "ModelVersion": ...


@overload
def log_checkpoint(
    path: str | os.PathLike[str],
    name: None = ...,
    *,
    tags: Mapping[str, Any] | None = ...,
    params: Mapping[str, Any] | None = ...,
    step: int | None = ...,
    parent: str | None = ...,
    source_run_id: str | None = ...,
) -> "LoggedModel": ...


def log_checkpoint(
    path: str | os.PathLike[str],
    name: str | None = None,
    *,
    tags: Mapping[str, Any] | None = None,
    params: Mapping[str, Any] | None = None,
    step: int | None = None,
    parent: str | None = None,
    source_run_id: str | None = None,
) -> "ModelVersion | LoggedModel":
    """Store a local Hugging Face folder in MLflow as a LoggedModel, without loading it.

    Trainer state beside the weights (`TRAINER_STATE`) is left out; links, as in a Hugging Face
    cache, are followed.

    Args:
        path: Folder with ``config.json`` and weights.
        name: Registered model that gets a new version; ``None`` registers nothing.
        tags: Tags of the LoggedModel and of the version.
        params: Parameters of the LoggedModel, such as epochs or the learning rate.
        step: Training step (or epoch) of the checkpoint.
        parent: Reference of the checkpoint it was trained from.
        source_run_id: Training run; the active run where there is one.

    Returns:
        The new model version, or the LoggedModel where ``name`` is ``None``.

    Raises:
        ModelReferenceError: ``path`` is no Hugging Face folder, or no reference can hold ``name``.
            Nothing has been written then.
        MlflowException: MLflow refused; a LoggedModel begun is left behind marked ``FAILED``, or
            ``READY`` where all was uploaded and only the registration failed.
    """
    import mlflow
    from mlflow.entities import LoggedModelOutput

    folder = _checkpoint_folder(path)
    if name is not None:
        refuse_unnameable(name)  # before gigabytes are uploaded
    client = mlflow.MlflowClient()
    experiment_id = None  # of the active run, else the one that is set
    if source_run_id is not None:
        experiment_id = client.get_run(source_run_id).info.experiment_id
    marks = {key: str(value) for key, value in (tags or {}).items()}
    if step is not None:
        marks["rlrisk.step"] = str(step)
    if parent is not None:
        marks["rlrisk.parent"] = parent
    model = mlflow.initialize_logged_model(
        name=_NAME_BREAKERS.sub("-", name or folder.name) or None,
        source_run_id=source_run_id,
        tags=marks,
        params={key: str(value) for key, value in (params or {}).items()},
        model_type=MODEL_TYPE,
        experiment_id=experiment_id,
    )
    status: Literal["READY", "FAILED"] = "FAILED"
    try:
        _upload(client, model.model_id, folder)
        status = "READY"
    finally:  # an interrupted upload must not stay PENDING for ever
        model = mlflow.finalize_logged_model(model.model_id, status)
    if model.source_run_id:
        output = LoggedModelOutput(model.model_id, step=step or 0)
        client.log_outputs(model.source_run_id, [output])
    if name is None:
        return model
    return mlflow.register_model(f"models:/{model.model_id}", name, tags=marks)


def _checkpoint_folder(path: str | os.PathLike[str]) -> Path:
    folder = Path(path).resolve()
    if not folder.is_dir():
        raise ModelReferenceError(f"{path}: no such folder; a Hugging Face checkpoint is needed")
    if not (folder / "config.json").is_file():
        raise ModelReferenceError(f"{path}: no config.json; a Hugging Face checkpoint is needed")
    names = [file.name for file, _ in _model_files(folder)]
    if not any(fnmatch.filter(names, pattern) for pattern in _WEIGHTS):
        raise ModelReferenceError(f"{path}: no weights (*.safetensors) beside config.json")
    return folder


def _model_files(folder: Path) -> Iterator[tuple[Path, Path]]:
    """Yield every file of the model with its path relative to ``folder``."""
    for entry in sorted(folder.iterdir()):
        if any(fnmatch.fnmatch(entry.name, pattern) for pattern in TRAINER_STATE):
            logger.info("%s is trainer state and is not stored", entry.name)
        elif entry.is_dir():
            yield from ((f, f.relative_to(folder)) for f in sorted(entry.rglob("*")) if f.is_file())
        elif entry.is_file():
            yield entry, Path(entry.name)


def _upload(client: Any, model_id: str, folder: Path) -> None:
    # A folder of links is sent in one call, which lets a remote store send files in parallel.
    with tempfile.TemporaryDirectory(prefix="rlrisk-") as staged:
        for file, relative in _model_files(folder):
            link = Path(staged, relative)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file.resolve())
        client.log_model_artifacts(model_id, staged)


def tag_version(
    report: "RiskReport",
    *,
    report_uri: str,
    attestation: str | None = None,
    client: "MlflowClient | None" = None,
) -> None:
    """Write the verdict onto the version and LoggedModel of its provenance; twice is as once.

    A description is written where there is none or where it is an earlier verdict. Where a
    promotion gate keeps the version's tags for signed verdicts, an unsigned one stays on run and
    LoggedModel, and a warning says so.

    Args:
        report: The verdict.
        report_uri: Where the page is, as `LoggedReport.report_uri`.
        attestation: Signed statement about the version; written before the tags it stands for.
        client: Asks MLflow; one of the server in use where it is absent.

    Raises:
        SinkError: No version is known, or the registry refuses.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    source = report.provenance
    name, version = source.registered_name, source.version
    if name is None or version is None:
        raise SinkError(f"{source.model_reference}: no registered version is known to tag")
    client = client or mlflow.MlflowClient()
    tags = version_tags(report, report_uri)
    with mlflow_errors(f"version {version} of {name} cannot be tagged"):
        known = client.get_model_version(name, version)
        is_shown = True
        signed = {} if attestation is None else {ATTESTATION_TAG: attestation}
        try:
            _set_version_tags(client, known, {**signed, **tags})
            _describe(client, known, verdict_markdown(report, report_uri, MAX_DESCRIPTION))
        except MlflowException as error:
            if attestation is not None or not PromotionRefusedError.told_by(error):
                raise
            logger.warning("the verdict is advisory, version %s keeps its tags: %s", version, error)
            is_shown = False
    if source.model_id is not None:
        with mlflow_errors(f"LoggedModel {source.model_id} cannot be tagged"):
            _set_model_tags(client, known if is_shown else None, source.model_id, tags)


def _set_model_tags(
    client: Any, known: "ModelVersion | None", model_id: str, tags: Mapping[str, str]
) -> None:
    """Write tags, and then what the version says by now, until both say the same.

    ``None`` for a version that keeps other tags.
    """
    said = dict(tags)
    for _ in range(MAX_TRIES):
        client.set_logged_model_tags(model_id, said)
        if INDEX_TAG not in said and INDEX_TAG in client.get_logged_model(model_id).tags:
            client.delete_logged_model_tag(model_id, INDEX_TAG)
        if known is None:
            return
        found = client.get_model_version(known.name, known.version).tags
        written, said = said, {key: found[key] for key in {*tags, INDEX_TAG} & found.keys()}
        if written == said:
            return
    raise SinkError(f"LoggedModel {model_id}: others go on writing their verdicts onto its version")


def _describe(client: Any, known: "ModelVersion", text: str) -> None:
    if not known.description or known.description.startswith(DESCRIPTION_MARK):
        client.update_model_version(known.name, known.version, text)


def _set_version_tags(client: Any, known: "ModelVersion", tags: Mapping[str, str]) -> None:
    """Write tags until they all stand there: a verdict written meanwhile is not mixed with ours."""
    name, version = known.name, known.version
    for _ in range(MAX_TRIES):
        changed = {key: value for key, value in tags.items() if known.tags.get(key) != value}
        is_index_left = INDEX_TAG in known.tags and INDEX_TAG not in tags
        if not changed and not is_index_left:
            return
        for key, value in changed.items():
            client.set_model_version_tag(name, version, key, value)
        if is_index_left:
            client.delete_model_version_tag(name, version, INDEX_TAG)
        known = client.get_model_version(name, version)
    raise SinkError(f"version {version} of {name}: others go on writing their verdicts onto it")
