"""Tier C: the operator's own runner, a command (a container) or a SandboxFusion server.

A runner gets one script on its standard input, or as ``code``, and what it writes to standard
output is read back. The script holds the program and the arguments, never an expected value, and
the comparison stays here. Test code talks to a candidate call by call and cannot be sent in one
script: such a task is refused, not run beside its tests.
"""

import json
import os
import secrets
import selectors
import shlex
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from mlflow_rlrisk.errors import SandboxUnavailableError
from mlflow_rlrisk.verifiers.code.compare import equals, same_output, shown
from mlflow_rlrisk.verifiers.code.judgement import Attack, CodeGrade
from mlflow_rlrisk.verifiers.code.sandbox import wire
from mlflow_rlrisk.verifiers.code.session import MAX_RESULT_BYTES, Limits, SandboxFaultError
from mlflow_rlrisk.verifiers.code.tally import Tally
from mlflow_rlrisk.verifiers.code.tasks import CodeTask

RUNNER_VARIABLE = "RLRISK_CODE_RUNNER"
"""Set by the operator: ``http://host:port`` of a SandboxFusion server, or a command line that runs
the Python script on its standard input, such as ``docker run --rm -i --network none IMAGE python
-``."""
START_ALLOWANCE_S = 20.0
"""A container may take this long to start beside the program's own time."""
_MOST_BYTES = MAX_RESULT_BYTES + 64
"""With the first word of a script."""
_LAST_BYTES = 2000

_DRIVER = """
import json as _json, os as _os, sys as _sys, types as _types
_wire = {{}}
exec({wire!r}, _wire)
_encode, _decode = _wire["encode"], _wire["decode"]
_out, _mark = _os.dup(1), {mark!r}
_os.dup2(_os.open(_os.devnull, _os.O_WRONLY), 1)
_program = _types.ModuleType("candidate")
_sys.modules["candidate"] = _program
_names = _program.__dict__
def _tell(reply):
    _os.write(_out, (_mark + _json.dumps(reply) + "\\n").encode())
def _raised(error):
    return {{"raised": [type(error).__name__, str(error)[:300]]}}
def _find(name):
    head, _, method = name.partition(".")
    if not method and name in _names:
        return _names[name]
    if not method and hasattr(_names.get("Solution"), name):
        head, method = "Solution", name
    if head not in _names:
        raise NameError("the program defines no " + head)
    owner = _names[head]
    return getattr(owner() if isinstance(owner, type) else owner, method)
_tell({{"runs": True}})
try:
    exec(compile({source!r}, "<program>", "exec"), _names)
except BaseException as _error:
    _tell({{"load": _raised(_error)}})
    _os._exit(0)
for _number, (_name, _args, _kwargs) in enumerate(_json.loads({calls!r})):
    try:
        _result = _find(_name)(*_decode(_args), **_decode(_kwargs))
        _value = _encode(_result, lambda v: {{"h": [0, type(v).__name__]}})
        _tell({{"case": _number, "value": _value}})
    except BaseException as _error:
        _tell({{"case": _number, **_raised(_error)}})
_os._exit(0)
"""

_SCRIPT = """
import io as _io, os as _os, sys as _sys
_os.write(1, {mark!r}.encode() + b"\\n")
_stdin = {stdin!r}
try:
    _file = _os.memfd_create("stdin")
    while _stdin:
        _stdin = _stdin[_os.write(_file, _stdin):]
    _os.lseek(_file, 0, _os.SEEK_SET)
    _os.dup2(_file, 0)
    _sys.stdin = open(0, encoding="utf-8", errors="surrogateescape", closefd=False)
except (AttributeError, OSError):
    _sys.stdin = _io.TextIOWrapper(_io.BytesIO(_stdin), "utf-8", "surrogateescape")
exec(compile({source!r}, "<program>", "exec"))
"""
"""Its first line of output says that the runner runs it; its exit status is the program's."""


@dataclass(frozen=True, slots=True)
class _Output:
    """What came of one script; the status is 0 where it ended well."""

    text: str
    timed_out: bool = False
    status: int = 0
    last_words: str = ""


