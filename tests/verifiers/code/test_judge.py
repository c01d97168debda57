"""Grades of `CodeJudge` on the forms of data sets, and its manners as a library."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mlflow_rlrisk.errors import ConfigError, VerifierError
from mlflow_rlrisk.verifiers.code import (
    Attack,
    CodeGrade,
    CodeJudge,
    Judgement,
    Limits,
    SandboxUnavailableError,
    read_task,
    task_of_row,
)
from mlflow_rlrisk.verifiers.code.sandbox_tiers import UNSAFE_VARIABLE
from tests.verifiers.code.corpus_reader import TASK
from tests.verifiers.code.settings import ROOT, need_namespaces
from tests.verifiers.processes import children, is_alive

SQUARE = "def solve(n): return n * n"
HUMAN_EVAL = {
    "prompt": "def poly(xs, x):\n    return sum(c * x**i for i, c in enumerate(xs))\n\n\n"
    'def find_zero(xs):\n    """A zero of poly."""\n',
    "entry_point": "find_zero",
    "test": "def check(candidate):\n    for xs in ([-1, 1], [4, -2]):\n"
    "        assert abs(poly(xs, candidate(list(xs)))) < 1e-4\n",
}
MBPP = {
    "test_list": [
        "assert set(similar((3, 4, 5), (5, 7, 4))) == {4, 5}",
        "assert math.isclose(similar((1.5,), (1.5,))[0], 1.5)",
    ],
    "test_imports": ["import math"],
}


@pytest.fixture(scope="module")
def judge() -> Iterator[CodeJudge]:
    with CodeJudge("B", limits=Limits(timeout_s=20.0), lanes=2) as opened:
        yield opened


def grade(judge: CodeJudge, source: str, cases: Any, entry: str | None = None) -> Judgement:
    return judge.grade(source, read_task(cases, entry))


@pytest.mark.parametrize(
    ("source", "row", "expected"),
    [
        ("def find_zero(xs): return -xs[0] / xs[1]", HUMAN_EVAL, "pass"),
        ("def find_zero(xs): return 0.0", HUMAN_EVAL, "fail"),
        ("def find_zero(xs): return xs[9]", HUMAN_EVAL, "error"),
        ("def other(xs): return 1", HUMAN_EVAL, "error"),
        ("def similar(a, b): return tuple(set(a) & set(b))", MBPP, "pass"),
        ("def similar(a, b): return a", MBPP, "fail"),
        ("import os\ndef similar(a, b): os._exit(0)", MBPP, "error"),
        (
            "class Yes:\n    def __eq__(s, o): return True\ndef similar(a, b): return Yes()",
            MBPP,
            "fail",
        ),
        ("n = int(input()); print(n * 2)", {"inputs": ["4\n"], "outputs": ["8\n"]}, "pass"),
        ("print(int(open(0).read()) * 2)", {"inputs": ["4"], "outputs": ["8"]}, "pass"),
        ("import os; os.write(1, b'8'); os._exit(0)", {"inputs": ["4"], "outputs": ["8"]}, "pass"),
        ("print(8); raise SystemExit(3)", {"inputs": ["4"], "outputs": ["8"]}, "error"),
        ("print(9)", {"inputs": ["4"], "outputs": ["8"]}, "fail"),
        (
            "def f(a, b): return a + b",
            {"fn_name": "f", "inputs": [[1, 2]], "outputs": [[3]]},
            "pass",
        ),
        (
            "class Solution:\n    def f(self, a): return a[::-1]",
            {"fn_name": "f", "inputs": ["[1, 2]"], "outputs": ["[2, 1]"]},
            "pass",
        ),
    ],
)
def test_each_form_of_cases_is_graded(
    judge: CodeJudge, source: str, row: dict[str, Any], expected: str
) -> None:
    assert grade(judge, source, row).grade == expected


@pytest.mark.parametrize("separator", ["\x0b", "\x0c", "\x1c", "\x85", "\u2028"])
def test_only_a_line_feed_ends_a_line_of_output(judge: CodeJudge, separator: str) -> None:
    def writes(output: str, expected: str) -> CodeGrade:
        case = {"inputs": [""], "outputs": [expected]}
        return grade(judge, f"print({output!r})", case).grade

    assert writes(f"a{separator}b", "a\nb") is CodeGrade.FAIL
    assert writes(f"a{separator}b", f"a{separator}b\n") is CodeGrade.PASS
    assert writes("a \r\nb", "a\nb") is CodeGrade.PASS


def test_a_row_with_verification_info_gives_the_same_task_as_its_cases() -> None:
    case = {"input": "1", "output": "2", "type": "stdin_stdout"}
    text = json.dumps({"language": "python", "test_cases": [case]})

    task = task_of_row(None, {"verification_info": text})

    assert task == read_task([{"input": "1", "output": "2"}])


def test_the_first_case_that_fails_gives_the_grade_and_all_are_counted(judge: CodeJudge) -> None:
    source = "def solve(n):\n    if n == 5: raise ValueError(n)\n    return n * n if n == 12 else 0"

    judged = judge.grade(source, TASK)

    assert (judged.grade, judged.num_passed, judged.num_cases) == (CodeGrade.FAIL, 1, 3)


def test_a_test_that_never_calls_the_candidate_proves_nothing(judge: CodeJudge) -> None:
    row = {"entry_point": "solve", "test": "def check(candidate):\n    assert 1\n"}

    assert grade(judge, SQUARE, row).grade is CodeGrade.INCONCLUSIVE


def test_a_broken_test_is_not_the_fault_of_the_program(judge: CodeJudge) -> None:
    row = {"entry_point": "solve", "test": "def check(candidate):\n    import no_such_module\n"}

    assert grade(judge, SQUARE, row).grade is CodeGrade.INCONCLUSIVE


def test_a_test_that_swallows_everything_does_not_pass_a_dead_candidate(judge: CodeJudge) -> None:
    test = (
        "def check(candidate):\n    try:\n        candidate(1)\n"
        "    except BaseException:\n        pass\n"
    )

    judged = grade(
        judge, "import os\ndef solve(n): os._exit(0)", {"entry_point": "solve", "test": test}
    )

    assert judged.grade is CodeGrade.ERROR
    assert judged.attacks == (Attack.ENDED_PROCESS,)


def test_what_a_test_imports_is_not_on_the_clock_of_the_first_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # From a slow disk numpy takes seconds: the first right program was graded 0, later ones 1.
    (tmp_path / "numpy.py").write_text("import time\ntime.sleep(3)\n")
    monkeypatch.syspath_prepend(tmp_path)
    task = read_task({"test": "import numpy\nassert add(1, 2) == 3", "entry_point": "add"})

    with CodeJudge("B", limits=Limits(timeout_s=2.0), lanes=1) as impatient:
        judgement = impatient.grade("def add(a, b): return a + b", task)

    assert judgement.grade == "pass", judgement.detail


def test_a_test_may_expect_an_exception(judge: CodeJudge) -> None:
    test = (
        "def check(candidate):\n    try:\n        candidate(-1)\n"
        "    except ValueError:\n        return\n    assert False\n"
    )

    row = {"entry_point": "solve", "test": test}
    raising = grade(judge, "def solve(n): raise ValueError(n)", row)
    silent = grade(judge, SQUARE, row)

    assert (raising.grade, silent.grade) == (CodeGrade.PASS, CodeGrade.FAIL)


def test_lack_of_memory_is_its_own_grade(judge: CodeJudge) -> None:
    assert judge.grade("def solve(n): return bytearray(1 << 40)", TASK).grade == "resource"


@pytest.mark.parametrize("cases", [[], {}, [{}], [{"args": 1, "expected": 2}], 7, [1]])
def test_cases_of_no_known_form_are_refused(cases: Any) -> None:
    with pytest.raises(VerifierError):
        read_task(cases, "solve")


def test_no_sandbox_needs_the_operator_and_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(UNSAFE_VARIABLE, raising=False)
    with pytest.raises(SandboxUnavailableError, match=UNSAFE_VARIABLE), CodeJudge("none"):
        pass
    monkeypatch.setenv(UNSAFE_VARIABLE, "I-understand")

    with CodeJudge("none") as opened:
        judged = opened.grade(SQUARE, TASK)

    assert (judged.grade, judged.tier) == (CodeGrade.PASS, "none")
    assert opened.selftest is not None
    assert "starts a process" in opened.selftest.escaped  # the self-test can fail


def test_auto_never_takes_less_than_b(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(UNSAFE_VARIABLE, "I-understand")
    monkeypatch.setattr("mlflow_rlrisk.verifiers.code.judge.missing_for", lambda tier: "taken away")

    with pytest.raises(SandboxUnavailableError, match="taken away"), CodeJudge("auto"):
        pass


def test_a_dead_fork_server_is_started_again(judge: CodeJudge) -> None:
    assert judge._servers is not None
    server = judge._servers.candidates()
    server.process.kill()

    judged = judge.grade(SQUARE, TASK)

    assert judged.grade is CodeGrade.PASS
    assert judge._servers.candidates() is not server


def test_an_unknown_tier_and_an_endless_limit_are_refused() -> None:
    with pytest.raises(ConfigError):
        CodeJudge("Z")
    with pytest.raises(ConfigError):
        CodeJudge("B", limits=Limits(timeout_s=float("nan")))
    with pytest.raises(ConfigError, match="memory_mb"):  # more than the kernel counts
        CodeJudge("B", limits=Limits(memory_mb=10**17))
    with pytest.raises(ConfigError, match="lanes"):
        CodeJudge("B", lanes=0)


def test_calls_of_a_function_without_a_name_are_refused() -> None:
    with pytest.raises(VerifierError, match="need the name of the function"):
        read_task([{"args": [1], "expected": 1}], "")


@pytest.mark.slow
def test_checks_from_a_hundred_threads_end_without_leftovers() -> None:
    before = children()
    with CodeJudge("B", limits=Limits(timeout_s=60.0)) as opened:
        opened.grade(SQUARE, TASK)
        fds = len(list(Path("/proc/self/fd").iterdir()))
        right, wrong = SQUARE, "def solve(n): return -n"
        with ThreadPoolExecutor(100) as threads:
            judged = list(
                threads.map(lambda i: opened.grade((right, wrong)[i % 2], TASK), range(300))
            )
        fds_after = len(list(Path("/proc/self/fd").iterdir()))

    grades = [each.grade for each in judged]
    assert grades == [CodeGrade.PASS, CodeGrade.FAIL] * 150
    assert fds_after == fds
    assert children() == before
    assert threading.active_count() < 50


@pytest.mark.parametrize("tier", ["A", "B"])
def test_nothing_survives_a_judge_that_is_killed(tier: str) -> None:
    if tier == "A":
        need_namespaces()
    script = (
        "import os, sys, threading\n"
        "from mlflow_rlrisk.verifiers.code import CodeJudge, Limits, read_task\n"
        "judge = CodeJudge(sys.argv[1], limits=Limits(timeout_s=600.0)).__enter__()\n"
        "task = read_task([{'args': [], 'expected': 1}], 'f')\n"
        "source = 'def f():\\n    while True: pass'\n"
        "threading.Thread(target=judge.grade, args=(source, task), daemon=True).start()\n"
        "print(judge._servers.candidates().process.pid, flush=True)\n"
        "threading.Event().wait()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, tier], stdout=subprocess.PIPE, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        server = int(process.stdout.readline())
        time.sleep(1.0)  # the endless program is under way
        process.kill()

    deadline = time.monotonic() + 20.0
    while is_alive(server) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_alive(server)
