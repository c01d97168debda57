"""Which files a version has now, and how large they are: the cheap half of the content check.

Nothing is read but names and sizes. Within an ``mlflow server`` that serves artifacts itself,
``mlflow-artifacts:`` locations are looked up where the server stores them, not over HTTP.
"""

import os
import posixpath
from collections.abc import Iterator
from functools import lru_cache, partial
from typing import Any, NamedTuple

from mlflow_rlrisk.errors import CheckpointError
from mlflow_rlrisk.model_reference import logged_beside

MAX_FILES = 10_000
"""A version with more files is no checkpoint; listing it would hold up the server."""
MAX_FOLDERS = 1_000

_Item = tuple[str, bool, int | None]
"""Path relative to the root, whether it is a folder, size in bytes."""


def list_sizes(location: str) -> dict[str, int]:
    """Sizes in bytes of all files below an artifact location, by path relative to it.

    Raises:
        CheckpointError: There are too many, or the store does not tell a size.
        Exception: Whatever the artifact store raises; the caller refuses then.
    """
    if location.startswith("runs:/"):
        return _sizes_of_run(location)
    stored = _resolved(location)
    top = _local_folder(stored)
    listing = partial(_within, top) if top is not None else partial(_told, _repository(stored))
    sizes: dict[str, int] = {}
    folders: list[str | None] = [None]
    num_folders = 0
    while folders:
        num_folders += 1
        for path, is_folder, size in listing(folders.pop()):
            if is_folder:
                folders.append(path)
                continue
            if size is None:
                raise CheckpointError(f"the artifact store does not tell the size of {path}")
            sizes[path] = int(size)
        if len(sizes) > MAX_FILES or num_folders + len(folders) > MAX_FOLDERS:
            raise CheckpointError(f"more than {MAX_FILES} files or {MAX_FOLDERS} folders")
    return sizes


def _told(repository: Any, folder: str | None) -> Iterator[_Item]:
    """What an artifact store says of a folder."""
    for info in repository.list_artifacts(folder):
        yield info.path, info.is_dir, info.file_size


def _within(top: str, folder: str | None) -> Iterator[_Item]:
    """What lies in a folder of this machine; MLflow would ask its file system six times a file."""
    here = os.path.join(top, folder or "")
    if not os.path.isdir(here):
        return
    with os.scandir(here) as listed:
        for entry in listed:
            path = posixpath.join(folder or "", entry.name)
            yield path, entry.is_dir(), entry.stat().st_size


def _repository(location: str) -> Any:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    return get_artifact_repository(location)


@lru_cache(maxsize=1024)
def _local_folder(location: str) -> str | None:
    """The folder that a location means, where it is one of this machine."""
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

    found = _repository(location)
    return str(found.artifact_dir) if isinstance(found, LocalArtifactRepository) else None


def _resolved(location: str) -> str:
    """Where a location is stored: also of what this server keeps for its clients."""
    from mlflow.server.constants import ARTIFACTS_DESTINATION_ENV_VAR

    destination = os.environ.get(ARTIFACTS_DESTINATION_ENV_VAR)
    if destination is not None and location.startswith("mlflow-artifacts:"):
        from mlflow.server import handlers

        path = handlers._get_proxied_run_artifact_destination_path(location)
        path = handlers._get_workspace_scoped_repo_path_if_enabled(path)
        location = posixpath.join(destination, str(path))
    return location


def _sizes_of_run(location: str) -> dict[str, int]:
    """What MLflow loads from a path of a run, where no LoggedModel comes to lie over it."""
    from mlflow import MlflowClient
    from mlflow.tracking import get_tracking_uri
    from mlflow.utils.workspace_context import get_request_workspace

    tracking_uri = get_tracking_uri()
    run = _run(location, tracking_uri, get_request_workspace())
    own = list_sizes(run.location)
    beside = logged_beside(MlflowClient(tracking_uri), run.experiment_id, run.run_id, run.path)
    if own and beside is not None and list_sizes(beside.location):
        raise CheckpointError(
            "the run has files there and a LoggedModel of that name, and MLflow loads a mixture of "
            "both: log them under different names"
        )
    return own


class _Run(NamedTuple):
    """What a path of a run means; set when the run is made, and never changed by MLflow."""

    run_id: str
    path: str
    experiment_id: str
    location: str


@lru_cache(maxsize=1024)
def _run(location: str, tracking_uri: str, workspace: str | None) -> _Run:
    del workspace  # a run is found in its own only
    from mlflow import MlflowClient
    from mlflow.store.artifact.runs_artifact_repo import RunsArtifactRepository

    run_id, path = RunsArtifactRepository.parse_runs_uri(location)
    return _Run(
        run_id=run_id,
        path=path or "",
        experiment_id=MlflowClient(tracking_uri).get_run(run_id).info.experiment_id,
        location=str(RunsArtifactRepository.get_underlying_uri(location, tracking_uri)),
    )
