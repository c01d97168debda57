"""Rows of a prompt set from files, frames and datasets, as plain JSON values.

Whatever the source, a row comes out as a dict of plain values (`plain_value`), so that the same
data has the same digest however it was stored. Nothing here knows which column is the prompt.
"""

import csv
import io
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow_rlrisk.errors import PromptSetError
from mlflow_rlrisk.plurals import counted
from mlflow_rlrisk.prompts import dataset_folders
from mlflow_rlrisk.prompts.plain_values import NotPlainError, plain_cell

PARQUET_SUFFIXES = frozenset({".parquet", ".pq"})
JSON_SUFFIXES = frozenset({".jsonl", ".ndjson", ".json"})


@dataclass(frozen=True, slots=True)
class Row:
    """One row: how people find it (``line 3``) and its columns."""

    place: str
    columns: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Table:
    """All rows of a source, every row with every column (``None`` where it has no value).

    Attributes:
        kind: The format in words, such as ``JSONL``.
        rows: The rows in source order.
        column_names: Union of the columns in order of first appearance.
        left_out: Columns whose values are not plain data (bytes, objects), by type name.
    """

    kind: str
    rows: tuple[Row, ...]
    column_names: tuple[str, ...]
    left_out: Mapping[str, str]


def read_table(source: object) -> Table:
    """Read ``source`` whole.

    Args:
        source: A path (JSONL, JSON array, CSV, Parquet, a dataset folder), a sequence of
            mappings, a pandas frame, a Hugging Face dataset, or an MLflow dataset holding one
            of these.

    Raises:
        PromptSetError: Missing or unreadable file, malformed row (named), unknown source.
    """
    if isinstance(source, str | Path):
        if not str(source).strip():
            raise PromptSetError("the path of the prompt set is empty")
        return _read_path(Path(source))
    if isinstance(source, Sequence) and not isinstance(source, bytes):
        return _table("list of rows", _numbered(source))
    return _read_object(source)


def require_source(path: Path) -> None:
    """Look whether there is something to read, without reading it.

    Raises:
        PromptSetError: There is no such file, folder or split.
    """
    if not dataset_folders.is_dataset(path):
        if not path.is_file():
            raise PromptSetError(f"{path}: no such file")
    elif dataset_folders.saved_rows(path) is None:
        dataset_folders.data_files(path)


def _read_path(path: Path) -> Table:
    require_source(path)
    if dataset_folders.is_dataset(path):
        return _read_folder(path)
    suffix = path.suffix.lower()
    if suffix in PARQUET_SUFFIXES:
        return _table("Parquet", _numbered(_parquet_rows(path)))
    if suffix == ".csv":
        return _table("CSV", _csv_rows(path))
    if suffix in JSON_SUFFIXES:
        text = _decode(path)
        if text.lstrip()[:1] == "[":
            return _table("JSON", _numbered(_json_array(text)))
        return _table("JSONL", _jsonl_rows(text))
    known = ", ".join(sorted(JSON_SUFFIXES | PARQUET_SUFFIXES | {".csv"}))
    raise PromptSetError(f"{path}: unknown suffix {suffix!r}; known: {known}")


def _read_folder(path: Path) -> Table:
    rows = dataset_folders.saved_rows(path)
    if rows is not None:
        return _table("Hugging Face dataset folder", _numbered(rows))
    files = dataset_folders.data_files(path)
    tables = [_read_path(file) for file in files]
    if len(tables) == 1:
        return tables[0]
    return _table(
        f"{len(files)} files of {tables[0].kind}",
        (
            (f"{file.name}, {row.place}", row.columns)
            for file, table in zip(files, tables, strict=True)
            for row in table.rows
        ),
    )


def _decode(path: Path) -> str:
    raw = path.read_bytes()
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise PromptSetError(f"{path}: line {line} is not UTF-8") from error


