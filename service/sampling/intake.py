"""Fetches the files of a checkpoint that may be fetched, into a folder of the assessment's own.

What a loader could execute is not even downloaded. Names and sizes are looked at first, so that a
version cannot fill the disk.
"""

import errno
import fnmatch
import os
import posixpath
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from mlflow_rlrisk import ModelReferenceError, ModelSource, RLRiskError
from service.registry.bounded_calls import SLOWEST_BYTES_PER_S, call_limit_s
from service.registry.upstream import in_time
from service.settings import Limits

SAFE = (
    *("*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json"),
    *("tokenizer*.json", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt"),
    *("*.model", "chat_template*.jinja", "chat_template*.json", "*.jinja", "MLmodel"),
)
PICKLED = ("*.bin", "*.bin.index.json")
"""Fetched only where the operator takes pickled weights."""


class IntakeError(RLRiskError):
    """The checkpoint is refused; the argument says why."""

    code = "checkpoint_refused"


def fetch(
    source: ModelSource,
    folder: Path,
    *,
    limits: Limits,
    is_pickle_allowed: bool = False,
    keep_waiting: Callable[[], None] = lambda: None,
) -> Path:
    """Download the allowed files of a source.

    Args:
        source: Resolved, and from a place that is taken.
        folder: Private; created where it is not there.
        limits: How many files and bytes.
        is_pickle_allowed: The operator's setting.
        keep_waiting: Called every second; what it raises ends the wait.

    Returns:
        The folder.

    Raises:
        IntakeError: Too many or too large, no usable weights, or a name that leads elsewhere.
        ModelReferenceError: The store does not answer.
        AwayError: It answers, but its answer comes to no end.
        OSError: There is no room for them.
    """
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    patterns = (*SAFE, *PICKLED) if is_pickle_allowed else SAFE
    root = str(source.artifact_uri).rstrip("/")
    try:
        files = dict(_listed(root, limits, keep_waiting))
        wanted = {path: size for path, size in files.items() if _matches(path, patterns)}
        _check(files, wanted, limits)
        _check_room(folder, wanted)
        for path in wanted:
            target = folder / posixpath.dirname(path)
            target.mkdir(mode=0o700, parents=True, exist_ok=True)
            done = folder / path
            if not done.is_file() or done.stat().st_size != wanted[path]:
                limit_s = call_limit_s() + wanted[path] / SLOWEST_BYTES_PER_S
                # Beside the folder: a call that is given up goes on writing.
                apart = tempfile.mkdtemp(prefix="fetching-", dir=folder.parent)
                ask = partial(download_artifacts, artifact_uri=f"{root}/{path}", dst_path=apart)
                os.replace(in_time(ask, limit_s, keep_waiting=keep_waiting), done)
                os.rmdir(apart)
    except MlflowException as error:
        raise ModelReferenceError(f"model={source.reference!r}: {error.message}") from error
    return folder


def _listed(
    root: str, limits: Limits, keep_waiting: Callable[[], None]
) -> Iterator[tuple[str, int]]:
    """Path relative to ``root`` and size of every file, never more than the limit and one."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    repository = get_artifact_repository(root)
    folders: list[str | None] = [None]
    num = 0
    while folders:
        ask = partial(repository.list_artifacts, folders.pop())
        for info in in_time(ask, call_limit_s(), keep_waiting=keep_waiting):
            num += 1
            if num > limits.max_checkpoint_files:
                raise IntakeError(f"more than {limits.max_checkpoint_files} files")
            parts = info.path.split("/")
            if ".." in parts or "" in parts or "\\" in info.path or "%" in info.path:
                raise IntakeError("a file name leads elsewhere")
            if info.is_dir:
                folders.append(info.path)
            else:
                yield info.path, int(info.file_size or 0)


def _matches(path: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(posixpath.basename(path), pattern) for pattern in patterns)


def _check_room(folder: Path, wanted: dict[str, int]) -> None:
    there = sum((folder / path).stat().st_size for path in wanted if (folder / path).is_file())
    missing, free = sum(wanted.values()) - there, shutil.disk_usage(folder).free
    if missing > free:
        raise OSError(errno.ENOSPC, f"{missing} bytes are to be fetched, {free} are free")


def _check(files: dict[str, int], wanted: dict[str, int], limits: Limits) -> None:
    total = sum(wanted.values())
    if total > limits.max_checkpoint_bytes:
        raise IntakeError(f"{total} bytes, at most {limits.max_checkpoint_bytes} are taken")
    weights = [path for path in wanted if path.endswith((".safetensors", ".bin"))]
    if not weights and any(_matches(path, PICKLED) for path in files):
        raise IntakeError("its weights are pickled, which can run code; safetensors are needed")
