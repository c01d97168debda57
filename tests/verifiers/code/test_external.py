"""Tier C: what an operator's runner is told, and what its answers may mean."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mlflow_rlrisk.errors import SandboxUnavailableError
from mlflow_rlrisk.verifiers.code import CodeJudge, Limits, external, read_task
from tests.verifiers.code.test_scripts import SCRIPTS, run_and_judge

RUNNER = f"{sys.executable} -"
CALLS = [{"args": [n], "expected": n + 1} for n in (1, 2, 3)]


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Iterator[CodeJudge]:
    monkeypatch.setenv(external.RUNNER_VARIABLE, RUNNER)
    with CodeJudge("C", limits=Limits(timeout_s=20.0)) as opened:
        yield opened


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_runners_script_is_graded_by_what_an_interpreter_writes_of_it(
    judge: CodeJudge, tmp_path: Path, name: str
) -> None:
    done, judgement = run_and_judge(judge, tmp_path, SCRIPTS[name])

    assert (judgement.grade == "pass") is (done.returncode == 0), judgement.detail


@pytest.mark.parametrize(
    ("source", "grade"),
    [
        ("def broken(:", "error"),
        ("raise ValueError", "error"),
        ("raise MemoryError", "resource"),
        ("import sys; sys.exit(1)", "error"),
        ("print('a' * (5 << 20))", "resource"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", "error"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "inconclusive"),
        ("pass", "pass"),
    ],
)
def test_a_script_that_fails_is_not_paid_for_the_output_that_it_did_not_write(
    judge: CodeJudge, source: str, grade: str
) -> None:
    # Where nothing is to be written, a program that did not even parse had passed.
    judgement = judge.grade(source, read_task({"inputs": ["1"], "outputs": [""]}, None))

    assert judgement.grade == grade, judgement.detail


@pytest.mark.parametrize(
    "source",
    [
        "class Solution:\n    def f(self, n): return n + 1",
        "import sys\ndef f(n):\n    print('noise', end='', flush=True)\n    return n + 1",
        "def f(n):\n    print('noise' * 10**6)\n    return n + 1",
        "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\n"
        "class Box:\n    n: int\ndef f(n): return Box(n).n + 1",
    ],
)
def test_a_runner_grades_right_functions_as_the_other_tiers_do(
    judge: CodeJudge, source: str
) -> None:
    with CodeJudge("B", limits=Limits(timeout_s=20.0), lanes=1) as inside:
        grades = [each.grade(source, read_task(CALLS, "f")).grade for each in (inside, judge)]

    assert grades == ["pass", "pass"]


@pytest.mark.parametrize("number", [float("inf"), float("-inf"), float("nan"), 10**50])
def test_a_runner_is_given_every_number_that_json_can_say(
    judge: CodeJudge, number: float | int
) -> None:
    # Infinity and NaN were written into its script as names that are not defined there.
    judgement = judge.grade(
        "def same(n): return n", read_task([{"args": [number], "expected": number}], "same")
    )

    assert judgement.grade == "pass", judgement.detail


def test_the_time_of_a_program_does_not_include_what_its_runner_may_take_to_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(external.RUNNER_VARIABLE, f"sh -c 'sleep 1.5; exec {RUNNER}'")
    source = "import time\ndef f(n):\n    time.sleep(n)\n    return n + 1"
    cases = ([{"args": [0.01], "expected": 1.01}], [{"args": [8], "expected": 9}])

    with CodeJudge("C", limits=Limits(timeout_s=1.0)) as opened:
        grades = [opened.grade(source, read_task(each, "f")).grade for each in cases]

    assert grades == ["pass", "timeout"]


@pytest.mark.parametrize("later", ["true", "echo no daemon >&2; exit 1", "exec sleep 60"])
@pytest.mark.parametrize("cases", [CALLS, {"inputs": ["1"], "outputs": [""]}])
def test_a_runner_that_stops_running_is_no_fault_of_the_program(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cases: object, later: str
) -> None:
    # It was a zero, or a pass where nothing was to be written.
    gone = tmp_path / "gone"
    command = f"if [ -e {gone} ]; then {later}; else exec {RUNNER}; fi"
    monkeypatch.setenv(external.RUNNER_VARIABLE, f'sh -c "{command}"')
    with CodeJudge("C", limits=Limits(timeout_s=5.0)) as opened:
        gone.touch()
        monkeypatch.setattr(external, "START_ALLOWANCE_S", 0.2)

        judgement = opened.grade("def f(n): return n + 1", read_task(cases, "f"))

    assert judgement.grade == "inconclusive"


def test_a_command_line_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(external.RUNNER_VARIABLE, 'docker "run')

    with pytest.raises(SandboxUnavailableError, match="No closing quotation"), CodeJudge("C"):
        pass


class _Fusion(BaseHTTPRequestHandler):
    """Answers as SandboxFusion does, with the run that the test states."""

    run_result: dict[str, object] | None = None

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        script = asked["code"].encode()
        done = subprocess.run([sys.executable, "-"], input=script, capture_output=True, check=False)
        run = self.run_result or {
            "status": "Finished",
            "return_code": done.returncode,
            "stdout": done.stdout.decode(),
            "stderr": done.stderr.decode(),
        }
        body = json.dumps({"status": "Success", "run_result": run}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Nothing."""


def test_a_server_that_runs_scripts_is_read_by_status_and_output(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Fusion)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv(external.RUNNER_VARIABLE, f"http://127.0.0.1:{server.server_port}")
    task = read_task({"inputs": ["4"], "outputs": ["5"]}, None)
    late = {"status": "TimeLimitExceeded", "return_code": None, "stdout": "", "stderr": ""}
    try:
        with CodeJudge("C", limits=Limits(timeout_s=20.0)) as opened:
            right = opened.grade("print(int(input()) + 1)", task).grade
            raised = opened.grade("print(5); raise ValueError", task).grade
            monkeypatch.setattr(_Fusion, "run_result", late)
            timeout = opened.grade("print(5)", task).grade
            monkeypatch.setattr(_Fusion, "run_result", late | {"status": "Error"})
            broken = opened.grade("print(5)", task).grade
    finally:
        server.shutdown()
        server.server_close()

    assert [right, raised, timeout, broken] == ["pass", "error", "timeout", "inconclusive"]
