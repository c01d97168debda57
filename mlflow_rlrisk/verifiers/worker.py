"""The worker process: loads one verifier and answers until its parent closes the pipe.

Started by exec, never forked, so that nothing of a parent with torch or a GPU in it is inherited.
The verifier runs in the main thread (some install signal handlers). Its standard output goes to
standard error, so that a printing verifier cannot write into the replies. A process that it forks
and that comes back here ends as it would end elsewhere: it never answers in the worker's place.
"""

import dataclasses
import hashlib
import os
import signal
import threading
import time
from collections.abc import Mapping
from typing import Any

from mlflow_rlrisk.plurals import counted
from mlflow_rlrisk.verifiers import Outcome, VerificationRequest, Verifier, frames
from mlflow_rlrisk.verifiers.loading import open_verifier
from mlflow_rlrisk.verifiers.specs import parse_spec
from mlflow_rlrisk.verifiers.terminal import leave_terminal

MAX_REASON_CHARS = 500
MAX_ANSWER_CHARS = 256
"""A longer answer is cut and ends in its digest: equal answers stay equal, others differ."""
ORPHAN_CHECK_S = 1.0


def main() -> None:
    """Serve one parent."""
    leave_terminal()
    worker = os.getpid()
    requests, replies = _take_over_pipes()
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    load = frames.read(requests)
    if load is None:
        return
    try:
        verifier, loaded = open_verifier(parse_spec(load["spec"]))
    except (Exception, SystemExit) as error:  # the verifier boundary
        if os.getpid() != worker:
            raise
        raised = {"raised": describe(error), "code": getattr(error, "code", None)}
        frames.write(replies, {"to": load["number"], **raised})
        return
    if os.getpid() != worker:
        return
    frames.write(replies, {"to": load["number"], "loaded": dataclasses.asdict(loaded)})
    while (message := frames.read(requests)) is not None:
        answer = _answer(verifier, message, worker)
        if os.getpid() != worker:
            return
        frames.write(replies, {"to": message["number"], **answer})


def describe(error: BaseException) -> str:
    """Type and message of an exception, capped."""
    try:
        message = str(error)
    except Exception:  # noqa: BLE001  (the verifier boundary: even its message may raise)
        message = "its message cannot be shown"
    return _capped(f"{type(error).__name__}: {message}" if message else type(error).__name__)


def _answer(verifier: Verifier, message: Mapping[str, Any], worker: int) -> dict[str, Any]:
    try:
        if "check" in message:
            return {
                "problems": [verifier.problem_with(t, columns) for t, columns in message["check"]]
            }
        request = VerificationRequest(**message["verify"])
        outcomes = list(verifier.verify(request))
        if len(outcomes) != len(request.completions):
            outcome = counted(len(outcomes), "outcome")
            return {"raised": f"{outcome} for {counted(len(request.completions), 'completion')}"}
        return {"outcomes": [_plain(outcome) for outcome in outcomes]}
    except (Exception, SystemExit) as error:  # the verifier boundary
        if os.getpid() != worker:
            raise
        return {"raised": describe(error)}


def _plain(outcome: Outcome) -> list[Any]:
    reason = None if outcome.reason is None else _capped(outcome.reason)
    answer = None if outcome.answer is None else _unicode(outcome.answer)
    if answer is not None and len(answer) > MAX_ANSWER_CHARS:
        digest = hashlib.sha256(answer.encode()).hexdigest()
        answer = f"{answer[:MAX_ANSWER_CHARS]}...sha256:{digest}"
    return [outcome.status, outcome.reward, reason, answer]


def _unicode(text: str) -> str:
    """Lone surrogates, which no file can hold, as escapes."""
    return text.encode(errors="backslashreplace").decode()


def _capped(text: str) -> str:
    text = _unicode(text)
    return text if len(text) <= MAX_REASON_CHARS else f"{text[: MAX_REASON_CHARS - 3]}..."


def _take_over_pipes() -> tuple[int, int]:
    """Keep the protocol's descriptors out of the verifier's reach under the usual numbers."""
    requests, replies = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    return requests, replies


def _end_with_parent(parent: int) -> None:
    """A parent that was killed cannot end a verifier that hangs: the worker notices itself."""
    while os.getppid() == parent:
        time.sleep(ORPHAN_CHECK_S)
    os.killpg(os.getpgrp(), signal.SIGKILL)


if __name__ == "__main__":
    main()
