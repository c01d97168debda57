"""The files of a Hugging Face dataset folder, without the library.

Two kinds of folder are known: what ``save_to_disk`` writes (Arrow streams, listed in
``state.json``; several splits have a folder each and a ``dataset_dict.json`` above them), and a
dataset repository as it lies on the Hub (``train-00000-of-00002.parquet``, maybe below ``data``).
A folder with several splits is never read whole: one must be named, as ``FOLDER/SPLIT``.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlflow_rlrisk.errors import PromptSetError

SUFFIXES = (".parquet", ".jsonl", ".json", ".csv")
"""Of the files of a repository, the first kind that is there is taken."""
NUM_NAMED = 3
"""Missing shards that an error names."""
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})(?:-[0-9a-f]+)?\Z")
_NO_DATA = frozenset({"dataset_info.json", "dataset_infos.json", "state.json", "dataset_dict.json"})


def is_dataset(path: Path) -> bool:
    """True for a folder, and for a split named below a folder that exists."""
    return path.is_dir() or (not path.exists() and not path.suffix and path.parent.is_dir())


def saved_rows(path: Path) -> Iterator[dict[str, Any]] | None:
    """Rows of a folder that ``save_to_disk`` wrote, batch by batch; ``None`` for other folders.

    Raises:
        PromptSetError: Several splits, or damaged files.
    """
    head = path / "dataset_dict.json"
    if head.is_file():
        splits = _saved_splits(head)
        if len(splits) != 1:
            raise PromptSetError(_several(path, splits))
        path = path / splits[0]
    state = path / "state.json"
    if not state.is_file():
        return None
    files = [path / str(each["filename"]) for each in _json(state).get("_data_files", [])]
    return (row for file in files for row in _arrow_rows(file))


def data_files(path: Path) -> tuple[Path, ...]:
    """Files of one split of a dataset repository, in order.

    Raises:
        PromptSetError: No data, several splits of which none was named, or a split of which
            shards are missing.
    """
    folder, wanted = (path, None) if path.is_dir() else (path.parent, path.name)
    for suffix in SUFFIXES:
        files = [
            file
            for base in (folder, folder / "data")
            for file in sorted(base.glob(f"*{suffix}"))
            if file.name not in _NO_DATA
        ]
        splits = sorted({_split(file) for file in files})
        if wanted is not None and wanted in splits:
            return _complete(path, [file for file in files if _split(file) == wanted])
        if files and wanted is None:
            if len(splits) > 1:
                raise PromptSetError(_several(path, splits))
            return _complete(path, files)
    if wanted is not None:
        head = folder / "dataset_dict.json"
        splits = _saved_splits(head) if head.is_file() else []
        need = f"split; there are {', '.join(splits)}" if splits else "file"
        raise PromptSetError(f"{path}: no such {need}")
    raise PromptSetError(
        f"{path}: no dataset in this folder; save_to_disk writes one, and files "
        f"{', '.join(SUFFIXES)} are one"
    )


def _complete(path: Path, files: list[Path]) -> tuple[Path, ...]:
    """The files of one split, which say in their names how many there are."""
    found = [match.groups() for file in files if (match := _SHARD.search(file.stem))]
    for of in sorted({of for _, of in found}):
        there = {int(shard) for shard, total in found if total == of}
        missing = [number for number in range(int(of)) if number not in there]
        if missing:
            names = [f"{_split(files[0])}-{number:05}-of-{of}" for number in missing[:NUM_NAMED]]
            more = f" and {rest} more" if (rest := len(missing) - len(names)) else ""
            raise PromptSetError(
                f"{path}: {len(missing)} of {int(of)} shards are missing: {', '.join(names)}{more}"
            )
    return tuple(files)


def _split(file: Path) -> str:
    return _SHARD.sub("", file.stem)


def _several(path: Path, splits: list[str]) -> str:
    named = ", ".join(f"{path}/{split}" for split in splits) or "none"
    return f"{path} holds several splits; name one: {named}"


def _saved_splits(head: Path) -> list[str]:
    return [str(split) for split in _json(head).get("splits", [])]


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise PromptSetError(f"{path}: not readable ({error})") from error
    if not isinstance(value, dict):
        raise PromptSetError(f"{path}: an object is needed")
    return value


def _arrow_rows(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow

    try:
        with pyarrow.memory_map(str(path)) as source:
            for batch in pyarrow.ipc.open_stream(source):
                yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise PromptSetError(f"{path}: not a readable Arrow file ({error})") from error