def _parquet_rows(path: Path) -> list[dict[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise PromptSetError(f"{path}: not a readable Parquet file ({error})") from error
    _refuse_repeated_columns(table.column_names)
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def _csv_rows(path: Path) -> Iterator[tuple[str, object]]:
    """Cells stay text (``007`` is no 7); an empty cell is a missing value."""
    default_limit = csv.field_size_limit(sys.maxsize)  # long-context prompts exceed 128 KiB
    try:
        reader = csv.reader(io.StringIO(_decode(path), newline=""), strict=True)
        try:
            header = next(reader, [])
            _refuse_repeated_columns(header)
            for cells in reader:
                if not cells:
                    continue
                place = f"line {reader.line_num}"
                if len(cells) != len(header):
                    raise PromptSetError(
                        f"{place} has {counted(len(cells), 'cell')}, the header {len(header)}"
                    )
                yield place, {name: cell or None for name, cell in zip(header, cells, strict=True)}
        except csv.Error as error:
            raise PromptSetError(f"line {reader.line_num} is not CSV: {error}") from error
    finally:
        csv.field_size_limit(default_limit)


def _jsonl_rows(text: str) -> Iterator[tuple[str, object]]:
    # Only "\n" separates: str.splitlines would cut at U+2028, which JSON strings may hold.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"line {number}", parse_json(line, f"line {number}")


def _json_array(text: str) -> list[object]:
    rows: list[object] = parse_json(text, "the file")
    return rows


def parse_json(text: str, place: str) -> Any:
    """JSON in which no key stands twice.

    Raises:
        PromptSetError: It is none; ``place`` says where.
    """
    try:
        return _STRICT_JSON.decode(text)
    except _RepeatedKeyError as error:
        raise PromptSetError(f"{place} has the key {error} twice") from error
    except RecursionError as error:
        raise PromptSetError(f"{place} is nested too deeply") from error
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, character" if "\n" in text else "character"
        what = error.msg.removesuffix(" at")
        raise PromptSetError(f"{place} is not JSON: {what} at {where} {error.colno}") from error
    except ValueError as error:
        raise PromptSetError(f"{place} is not JSON: {error}") from error


class _RepeatedKeyError(ValueError):
    """An object has a key twice; JSON parsers keep one of the values and drop the other."""


def _object_without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        raise _RepeatedKeyError(repr(next(name for name in names if names.count(name) > 1)))
    return value


_STRICT_JSON = json.JSONDecoder(object_pairs_hook=_object_without_repeats)


def _read_object(source: Any) -> Table:
    if hasattr(source, "columns") and hasattr(source, "to_dict"):
        return _frame_table(source, "DataFrame")
    if hasattr(source, "column_names") and hasattr(source, "to_list"):
        rows = source if _is_made_on_reading(source) else source.to_list()
        return _table("Hugging Face dataset", _numbered(rows))
    if hasattr(source, "features_data"):
        return _evaluation_dataset_table(source)
    for attribute in ("df", "ds"):
        inner = getattr(source, attribute, None)
        if inner is not None:
            table = _read_object(inner)
            return Table("MLflow dataset", table.rows, table.column_names, table.left_out)
    if callable(getattr(source, "to_df", None)):
        return _frame_table(source.to_df(), "MLflow dataset")
    raise PromptSetError(
        f"cannot read prompts from {type(source).__name__}; known: a path, a list of dicts, "
        "a pandas DataFrame, a Hugging Face dataset, an MLflow dataset"
    )


def _is_made_on_reading(dataset: Any) -> bool:
    """True where ``with_transform`` makes the rows that a trainer sees; `to_list` has others."""
    return (getattr(dataset, "format", None) or {}).get("type") == "custom"


def _frame_table(frame: Any, kind: str) -> Table:
    names = [str(name) for name in frame.columns]
    _refuse_repeated_columns(names)
    columns = [frame.iloc[:, position].tolist() for position in range(len(names))]
    rows = [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]
    return _table(kind, _numbered(rows))


def _evaluation_dataset_table(dataset: Any) -> Table:
    """MLflow's evaluators get features and labels apart; the labels are a column again here.

    Of a list it makes an array: of dicts one with a single column, of rows one with the columns
    that ``feature_names`` names.
    """
    features = dataset.features_data
    labels = getattr(dataset, "labels_data", None)
    label = str(getattr(dataset, "targets_name", None) or "target")
    if hasattr(features, "columns") and hasattr(features, "to_dict"):
        if labels is not None:
            features = features.assign(**{label: list(labels)})
        return _frame_table(features, "MLflow dataset")
    names, cells = list(dataset.feature_names), features.tolist()
    if len(names) == 1 and all(isinstance(row[0], Mapping) for row in cells):
        rows = [dict(row[0]) for row in cells]
    else:
        rows = [dict(zip(names, row, strict=True)) for row in cells]
    if labels is not None:
        if any(label in row for row in rows):
            raise PromptSetError(f"the column {label!r} stands there twice, once as targets")
        rows = [row | {label: given} for row, given in zip(rows, labels.tolist(), strict=True)]
    return _table("MLflow dataset", _numbered(rows))


def _refuse_repeated_columns(names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise PromptSetError(f"the column {name!r} stands there twice")


def _numbered(rows: Iterable[object]) -> Iterator[tuple[str, object]]:
    return ((f"row {number}", row) for number, row in enumerate(rows, start=1))


def _table(kind: str, rows: Iterable[tuple[str, object]]) -> Table:
    plain: list[tuple[str, dict[str, Any]]] = []
    left_out: dict[str, str] = {}
    names: dict[str, None] = {}
    for place, row in rows:
        if not isinstance(row, Mapping):
            raise PromptSetError(f"{place} is {type(row).__name__}, an object with columns needed")
        columns: dict[str, Any] = {}
        for name, value in row.items():
            try:
                columns[str(name)] = plain_cell(value, f"{place}, column {name!r}")
            except NotPlainError as error:
                left_out[str(name)] = str(error)
        names.update(dict.fromkeys(columns))
        plain.append((place, columns))
    kept = tuple(name for name in names if name not in left_out)
    return Table(
        kind=kind,
        rows=tuple(
            Row(place, {name: columns.get(name) for name in kept}) for place, columns in plain
        ),
        column_names=kept,
        left_out=left_out,
    )