@dataclass(frozen=True, slots=True)
class ExternalRunner:
    """Runs scripts where the operator says."""

    target: str

    @classmethod
    def from_environment(cls) -> Self:
        """The runner that the operator has set.

        Raises:
            SandboxUnavailableError: None is set, or it does not run an honest script.
        """
        target = os.environ.get(RUNNER_VARIABLE, "").strip()
        if not target:
            raise SandboxUnavailableError(
                f"tier C needs {RUNNER_VARIABLE}: a SandboxFusion address or a command that runs "
                "the Python script on its standard input"
            )
        runner = cls(target)
        word = secrets.token_hex(8)
        try:
            output = runner._run(f"print({word!r})", Limits())
        except SandboxFaultError as error:
            raise SandboxUnavailableError(f"tier C: {error}") from error
        if output.text.strip() != word:
            raise SandboxUnavailableError(f"tier C: {target} does not run a Python script")
        return runner

    def run_checks(self, source: str, task: CodeTask, limits: Limits) -> Tally:
        """Check one program; its own time does not include that of starting the runner.

        Raises:
            SandboxFaultError: The runner fails.
        """
        tally = Tally("C", task.num_cases)
        if task.calls:
            self._check_calls(source, task, limits, tally)
        elif task.runs:
            self._check_runs(source, task, limits, tally)
        else:
            for _ in range(task.num_cases):
                tally.missed(
                    CodeGrade.INCONCLUSIVE,
                    "test code needs tier A or B: it cannot be sent to a runner",
                )
        return tally

    def _check_calls(self, source: str, task: CodeTask, limits: Limits, tally: Tally) -> None:
        mark = secrets.token_hex(16)
        calls = [
            (
                case.function or task.entry_point,
                wire.encode(list(case.args), _unsendable),
                wire.encode(dict(case.kwargs), _unsendable),
            )
            for case in task.calls
        ]
        script = _DRIVER.format(
            wire=Path(wire.__file__).read_text(), mark=mark, source=source, calls=json.dumps(calls)
        )
        output = self._run(script, limits)
        _refuse_unrun(mark, output)
        if _is_too_long(output, tally):
            return None
        replies = _replies(output.text, mark)
        if any("load" in reply for reply in replies):
            first = next(reply["load"] for reply in replies if "load" in reply)["raised"]
            return tally.raised(str(first[0]), f"the program does not load: {first[0]}")
        for number, case in enumerate(task.calls):
            mine = [reply for reply in replies if reply.get("case") == number]
            if len(mine) > 1:
                return tally.missed(CodeGrade.ERROR, "two replies to one call", Attack.FORGED_REPLY)
            if not mine:
                return _broke_off(tally, output, limits)
            if "raised" in mine[0]:
                tally.raised(str(mine[0]["raised"][0]), f"it raises {mine[0]['raised']}")
                continue
            try:
                got = wire.decode(mine[0].get("value"))
            except wire.WireError as error:
                tally.missed(CodeGrade.ERROR, f"it sent {error}", Attack.FORGED_REPLY)
                continue
            if any(equals(e, got, tolerance=case.tolerance) for e in case.expected):
                tally.passed()
            else:
                wanted = shown(case.expected[0])
                tally.missed(CodeGrade.FAIL, f"it returns {shown(got)}, expected is {wanted}")
        return None

    def _check_runs(self, source: str, task: CodeTask, limits: Limits, tally: Tally) -> None:
        for case in task.runs:
            mark = secrets.token_hex(16)
            stdin = case.stdin.encode(errors="surrogateescape")
            output = self._run(_SCRIPT.format(mark=mark, stdin=stdin, source=source), limits)
            _refuse_unrun(mark, output)
            if output.timed_out:
                return _broke_off(tally, output, limits)
            if _is_too_long(output, tally):
                continue
            written = output.text.removeprefix(f"{mark}\n")
            if output.status:
                detail = f"it ends with status {output.status}: {output.last_words}"
                tally.raised(output.last_words.partition(":")[0], detail)
            elif same_output(case.expected, written):
                tally.passed()
            else:
                tally.missed(
                    CodeGrade.FAIL,
                    f"it writes {shown(written)}, expected is {shown(case.expected)}",
                )
        return None

    def _run(self, script: str, limits: Limits) -> _Output:
        if self.target.startswith(("http://", "https://")):
            return self._post(script, limits)
        with tempfile.TemporaryFile() as given:
            given.write(script.encode())
            given.seek(0)
            try:
                process = subprocess.Popen(
                    shlex.split(self.target),
                    stdin=given,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                )
            except (OSError, ValueError) as error:  # no program, or no command line
                raise SandboxFaultError(f"the runner cannot be started: {error}") from error
        with process:
            try:
                output = _read(process, limits)
            finally:
                process.kill()
        if output.status in (125, 126, 127):  # what container engines say of themselves
            raise SandboxFaultError(f"the runner failed: {output.last_words}")
        if output.status == -signal.SIGKILL:
            raise SandboxFaultError("the runner was killed; is the machine out of memory?")
        return output

    def _post(self, script: str, limits: Limits) -> _Output:
        body = {
            "code": script,
            "language": "python",
            "run_timeout": limits.timeout_s,
            "memory_limit_MB": limits.memory_mb,
        }
        request = urllib.request.Request(
            f"{self.target.rstrip('/')}/run_code",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(
                request, timeout=limits.timeout_s + START_ALLOWANCE_S
            ) as answer:
                told = json.loads(answer.read(2 * MAX_RESULT_BYTES))
        except (OSError, ValueError, urllib.error.URLError) as error:
            raise SandboxFaultError(f"the runner does not answer: {error}") from error
        run = told.get("run_result") or {}
        if told.get("status") == "SandboxError" or not run:
            raise SandboxFaultError(f"the runner failed: {told.get('message')}")
        text, is_late = str(run.get("stdout") or ""), run.get("status") == "TimeLimitExceeded"
        status = run.get("return_code")
        if type(status) is not int and not is_late:
            raise SandboxFaultError(f"the runner tells no status: {run.get('status')}")
        return _Output(text, is_late, status or 0, _last_line(str(run.get("stderr") or "")))


def _read(process: "subprocess.Popen[bytes]", limits: Limits) -> _Output:
    """What a command writes; the time of the program begins with the first word of the script.

    Raises:
        SandboxFaultError: There is none in the time that a runner may take to start.
    """
    out, err = process.stdout, process.stderr
    assert out is not None
    assert err is not None
    written, tail = bytearray(), bytearray()
    deadline = time.monotonic() + START_ALLOWANCE_S
    with selectors.DefaultSelector() as selector:
        selector.register(out, selectors.EVENT_READ)
        selector.register(err, selectors.EVENT_READ)
        while selector.get_map() and len(written) <= _MOST_BYTES:
            ready = selector.select(max(deadline - time.monotonic(), 0.0))
            if not ready:
                break
            for key, _ in ready:
                chunk = os.read(key.fd, 1 << 16)
                if not chunk:
                    selector.unregister(key.fileobj)
                elif key.fileobj is err:
                    tail = (tail + chunk)[-_LAST_BYTES:]
                else:
                    deadline = deadline if written else time.monotonic() + limits.timeout_s
                    written += chunk
        has_ended = not selector.get_map()
    text, last_words = _text(written), _last_line(_text(tail))
    if len(written) > _MOST_BYTES:
        return _Output(text)
    try:
        left = max(deadline - time.monotonic(), 0.0) if has_ended else 0.0
        return _Output(text, status=process.wait(left), last_words=last_words)
    except subprocess.TimeoutExpired as error:
        if not written:
            raise SandboxFaultError(f"the runner did not begin: {last_words}") from error
        return _Output(text, timed_out=True)


def _refuse_unrun(mark: str, output: _Output) -> None:
    """What a runner that did not run the script answers says nothing of the program.

    Raises:
        SandboxFaultError: The first word of the script is missing.
    """
    if not output.text.startswith(mark) and not (output.timed_out and not output.text):
        why = output.last_words or f"status {output.status}"
        raise SandboxFaultError(f"the runner did not run the script: {why}")


def _is_too_long(output: _Output, tally: Tally) -> bool:
    is_too_long = len(output.text) > _MOST_BYTES
    if is_too_long:
        tally.missed(CodeGrade.RESOURCE, f"more than {MAX_RESULT_BYTES} bytes of output")
    return is_too_long


def _text(data: bytes | bytearray) -> str:
    return data.decode(errors="surrogateescape")


def _last_line(text: str) -> str:
    return "".join(text.strip().splitlines()[-1:])[:200]


def _replies(text: str, mark: str) -> list[dict[str, Any]]:
    found = []
    for line in text.splitlines():
        if line.startswith(mark):
            try:
                reply = json.loads(line.removeprefix(mark))
            except (ValueError, RecursionError):
                continue
            if isinstance(reply, dict):
                found.append(reply)
    return found


def _broke_off(tally: Tally, output: _Output, limits: Limits) -> None:
    if output.timed_out:
        tally.missed(CodeGrade.TIMEOUT, f"no answer within {limits.timeout_s:g} s")
    else:
        tally.missed(
            CodeGrade.ERROR, "it ended its process instead of answering", Attack.ENDED_PROCESS
        )


def _unsendable(value: object) -> object:
    raise SandboxFaultError(f"an argument of type {type(value).__name__} cannot be sent")
