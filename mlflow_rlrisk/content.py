"""What a set of files hashes to: the one definition of a content digest.

A digest is SHA-256 over the sorted ``[path, size, SHA-256]`` lines of the files. The digest of a
checkpoint takes the files that can change a rollout; that of a registered version takes every
file, because a loader may pick up a file that was not there before.
"""

import hashlib
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from mlflow_rlrisk.errors import CheckpointError


class FileEntry(NamedTuple):
    """One file: path relative to the root in POSIX form, size in bytes, SHA-256 in hex."""

    path: str
    size: int
    sha256: str


def content_digest(entries: Iterable[FileEntry]) -> str:
    """SHA-256 over the sorted (path, size, SHA-256) of files; order does not matter."""
    return text_digest("\n".join(json.dumps(list(entry)) for entry in sorted(entries)))


def text_digest(text: str) -> str:
    """SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def json_digest(value: Any) -> str:
    """SHA-256 of a JSON value, whatever the order of its keys."""
    return text_digest(json.dumps(value, sort_keys=True))


def file_entry(name: str, path: Path) -> FileEntry:
    """Hash one file; its size is the number of bytes that were hashed."""
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return FileEntry(name, stream.tell(), digest)


@cache
def own_code() -> str:
    """Digest of this package: between two releases its version says nothing."""
    home = Path(__file__).parent
    return content_digest(
        file_entry(path.relative_to(home).as_posix(), path) for path in home.rglob("*.py")
    )


def plain_files(folder: Path) -> list[tuple[str, Path]]:
    """Every file below ``folder`` as (name, path).

    Raises:
        CheckpointError: It holds nothing, a link, or what is neither file nor folder.
    """
    root = folder.resolve()
    found = []
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_symlink():
            raise CheckpointError(
                f"{name} is a link, whose target may change while {folder} does not: put the file "
                f"itself there"
            )
        if path.is_dir():
            continue
        if not path.is_file():
            raise CheckpointError(f"{name} is neither a file nor a folder")
        found.append((name, path))
    if not found:
        raise CheckpointError(f"{folder} holds no files")
    return found


def hash_folder(folder: Path) -> tuple[FileEntry, ...]:
    """Hash every file below ``folder``, sorted by path.

    Raises:
        CheckpointError: It holds nothing, a link, or what is neither file nor folder.
    """
    return tuple(sorted(file_entry(name, path) for name, path in plain_files(folder)))
