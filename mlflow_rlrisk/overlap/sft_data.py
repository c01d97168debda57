"""The prompts of SFT data, one after the other, without holding the data in memory.

Understood are chats (``messages``, ShareGPT's ``conversations``), prompt and completion, and
Alpaca's ``instruction`` with ``input``; a chat may stand as JSON text. Only what the user says is
compared with RL prompts: the same task has other system prompts in SFT and in RL.
"""

import codecs
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mlflow_rlrisk.errors import PromptSetError
from mlflow_rlrisk.prompts import dataset_folders
from mlflow_rlrisk.prompts.schemas import chat_from_text
from mlflow_rlrisk.prompts.sources import JSON_SUFFIXES, PARQUET_SUFFIXES, parse_json, read_table
from mlflow_rlrisk.records import Message, Prompt

COLUMNS = (
    "messages",
    "conversations",
    "prompt",
    "instruction",
    "question",
    "problem",
    "query",
    "input",
)
"""Columns that hold the prompt, the first present wins."""
ROWS_PER_BATCH = 4096
_USERS = frozenset({"user", "human"})


def sft_prompts(source: object, column: str | None = None) -> Iterator[str]:
    """Texts of what the user says in SFT data; one for each of the user's turns.

    Args:
        source: A path (JSONL, Parquet, CSV, a dataset folder) or what `read_table` takes.
        column: The column of the prompt; ``None`` recognises it in the first row.

    Yields:
        Texts, in the order of the data.

    Raises:
        PromptSetError: Unreadable data, or a first row without a prompt.
    """
    chosen = column
    for place, row in enumerate(_rows(source, column), start=1):
        if chosen is None or (column is None and row.get(chosen) is None):
            chosen = next((name for name in COLUMNS if row.get(name) is not None), chosen)
        if chosen is None or chosen not in row:
            wanted = f"column {column!r}" if column else f"one of {', '.join(COLUMNS)}"
            raise PromptSetError(
                f"SFT data, row {place}: no prompt; needed is {wanted}; seen: {', '.join(row)}"
            )
        yield from _texts(row, chosen, place)


def task_text(prompt: Prompt) -> str:
    """What an RL prompt asks: its text, or what the user says in its chat."""
    if isinstance(prompt.content, str):
        return prompt.content
    return "\n".join(_user_turns(prompt.content)) or prompt.text


def _user_turns(turns: Iterable[Message]) -> list[str]:
    return [turn.content for turn in turns if _is_user(turn.role)]


def _is_user(role: object) -> bool:
    return str(role).casefold() in _USERS


def _texts(row: Mapping[str, Any], column: str, place: int) -> list[str]:
    value = row[column]
    where = f"SFT data, row {place}, column {column!r}"
    if isinstance(value, str):
        value = chat_from_text(value, where) or value
    if isinstance(value, str) and column in ("messages", "conversations"):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise PromptSetError(f"SFT data, row {place}: {column!r} is no JSON") from error
    if isinstance(value, str):
        extra = row.get("input") if column == "instruction" else None
        return [f"{value}\n{extra}" if isinstance(extra, str) and extra.strip() else value]
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(turn, Mapping) for turn in value):
        raise PromptSetError(f"{where}: text or a list of messages is needed")
    said = [
        _said(turn.get("content", turn.get("value")), where)
        for turn in value
        if _is_user(turn.get("role", turn.get("from")))
    ]
    return said if len(said) < 2 else ["\n".join(said), *said]


def _said(content: Any, where: str) -> str:
    """What a turn says: its text, or that of its parts; pictures say nothing."""
    if isinstance(content, str) or content is None:
        return content or ""
    if isinstance(content, list) and all(isinstance(part, Mapping) for part in content):
        return "\n".join(part["text"] for part in content if isinstance(part.get("text"), str))
    raise PromptSetError(
        f"{where}: a message of {type(content).__name__}; text or a list of parts is needed"
    )


def _rows(source: object, column: str | None) -> Iterator[Mapping[str, Any]]:
    if not isinstance(source, str | Path):
        yield from (row.columns for row in read_table(source).rows)
        return
    if not str(source).strip():
        raise PromptSetError("the path of the SFT data is empty")
    path = Path(source)
    if dataset_folders.is_dataset(path):
        saved = dataset_folders.saved_rows(path)
        if saved is not None:
            yield from saved
            return
        for file in dataset_folders.data_files(path):
            yield from _rows(file, column)
    elif path.is_file() and path.suffix.lower() in PARQUET_SUFFIXES:
        yield from _parquet_rows(path, column)
    elif path.is_file() and path.suffix.lower() in JSON_SUFFIXES and not _is_array(path):
        yield from _jsonl_rows(path)
    else:
        yield from (row.columns for row in read_table(path).rows)


def _parquet_rows(path: Path, column: str | None) -> Iterator[Mapping[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
        present = file.schema_arrow.names
        names = {column, "input"} if column else set(COLUMNS)  # the responses are most of the bytes
        wanted = [name for name in present if name in names]
        if column and column not in present:
            wanted = []
        for batch in file.iter_batches(ROWS_PER_BATCH, columns=wanted or None):
            yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise PromptSetError(f"{path}: not a readable Parquet file ({error})") from error


def _is_array(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(64).lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"["


def _jsonl_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    with path.open("rb") as lines:
        for number, raw in enumerate(lines, start=1):
            place = f"{path}, line {number}"
            try:
                line = (raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw).decode()
            except UnicodeDecodeError as error:
                raise PromptSetError(f"{place} is not UTF-8") from error
            if not line.strip():
                continue
            row = parse_json(line, place)
            if not isinstance(row, dict):
                raise PromptSetError(f"{place} is no object")
            yield row
