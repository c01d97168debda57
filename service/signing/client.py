"""Asks the signer over its socket, one question a connection."""

import json
import os
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from service.settings import ServiceSettings
from service.signing.protocol import SignerRefusedError, SignerUnavailableError

SOCKET_VARIABLE = "RLRISK_SIGNER_SOCKET"
"""Set for API and worker by the `rlrisk serve` that started the signer."""
CONNECT_LIMIT_S = 5.0
ANSWER_LIMIT_S = 3600.0
"""The signer hashes every file of the version, which for large checkpoints takes long."""
MAX_LINE = 1 << 20


class SocketSigner:
    """The `Signer` behind a Unix socket."""

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)

    def is_there(self) -> bool:
        """Whether a signer of this user listens."""
        try:
            with self._connected():
                return True
        except OSError:
            return False

    def attest(self, assessment_id: str, run_id: str) -> str:
        """Ask for the envelope of an assessment."""
        return self._ask({"kind": "attest", "assessment_id": assessment_id, "run_id": run_id})

    def override(self, override_id: str) -> str:
        """Ask for the envelope of an override."""
        return self._ask({"kind": "override", "override_id": override_id})

    def _ask(self, question: dict[str, str]) -> str:
        try:
            with self._connected() as connection:
                connection.sendall(json.dumps(question).encode() + b"\n")
                connection.settimeout(ANSWER_LIMIT_S)
                answer = read_line(connection)
        except (OSError, ValueError) as error:
            raise SignerUnavailableError(f"the signer does not answer: {error}") from error
        if "envelope" in answer:
            return str(answer["envelope"])
        fault = answer["error"]
        raise SignerRefusedError(fault["code"], fault["detail"], is_final=fault["is_final"])

    @contextmanager
    def _connected(self) -> Iterator[socket.socket]:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(CONNECT_LIMIT_S)
            with short_address(self._path) as address:
                connection.connect(address)
            check_peer(connection)
            yield connection


def signer_of(settings: ServiceSettings) -> SocketSigner | None:
    """The signer that this process is to ask; ``None`` where reports stay advisory."""
    path = os.environ.get(SOCKET_VARIABLE) or settings.signer_socket
    return SocketSigner(path) if path else None


def default_socket(settings: ServiceSettings) -> Path:
    """Where a signer listens for the API and the worker of its machine."""
    if settings.signer_socket:
        return Path(settings.signer_socket)
    return Path(settings.data_dir, f"signer-{socket.gethostname()}.sock")


class short_address:  # noqa: N801  (used as a context manager function)
    """A socket's address within the 107 characters that the kernel takes, by its folder."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._folder = -1

    def __enter__(self) -> str:
        if not sys.platform.startswith("linux"):
            return str(self._path)
        self._folder = os.open(self._path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        return f"/proc/self/fd/{self._folder}/{self._path.name}"

    def __exit__(self, *_: object) -> None:
        if self._folder >= 0:
            os.close(self._folder)


def check_peer(connection: socket.socket) -> None:
    """Refuse a peer of another user.

    Raises:
        PermissionError: The kernel says that it is one, or does not say.
    """
    peer = getattr(socket, "SO_PEERCRED", None)
    if peer is None:
        raise PermissionError("this system does not say who is at the other end")
    credentials = connection.getsockopt(socket.SOL_SOCKET, peer, struct.calcsize("3i"))
    _, uid, _ = struct.unpack("3i", credentials)
    if uid != os.geteuid():
        raise PermissionError(f"the other end belongs to user {uid}")


def read_line(connection: socket.socket) -> dict[str, Any]:
    """One JSON object that ends with a newline.

    Raises:
        ValueError: It is none, or too long.
        OSError: The connection ended.
    """
    received = b""
    while not received.endswith(b"\n"):
        part = connection.recv(65536)
        if not part:
            raise ConnectionError("it ended in the middle")
        received += part
        if len(received) > MAX_LINE:
            raise ValueError("the line is too long")
    value = json.loads(received)
    if not isinstance(value, dict):
        raise ValueError("no object")
    return value
