"""Which files a version has now, and how large they are: the cheap half of the content check.

Nothing is read but names and sizes. Within an ``mlflow server`` that serves artifacts itself,
``mlflow-artifacts:`` locations are looked up where the server stores them, not over HTTP.
"""

import os
import posixpath
from functools import lru_cache
from typing import Any

from mlflow_rlrisk.errors import CheckpointError

MAX_FILES = 10_000
"""A version with more files is no checkpoint; listing it would hold up the server."""
MAX_FOLDERS = 1_000


def list_sizes(location: str) -> dict[str, int]:
    """Sizes in bytes of all files below an artifact location, by path relative to it.

    Raises:
        CheckpointError: There are too many, or the store does not tell a size.
        Exception: Whatever the artifact store raises; the caller refuses then.
    """
    repository = _repository(location)
    sizes: dict[str, int] = {}
    folders: list[str | None] = [None]
    num_folders = 0
    while folders:
        num_folders += 1
        for info in repository.list_artifacts(folders.pop()):
            if info.is_dir:
                folders.append(info.path)
                continue
            if info.file_size is None:
                raise CheckpointError(f"the artifact store does not tell the size of {info.path}")
            sizes[info.path] = int(info.file_size)
        if len(sizes) > MAX_FILES or num_folders + len(folders) > MAX_FOLDERS:
            raise CheckpointError(f"more than {MAX_FILES} files or {MAX_FOLDERS} folders")
    return sizes


def _repository(location: str) -> Any:
    from mlflow.server.constants import ARTIFACTS_DESTINATION_ENV_VAR
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
    from mlflow.tracking import get_tracking_uri
    from mlflow.utils.workspace_context import get_request_workspace

    if location.startswith("runs:/"):
        location = _below_run(location, get_tracking_uri(), get_request_workspace())
    destination = os.environ.get(ARTIFACTS_DESTINATION_ENV_VAR)
    if destination is not None and location.startswith("mlflow-artifacts:"):
        from mlflow.server import handlers

        path = handlers._get_proxied_run_artifact_destination_path(location)
        path = handlers._get_workspace_scoped_repo_path_if_enabled(path)
        location = posixpath.join(destination, str(path))
    return get_artifact_repository(location)


@lru_cache(maxsize=1024)
def _below_run(location: str, tracking_uri: str, workspace: str | None) -> str:
    """Where a run's artifacts lie: set when the run is made, and never changed by MLflow."""
    del workspace  # a run is found in its own only
    from mlflow.store.artifact.runs_artifact_repo import RunsArtifactRepository

    return str(RunsArtifactRepository.get_underlying_uri(location, tracking_uri))
