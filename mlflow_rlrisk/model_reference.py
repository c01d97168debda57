"""A model reference becomes a source: a local folder, or an artifact URI to download.

Knows MLflow's names: versions, aliases, stages, LoggedModels, run artifacts. A version's
``model_id`` is empty in open-source registries, so the LoggedModel is found through the version's
``source``, and copies of versions (``models:/name/version`` as source) are followed to their end,
while that still has their files. No store is asked for files here: whoever resolves may have to
refuse it first.
"""

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlparse

from mlflow_rlrisk.errors import ModelReferenceError

MAX_COPIES = 16
"""Copies of copies that are followed before a chain counts as a cycle."""

_NAME = r"(?P<name>[^/@:%\\]+)"
_MODEL = re.compile(rf"models:/{_NAME}")
_VERSION = re.compile(rf"models:/{_NAME}/(?P<version>[0-9]+)")
_ALIAS = re.compile(rf"models:/{_NAME}@(?P<alias>[^/@:%\\]+)")
_STAGE = re.compile(rf"models:/{_NAME}/(?P<stage>(?i:none|staging|production|archived))")
_LOGGED = re.compile(r"models:/(?P<model_id>m-[A-Za-z0-9]+)")
_RUN = re.compile(r"runs:/(?P<run_id>[A-Za-z0-9]+)/(?P<path>[^%\\?#\t\r\n]+)")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")
FORMS = (
    "a local folder, models:/name/version, models:/name@alias, models:/name/stage, models:/m-<id>, "
    "runs:/<id>/path"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """Where a checkpoint lies and what the registry says of it."""

    reference: str
    local_path: Path | None = None
    artifact_uri: str | None = None
    registered_name: str | None = None
    version: str | None = None
    alias: str | None = None
    stage: str | None = None
    model_id: str | None = None
    run_id: str | None = None

    def download(self, folder: Path) -> Path:
        """Fetch the artifacts into ``folder``; returns where they lie.

        Raises:
            ModelReferenceError: The artifacts cannot be fetched.
        """
        from mlflow.artifacts import download_artifacts

        try:
            fetched = download_artifacts(artifact_uri=self.artifact_uri, dst_path=str(folder))
        except Exception as error:  # MLflow's, or one of the store's client library
            text = str(error) or type(error).__name__
            need = f"{self.artifact_uri} cannot be fetched: {text}"
            raise ModelReferenceError(f"model={self.reference!r}: {need}") from error
        return Path(fetched)


def resolve_reference(reference: str) -> ModelSource:
    """Resolve a reference.

    Raises:
        ModelReferenceError: It has no known form, or nothing answers to it.
    """
    if not _SCHEME.match(reference):
        path = Path(reference).expanduser()
        if not reference.strip() or not _is_folder(path, reference):
            raise ModelReferenceError(f"model={reference!r}: no such folder; known forms: {FORMS}")
        return ModelSource(reference=reference, local_path=path)
    if ".." in reference.split("/"):
        raise ModelReferenceError(f"model={reference!r}: '..' is not allowed")
    with _mlflow_errors(reference):
        # The copies, the version that they are of, and the run or model that it names.
        return _follow(reference, ModelSource(reference=reference), MAX_COPIES + 2)


def all_versions(reference: str) -> list[str] | None:
    """References of every version of ``models:/name``, ascending; ``None`` for another form.

    Raises:
        ModelReferenceError: The registry does not know the model, or it has no version.
    """
    match = _MODEL.fullmatch(reference)
    if match is None or _LOGGED.fullmatch(reference):
        return None
    return versions_of(match["name"])


def versions_of(name: str) -> list[str]:
    """References of every version of a registered model, ascending.

    Raises:
        ModelReferenceError: No reference can hold the name, the registry does not know it, or it
            has no version.
    """
    from mlflow import MlflowClient  # not for folders: it takes seconds to load

    refuse_unnameable(name)
    reference = f"models:/{name}"
    with _mlflow_errors(reference):
        client = MlflowClient()
        client.get_registered_model(name)
        found: list[int] = []
        token = None
        while True:
            page = client.search_model_versions(f"name={quoted(name)}", page_token=token)
            found += [int(each.version) for each in page]
            token = page.token
            if not token:
                break
    if not found:
        raise ModelReferenceError(f"model={reference!r}: it has no version")
    return [f"{reference}/{version}" for version in sorted(found)]


def refuse_unnameable(name: str) -> None:
    """Refuse the name of a registered model that no reference can hold.

    Raises:
        ModelReferenceError: It is empty, or has a character that references give a meaning.
    """
    if not name.strip() or not _MODEL.fullmatch(f"models:/{name}"):
        need = "no reference can hold this name: it is empty or has one of / @ : % \\"
        raise ModelReferenceError(f"name={name!r}: {need}")


def quoted(text: str) -> str:
    """A text as MLflow's filters take it; one with both kinds of quotes they cannot take."""
    quote = '"' if "'" in text else "'"
    return f"{quote}{text}{quote}"


def parent_of(reference: str) -> str | None:
    """What a registered version was trained from, if anything says so.

    Its tag ``rlrisk.parent`` is asked first, then MLflow's lineage: the one LoggedModel that the
    run which made the version took as its input.

    Raises:
        ModelReferenceError: The registry does not know the version.
    """
    found = registered_version(reference)
    if found is None:
        return None
    if (tagged := found.tags.get("rlrisk.parent")) is not None:
        return str(tagged)
    return _input_model(resolve_reference(reference))


def named_as(parent: str | None, references: Sequence[str]) -> str | None:
    """The one of the references that a parent under another name is, else the parent as it is."""
    if parent is None or parent in references:
        return parent
    try:
        wanted = _place(resolve_reference(parent))
    except ModelReferenceError:
        return parent
    return next((e for e in references if _place(resolve_reference(e)) == wanted), parent)


def _place(source: ModelSource) -> tuple[str, str]:
    """What two references to the same artifacts share."""
    if source.model_id is not None:
        return "model", source.model_id
    return "files", str(source.local_path or source.artifact_uri)


def _input_model(source: ModelSource) -> str | None:
    if source.run_id is None:
        return None
    from mlflow import MlflowClient

    with _mlflow_errors(source.reference):
        inputs = MlflowClient().get_run(source.run_id).inputs
    taken = {each.model_id for each in inputs.model_inputs or ()} if inputs else set()
    taken.discard(source.model_id)  # a run that trained and then evaluated what it had made
    return f"models:/{taken.pop()}" if len(taken) == 1 else None


def series_of(reference: str) -> str | None:
    """The run of training a registered version belongs to: tag ``rlrisk.series``, else its model.

    Raises:
        ModelReferenceError: The registry does not know the version.
    """
    found = registered_version(reference)
    return None if found is None else str(found.tags.get("rlrisk.series", found.name))


def registered_version(reference: str) -> Any:
    """MLflow's entity of a registered version, ``None`` where the reference is of another kind.

    Its artifacts are not looked for: a version has its tags when the weights are long removed.

    Raises:
        ModelReferenceError: It is malformed, or the registry does not know the version.
    """
    if not reference.startswith("models:/") or _LOGGED.fullmatch(reference):
        return None
    from mlflow import MlflowClient

    with _mlflow_errors(reference):
        if match := _ALIAS.fullmatch(reference):
            return MlflowClient().get_model_version_by_alias(match["name"], match["alias"])
        if match := _STAGE.fullmatch(reference):
            return _newest_in(MlflowClient(), match["name"], match["stage"])
        if match := _VERSION.fullmatch(reference):
            return MlflowClient().get_model_version(match["name"], match["version"])
    raise ModelReferenceError(f"model={reference!r} has no known form; {FORMS}")


def original_of(version: Any) -> str:
    """Reference of the version that a registered one is a copy of, or its own.

    A copy names what it is of as its source, also once that was deleted.

    Args:
        version: MLflow's entity.
    """
    reference = f"models:/{version.name}/{version.version}"
    for _ in range(MAX_COPIES):
        if not _VERSION.fullmatch(version.source or ""):
            break
        reference = version.source
        try:
            version = registered_version(reference)
        except ModelReferenceError:
            break
    return reference


def _follow(uri: str, known: ModelSource, copies_left: int) -> ModelSource:
    from mlflow import MlflowClient

    client = MlflowClient()
    if copies_left == 0:
        raise ModelReferenceError(f"model={known.reference!r}: its copies form a cycle")
    if match := _LOGGED.fullmatch(uri):
        return _logged_model(client, match["model_id"], known)
    if match := _ALIAS.fullmatch(uri):
        found = client.get_model_version_by_alias(match["name"], match["alias"])
        return _version(client, found, replace(known, alias=match["alias"]), copies_left)
    if match := _STAGE.fullmatch(uri):
        found = _newest_in(client, match["name"], match["stage"])
        return _version(client, found, replace(known, stage=match["stage"]), copies_left)
    if match := _VERSION.fullmatch(uri):
        found = client.get_model_version(match["name"], match["version"])
        return _version(client, found, known, copies_left)
    if match := _RUN.fullmatch(uri):
        return _run_artifact(client, match["run_id"], match["path"].strip("/"), known)
    raise ModelReferenceError(f"model={known.reference!r}: {uri!r} has no known form; {FORMS}")


def _newest_in(client: Any, name: str, stage: str) -> Any:
    """The version that MLflow loads by a stage."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # stages are on their way out
        found = client.get_latest_versions(name, [stage])
    if not found:
        raise ModelReferenceError(f"model='models:/{name}/{stage}': no version is in this stage")
    return max(found, key=lambda each: int(each.version))


def _version(client: Any, found: Any, known: ModelSource, copies_left: int) -> ModelSource:
    if known.registered_name is None:  # a copy keeps the name and version that were asked for
        known = replace(known, registered_name=found.name, version=str(found.version))
    known = replace(known, run_id=known.run_id or found.run_id or None)
    source = str(found.source)
    if copied := _VERSION.fullmatch(source):
        location = client.get_model_version_download_uri(found.name, found.version)
        # Where its original is gone, or another one of the name, its files stay where they are.
        if location != _location_or_none(client, **copied.groupdict()):
            source = location
    if source.startswith(("models:/", "runs:/")):
        return _follow(source, known, copies_left - 1)
    return _at(source, known)


def _location_or_none(client: Any, name: str, version: str) -> str | None:
    from mlflow.exceptions import MlflowException

    try:
        return str(client.get_model_version_download_uri(name, version))
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def _logged_model(client: Any, model_id: str, known: ModelSource) -> ModelSource:
    model = client.get_logged_model(model_id)
    run_id = known.run_id or model.source_run_id or None
    return _at(model.artifact_location, replace(known, model_id=model_id, run_id=run_id))


def _run_artifact(client: Any, run_id: str, path: str, known: ModelSource) -> ModelSource:
    run = client.get_run(run_id)
    known = replace(known, run_id=run_id)
    beside = logged_beside(client, run.info.experiment_id, run_id, path)
    if beside is not None and "/" not in path:
        return _logged_model(client, beside.model_id, known)
    return _at(f"{run.info.artifact_uri.rstrip('/')}/{path}", known)


class Beside(NamedTuple):
    """Files of a LoggedModel that MLflow loads together with those at a path of its run."""

    model_id: str
    location: str


def logged_beside(client: Any, experiment_id: str, run_id: str, path: str) -> Beside | None:
    """What a path in a run means of the run's LoggedModels: of several of one name the newest."""
    from mlflow.utils.uri import is_databricks_uri

    name, _, rest = path.partition("/")
    wanted = f"name = {quoted(name)}"
    if not is_databricks_uri(client.tracking_uri):  # type: ignore[no-untyped-call]  # knows no runs
        wanted += f" AND source_run_id = {quoted(run_id)}"
    token = None
    while True:
        page = client.search_logged_models([experiment_id], wanted, page_token=token)
        for each in page:
            if each.source_run_id == run_id:
                location = f"{each.artifact_location.rstrip('/')}/{rest}".rstrip("/")
                return Beside(each.model_id, location)
        if not (token := page.token):
            return None


def _at(location: str, known: ModelSource) -> ModelSource:
    from mlflow.utils.file_utils import local_file_uri_to_path

    parts = urlparse(location)
    if parts.scheme in ("", "file"):
        path = Path(local_file_uri_to_path(location))  # type: ignore[no-untyped-call]
        if not _is_folder(path, known.reference):
            raise ModelReferenceError(f"model={known.reference!r}: its artifacts are gone ({path})")
        return replace(known, local_path=path)
    return replace(known, artifact_uri=location)


def _is_folder(path: Path, reference: str) -> bool:
    try:
        return path.is_dir()
    except OSError as error:  # it may not be looked at, or its name is too long for one
        raise ModelReferenceError(f"model={reference!r}: {error.strerror}") from error


@contextmanager
def _mlflow_errors(reference: str) -> Iterator[None]:
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        raise ModelReferenceError(f"model={reference!r}: {error.message}") from error
