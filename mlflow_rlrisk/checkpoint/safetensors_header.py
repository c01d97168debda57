"""The header of a safetensors file, checked without loading a number.

Format: 8 bytes little-endian header length, the JSON header, the data. A cut download or a
header that points outside the file must end in a sentence, not in a crash of the loader.
"""

import json
import math
from pathlib import Path
from typing import Any

from mlflow_rlrisk.errors import CheckpointError
from mlflow_rlrisk.plurals import counted

MAX_HEADER_BYTES = 100 * 2**20
"""The format's own limit (safetensors 0.4)."""

LFS = b"version "
"""How a Git LFS pointer begins; as a length it would be 10^18 bytes."""

BITS = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E8M0": 8,
    "U16": 16,
    "I16": 16,
    "F16": 16,
    "BF16": 16,
    "U32": 32,
    "I32": 32,
    "F32": 32,
    "U64": 64,
    "I64": 64,
    "F64": 64,
}


def read_header(path: Path) -> dict[str, Any]:
    """Read and check a header.

    Returns:
        Tensor name to ``{"dtype", "shape", "data_offsets"}``.

    Raises:
        CheckpointError: The file is cut, the header no JSON, or the tensors do not tile the data.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        start = stream.read(8)
        if start == LFS:
            raise CheckpointError(f"{path.name} is a Git LFS pointer: fetch the file it stands for")
        length = int.from_bytes(start, "little")
        if size < 8 or length > min(MAX_HEADER_BYTES, size - 8):
            raise CheckpointError(
                f"{path.name}: header of {counted(length, 'byte')} in a file of {size}: it is cut "
                "or damaged"
            )
        raw = stream.read(length)
    try:
        header = json.loads(raw, object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path.name}: the header is no JSON") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{path.name}: the header is no JSON object")
    header.pop("__metadata__", None)
    end = 0
    for name, entry in sorted(header.items(), key=lambda item: _offsets(path, *item)):
        begin, stop = _offsets(path, name, entry)
        if begin != end or stop - begin != _num_bytes(path, name, entry):
            raise CheckpointError(f"{path.name}: tensor {name!r} has wrong offsets")
        end = stop
    if end != size - 8 - length:
        raise CheckpointError(
            f"{path.name}: {counted(size - 8 - length, 'byte')} of data, the header says {end}: "
            "it is cut"
        )
    return header


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; two readers could understand one with a repeated key in two ways.

    Raises:
        ValueError: A key stands twice.
    """
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _offsets(path: Path, name: str, entry: Any) -> tuple[int, int]:
    offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
    if (
        not isinstance(offsets, list)
        or len(offsets) != 2
        or not all(type(offset) is int and offset >= 0 for offset in offsets)
    ):
        raise CheckpointError(f"{path.name}: tensor {name!r} has no data_offsets")
    return offsets[0], offsets[1]


def _num_bytes(path: Path, name: str, entry: dict[str, Any]) -> int:
    shape, dtype = entry.get("shape"), entry.get("dtype")
    if dtype not in BITS:
        raise CheckpointError(f"{path.name}: tensor {name!r} has the unknown dtype {dtype!r}")
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
        raise CheckpointError(f"{path.name}: tensor {name!r} has no shape")
    return math.prod(shape) * BITS[dtype] // 8


def count_parameters(header: dict[str, Any]) -> int:
    """How many numbers the tensors of a header hold."""
    return sum(math.prod(entry["shape"]) for entry in header.values())
