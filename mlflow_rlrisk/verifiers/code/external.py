"""Tier C: the operator's own runner, a command (a container) or a SandboxFusion server.

A runner gets one script on its standard input, or as ``code``, and what it writes to standard
output is read back. The script holds the program and the arguments, never an expected value, and
the comparison stays here. Test code talks to a candidate call by call and cannot be sent in one
script: such a task is refused, not run beside its tests.
"""

import json
import os
import secrets
import shlex
import subprocess
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

_DRIVER = """
_wire = {{}}
exec({wire!r}, _wire)
_encode, _decode = _wire["encode"], _wire["decode"]
_names = {{"__name__": "candidate"}}
def _tell(reply):
    import json, os
    os.write(_out, (_mark + json.dumps(reply) + "\\n").encode())
def _raised(error):
    return {{"raised": [type(error).__name__, str(error)[:300]]}}
import os as _os
_out, _mark = _os.dup(1), {mark!r}
try:
    exec(compile({source!r}, "<program>", "exec"), _names)
except BaseException as _error:
    _tell({{"load": _raised(_error)}})
    _os._exit(0)
for _number, (_name, _args, _kwargs) in enumerate({calls!r}):
    try:
        _result = _names[_name](*_decode(_args), **_decode(_kwargs))
        _value = _encode(_result, lambda v: {{"h": [0, type(v).__name__]}})
        _tell({{"case": _number, "value": _value}})
    except BaseException as _error:
        _tell({{"case": _number, **_raised(_error)}})
_os._exit(0)
"""

_SCRIPT = """
import io, sys
sys.stdin = io.TextIOWrapper(io.BytesIO({stdin!r}))
exec(compile({source!r}, "<program>", "exec"), {{"__name__": "__main__"}})
"""


@dataclass(frozen=True, slots=True)
class _Output:
    text: str
    timed_out: bool


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
            output = runner._run(f"print({word!r})", "", Limits())
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
            wire=Path(wire.__file__).read_text(), mark=mark, source=source, calls=calls
        )
        output = self._run(script, "", limits)
        replies = _replies(output.text, mark)
        if any("load" in reply for reply in replies):
            first = replies[0].get("load", {}).get("raised", ["Error", ""])
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
            script = _SCRIPT.format(stdin=case.stdin.encode(), source=source)
            output = self._run(script, case.stdin, limits)
            if output.timed_out:
                return _broke_off(tally, output, limits)
            if same_output(case.expected, output.text):
                tally.passed()
            else:
                tally.missed(
                    CodeGrade.FAIL,
                    f"it writes {shown(output.text)}, expected is {shown(case.expected)}",
                )
        return None

    def _run(self, script: str, stdin: str, limits: Limits) -> _Output:
        if self.target.startswith(("http://", "https://")):
            return self._post(script, stdin, limits)
        try:
            done = subprocess.run(
                shlex.split(self.target),
                input=script.encode(),
                capture_output=True,
                timeout=limits.timeout_s + START_ALLOWANCE_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return _Output("", timed_out=True)
        except OSError as error:
            raise SandboxFaultError(f"the runner cannot be started: {error}") from error
        if len(done.stdout) > MAX_RESULT_BYTES:
            return _Output("", timed_out=False)
        if done.returncode in (125, 126, 127):  # what container engines say of themselves
            raise SandboxFaultError(f"the runner failed: {done.stderr.decode()[-200:]}")
        return _Output(done.stdout.decode(errors="replace"), timed_out=False)

    def _post(self, script: str, stdin: str, limits: Limits) -> _Output:
        body = {
            "code": script,
            "language": "python",
            "run_timeout": limits.timeout_s,
            "stdin": stdin,
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
        return _Output(
            str(run.get("stdout") or ""), timed_out=run.get("status") == "TimeLimitExceeded"
        )


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
