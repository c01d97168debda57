"""Rollouts and grades as Parquet shards: written atomically, read back without copies.

A shard holds whole groups. Columns of lists are built from one concatenated array each, so that
10^4 prompts times 64 samples never become Python objects per token.
"""

import os
from collections.abc import Callable, Container, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mlflow_rlrisk.errors import RolloutStoreError
from mlflow_rlrisk.records import (
    EntropyBounds,
    FinishReason,
    Grade,
    GradedGroup,
    GradeStatus,
    Prompt,
    Rollout,
    RolloutGroup,
)

ROLLOUT_SCHEMA = pa.schema(
    [
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("sample_index", pa.int32(), nullable=False),
        pa.field("completion", pa.string(), nullable=False),
        pa.field("token_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("logprobs", pa.list_(pa.float32())),
        pa.field("entropies", pa.list_(pa.float32())),
        pa.field("finish_reason", pa.string(), nullable=False),
        pa.field("entropy_lower", pa.list_(pa.float32())),
        pa.field("entropy_upper", pa.list_(pa.float32())),
        pa.field("entropy_estimate", pa.list_(pa.float32())),
    ]
)
_BATCH_ROWS = 4096
"""Rollouts that are in memory at once where only few are wanted."""
OPTIONAL_COLUMNS = frozenset({"entropy_lower", "entropy_upper", "entropy_estimate"})
"""Columns that shards of earlier versions lack; they are read as not recorded."""
GRADE_SCHEMA = pa.schema(
    [
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("sample_index", pa.int32(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("reward", pa.float64()),
        pa.field("reason", pa.string()),
        pa.field("answer", pa.string()),
    ]
)


def rollout_table(groups: Sequence[RolloutGroup | GradedGroup]) -> pa.Table:
    """The rollouts of groups as a table of `ROLLOUT_SCHEMA`."""
    rows = [(group.prompt.text, rollout) for group in groups for rollout in group.rollouts]
    rollouts = [rollout for _, rollout in rows]
    bounds = [rollout.entropy_bounds for rollout in rollouts]
    columns = {
        "prompt_id": pa.array([r.prompt_id for r in rollouts], pa.string()),
        "prompt": pa.array([text for text, _ in rows], pa.string()),
        "sample_index": pa.array([r.sample_index for r in rollouts], pa.int32()),
        "completion": pa.array([_storable(r.completion) for r in rollouts], pa.string()),
        "token_ids": _lists([r.token_ids for r in rollouts], np.int32),
        "logprobs": _lists([r.logprobs for r in rollouts], np.float32),
        "entropies": _lists([r.entropies for r in rollouts], np.float32),
        "finish_reason": pa.array([r.finish_reason.value for r in rollouts], pa.string()),
        "entropy_lower": _lists([None if b is None else b.lower for b in bounds], np.float32),
        "entropy_upper": _lists([None if b is None else b.upper for b in bounds], np.float32),
        "entropy_estimate": _lists([None if b is None else b.estimate for b in bounds], np.float32),
    }
    return pa.table(columns, schema=ROLLOUT_SCHEMA)


def grade_table(groups: Sequence[GradedGroup]) -> pa.Table:
    """The grades of groups as a table of `GRADE_SCHEMA`."""
    rows = [
        (group.prompt.id, rollout.sample_index, grade)
        for group in groups
        for rollout, grade in zip(group.rollouts, group.grades, strict=True)
    ]
    columns = {
        "prompt_id": [prompt_id for prompt_id, _, _ in rows],
        "sample_index": [index for _, index, _ in rows],
        "status": [grade.status.value for _, _, grade in rows],
        "reward": [grade.reward for _, _, grade in rows],
        "reason": [_storable(grade.reason) for _, _, grade in rows],
        "answer": [_storable(grade.answer) for _, _, grade in rows],
    }
    return pa.table(columns, schema=GRADE_SCHEMA)


def _storable(text: str | None) -> Any:
    """Lone surrogates cannot be UTF-8; they are stored as the replacement character."""
    if text is None:
        return None
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def _lists(values: Sequence[Any], dtype: type[np.generic]) -> pa.ListArray:
    present = [value for value in values if value is not None]
    lengths = [0 if value is None else len(value) for value in values]
    flat = np.concatenate(present).astype(dtype) if present else np.empty(0, dtype)
    missing = np.array([value is None for value in values], dtype=bool)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    return pa.ListArray.from_arrays(offsets, pa.array(flat), mask=pa.array(missing))


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a file beside ``path``, then put it in place whole or not at all.

    Raises:
        RolloutStoreError: The folder cannot be made, or the disk does not take the file.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(temporary)
            with temporary.open("rb") as stream:
                os.fsync(stream.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise RolloutStoreError(f"{path} cannot be written: {error.strerror or error}") from error


def write_text_atomically(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, whole or not at all; errors as in `write_atomically`."""

    def write(target: Path) -> None:
        target.write_text(text, encoding="utf-8")

    write_atomically(path, write)


def write_shard(path: Path, table: pa.Table) -> None:
    """Write a table as one shard; page checksums make later damage visible."""
    write_atomically(
        path,
        lambda target: pq.write_table(
            table, target, compression="zstd", write_page_checksum=True, use_dictionary=False
        ),
    )


def read_shard(path: Path, schema: pa.Schema) -> pa.Table:
    """Read a whole shard and check it.

    Raises:
        OSError: It is damaged.
        ValueError: It is damaged, or its columns are others than ``schema`` (pyarrow's
            ``ArrowInvalid`` is a ``ValueError``).
    """
    table = pq.ParquetFile(path, page_checksum_verification=True).read()
    for name in schema.names:
        if name in OPTIONAL_COLUMNS and name not in table.schema.names:
            field = schema.field(name)
            table = table.append_column(field, pa.nulls(table.num_rows, field.type))
    if table.schema.names != schema.names:
        raise ValueError(f"columns {table.schema.names}, {schema.names} are needed")
    return table.cast(schema).combine_chunks()


def groups_of(table: pa.Table, prompts: dict[str, Prompt]) -> Iterator[RolloutGroup]:
    """The groups of those prompts that ``prompts`` knows by id, in the order of the table."""
    prompt_ids = table["prompt_id"].to_pylist()
    indices = table["sample_index"].to_numpy()
    completions = table["completion"]
    reasons = table["finish_reason"].to_pylist()
    tokens, logprobs, entropies = (
        list_slices(table[name]) for name in ("token_ids", "logprobs", "entropies")
    )
    lower, upper, estimate = (
        list_slices(table[name]) for name in ("entropy_lower", "entropy_upper", "entropy_estimate")
    )

    def bounds(row: int) -> EntropyBounds | None:
        low, high = lower(row), upper(row)
        if low is None or high is None:
            return None
        return EntropyBounds(lower=low, upper=high, estimate=estimate(row))

    for start, stop in _runs(prompt_ids):
        prompt = prompts.get(prompt_ids[start])
        if prompt is None:
            continue
        rollouts = [
            Rollout(
                prompt_id=prompt.id,
                sample_index=int(indices[row]),
                completion=completions[row].as_py(),
                token_ids=tokens(row),
                logprobs=logprobs(row),
                entropies=entropies(row),
                finish_reason=FinishReason(reasons[row]),
                entropy_bounds=bounds(row),
            )
            for row in range(start, stop)
        ]
        rollouts.sort(key=lambda rollout: rollout.sample_index)
        yield RolloutGroup(prompt=prompt, rollouts=tuple(rollouts))


def grades_of(table: pa.Table) -> dict[str, dict[int, Grade]]:
    """Grades by prompt id and sample index."""
    grades: dict[str, dict[int, Grade]] = {}
    for row in table.to_pylist():
        grade = Grade(
            status=GradeStatus(row["status"]),
            reward=row["reward"],
            reason=row["reason"],
            answer=row["answer"],
        )
        grades.setdefault(row["prompt_id"], {})[row["sample_index"]] = grade
    return grades


class Coded(NamedTuple):
    """A column of texts as numbers of distinct texts."""

    codes: npt.NDArray[np.int64]
    texts: list[str]


def coded(column: pa.ChunkedArray) -> Coded:
    """Number the texts of a column without nulls."""
    found = column.combine_chunks().dictionary_encode()
    return Coded(np.from_dlpack(found.indices).astype(np.int64), found.dictionary.to_pylist())


def values_of(column: pa.ChunkedArray) -> npt.NDArray[Any]:
    """A column of numbers without nulls as an array; ``to_numpy`` would load pandas."""
    return np.from_dlpack(column.combine_chunks())


def first_tokens(
    path: Path, prompt_ids: Container[str], depth: int
) -> list[tuple[str, list[int], list[float]]]:
    """The first token ids and logprobs of those rollouts of a shard that have both.

    Read piece by piece without ``pyarrow.dataset``, which loads pandas.

    Raises:
        OSError: The shard is damaged.
        ValueError: It is damaged, or a column is missing.
    """
    names = ["token_ids", "logprobs"]
    file = pq.ParquetFile(path, page_checksum_verification=True)
    found = []
    for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=["prompt_id", *names]):
        prompts = batch["prompt_id"].to_pylist()
        for start, stop in _runs(prompts):
            if prompts[start] not in prompt_ids:
                continue
            rows = batch.slice(start, stop - start)
            ids, logprobs = (pc.list_slice(rows[name], 0, depth).to_pylist() for name in names)
            found += [
                (prompts[start], first, second)
                for first, second in zip(ids, logprobs, strict=True)
                if first is not None and second is not None
            ]
    return found


def list_slices(column: pa.ChunkedArray) -> Callable[[int], Any]:
    """A function from row number to its list as an array view; ``None`` where it is null."""
    array = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    values = array.values.to_numpy(zero_copy_only=False)
    offsets = array.offsets.to_numpy()
    is_valid = array.is_valid().to_numpy(zero_copy_only=False)
    return lambda row: values[offsets[row] : offsets[row + 1]] if is_valid[row] else None


def _runs(names: Sequence[str]) -> Iterator[tuple[int, int]]:
    start = 0
    for row in range(1, len(names) + 1):
        if row == len(names) or names[row] != names[start]:
            yield start, row
            start = row
