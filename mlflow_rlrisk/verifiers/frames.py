"""Length-prefixed JSON frames: what crosses between a worker and its parent.

Four bytes of length (big-endian), then ASCII JSON. No pickle: a reply of a worker that runs
somebody's reward function is data and nothing else.
"""

import json
import os
import struct
from typing import Any

HEADER = struct.Struct(">I")
MAX_FRAME_BYTES = 1 << 30
"""A longer length is no frame of ours: somebody wrote to the pipe."""


def encode(message: Any) -> bytes:
    """The frame of one message.

    Raises:
        TypeError: The message holds something that JSON cannot carry.
        ValueError: It refers to itself, or is longer than `MAX_FRAME_BYTES`.
    """
    body = json.dumps(message, separators=(",", ":"), ensure_ascii=True).encode()
    if len(body) > MAX_FRAME_BYTES:
        raise ValueError(f"message of {len(body)} bytes, at most {MAX_FRAME_BYTES} can be sent")
    return HEADER.pack(len(body)) + body


def read(fd: int) -> Any | None:
    """One message from a blocking descriptor, ``None`` at its end."""
    header = _read_exactly(fd, HEADER.size)
    if header is None:
        return None
    body = _read_exactly(fd, HEADER.unpack(header)[0])
    return None if body is None else json.loads(body)


def write(fd: int, message: Any) -> None:
    """Write one message to a blocking descriptor."""
    rest = memoryview(encode(message))
    while rest:
        rest = rest[os.write(fd, rest) :]


def _read_exactly(fd: int, size: int) -> bytes | None:
    chunks = bytearray()
    while len(chunks) < size:
        chunk = os.read(fd, min(size - len(chunks), 1 << 20))
        if not chunk:
            return None
        chunks += chunk
    return bytes(chunks)
