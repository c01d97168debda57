"""The signer: the one process that holds the private key, behind a Unix socket of its user.

It answers questions that name rows, and signs what it has made of them itself
(`service.signing.statements`). It runs no code of a verifier and opens no checkpoint; it reads
JSON rows, asks MLflow, and hashes files.
"""

import ctypes
import fcntl
import json
import logging
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from mlflow_rlrisk import ConfigError
from mlflow_rlrisk.attestation.keys import SigningKey
from service.announcing import Announce
from service.settings import ServiceSettings
from service.signing.client import check_peer, default_socket, read_line, short_address
from service.signing.protocol import SignerRefusedError
from service.signing.statements import Statements
from service.tables.opening import open_database
from service.tables.tokens import TokenTable

logger = logging.getLogger(__name__)

QUESTION_LIMIT_S = 10.0
MAX_AT_ONCE = 4
POLL_S = 0.5
_PR_SET_DUMPABLE = 4

Questions = Mapping[str, tuple[tuple[str, ...], Callable[..., str]]]
"""Kind of question -> the fields it has, and who answers it with an envelope."""


def run_signer(settings: ServiceSettings, key_files: Sequence[Path], announce: Announce) -> None:
    """Sign until SIGTERM or SIGINT.

    Args:
        settings: The service.
        key_files: Private keys. The first attests; an override takes one for each person.
        announce: Told the keys and the socket when it is ready.

    Raises:
        ConfigError: The key cannot be used, or a signer listens at this socket already.
    """
    _hide()
    keys = [SigningKey.load(path) for path in key_files]
    questions = _questions(settings, keys)
    stopping = threading.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda *_: stopping.set())
    place, key_ids = default_socket(settings), [key.key_id for key in keys]
    with _listening(place) as listener:
        logger.info("the signer is ready, key %s", ", ".join(key_ids))
        announce(key_ids=key_ids, socket=str(place))
        _serve(listener, questions, stopping)


def _questions(settings: ServiceSettings, keys: Sequence[SigningKey]) -> Questions:
    from service.signing.overrides import signed_override
    from service.tables.overrides import OverrideTable

    engine = open_database(settings.database)
    statements = Statements(settings, engine, keys[0])
    overrides, tokens = OverrideTable(engine), TokenTable(engine)

    def override(override_id: str) -> str:
        return signed_override(
            override_id, overrides=overrides, tokens=tokens, settings=settings, keys=keys
        )

    return {
        "attest": (("assessment_id", "run_id"), statements.attest),
        "override": (("override_id",), override),
    }


def _hide() -> None:
    """No process of the same user may trace this one, and no core file shall hold the key."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


@contextmanager
def _listening(path: Path) -> Iterator[socket.socket]:
    """A socket of mode 0600 that appears when it can be asked; one signer a place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock, socket.socket(socket.AF_UNIX) as listener:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            need = "a signer is running there"
            raise ConfigError("signer_socket", str(path), need) from error
        beside = path.with_suffix(".new")
        beside.unlink(missing_ok=True)
        before = os.umask(0o177)
        try:
            with short_address(beside) as address:
                listener.bind(address)
        finally:
            os.umask(before)
        listener.listen(16)
        beside.replace(path)
        try:
            yield listener
        finally:
            path.unlink(missing_ok=True)


def _serve(listener: socket.socket, questions: Questions, stopping: threading.Event) -> None:
    listener.settimeout(POLL_S)
    room = threading.Semaphore(MAX_AT_ONCE)
    while not stopping.is_set():
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            continue
        while not room.acquire(timeout=POLL_S):
            if stopping.is_set():
                return
        threading.Thread(target=_converse, args=(connection, questions, room), daemon=True).start()


def _converse(connection: socket.socket, questions: Questions, room: threading.Semaphore) -> None:
    try:
        with connection:
            connection.settimeout(QUESTION_LIMIT_S)
            check_peer(connection)
            if not connection.recv(1, socket.MSG_PEEK):
                return  # whoever it was only looked whether we are here
            answer = _answer(read_line(connection), questions)
            connection.sendall(json.dumps(answer).encode() + b"\n")
    except (OSError, ValueError) as error:
        logger.warning("a question was not answered: %s", error)
    finally:
        room.release()


def _answer(question: Mapping[str, Any], questions: Questions) -> dict[str, Any]:
    try:
        envelope = _envelope(question, questions)
    except SignerRefusedError as error:
        logger.warning("not signed: %s", error)
        return _fault(error.code, error.detail, is_final=error.is_final)
    except SQLAlchemyError as error:
        logger.error("the database does not answer: %s", error)
        return _fault("storage", "the database does not answer", is_final=False)
    except Exception:  # whatever else happens, nothing is signed and the signer goes on
        logger.exception("a question failed")
        return _fault("internal", "the signer failed; its log says how", is_final=False)
    logger.info("signed", extra={"question": dict(question)})
    return {"envelope": envelope}


def _envelope(question: Mapping[str, Any], questions: Questions) -> str:
    kind = question.get("kind")
    if not isinstance(kind, str) or kind not in questions:
        raise SignerRefusedError("malformed", "there is no such question")
    fields, answer = questions[kind]
    given = {name: value for name, value in question.items() if name != "kind"}
    if given.keys() != set(fields) or not all(isinstance(each, str) for each in given.values()):
        raise SignerRefusedError("malformed", f"a question of this kind has {', '.join(fields)}")
    return answer(**given)


def _fault(code: str, detail: str, *, is_final: bool) -> dict[str, Any]:
    return {"error": {"code": code, "detail": detail, "is_final": is_final}}
