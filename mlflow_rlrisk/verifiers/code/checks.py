"""The three ways to check a program: calls, runs through standard input, and test code."""

import os
import select
import socket
import time
from collections import deque
from dataclasses import replace
from typing import Any

from mlflow_rlrisk.verifiers.code.compare import equals, same_output, shown
from mlflow_rlrisk.verifiers.code.judgement import Attack, CodeGrade
from mlflow_rlrisk.verifiers.code.sandbox.candidate import (
    Candidate,
    CandidateRaisedError,
    SetupFaultError,
    UnsendableError,
)
from mlflow_rlrisk.verifiers.code.sandbox.channel import (
    ClosedError,
    DeadlineError,
    OversizeError,
    WireError,
)
from mlflow_rlrisk.verifiers.code.sandbox.wire import CostlyValueError, Handle
from mlflow_rlrisk.verifiers.code.sandbox_tiers import Servers
from mlflow_rlrisk.verifiers.code.session import (
    MAX_RESULT_BYTES,
    Limits,
    Process,
    SandboxFaultError,
    linked,
)
from mlflow_rlrisk.verifiers.code.tally import Tally, broke_off, ended
from mlflow_rlrisk.verifiers.code.tasks import CallCase, CodeTask, StdioCase

END_GRACE_S = 2.0
"""How long a process that closed its socket may take to end by itself."""
CALLS_AHEAD = 16
MAX_BYTES_AHEAD = 1 << 10
"""Together far below what a socket holds: neither side ever waits to write a question."""
MAX_TEST_REPORT_BYTES = 1 << 26
TESTER_MEMORY_MB = 4096
_BROKEN_OFF = (DeadlineError, OversizeError, WireError)


def run_checks(source: str, task: CodeTask, servers: Servers, limits: Limits) -> Tally:
    """Check one program in a process of its own (one for each run).

    Raises:
        SandboxFaultError: The sandbox failed; nothing is known of the program.
    """
    tally = Tally(servers.tier, task.num_cases)
    try:
        _check(source, task, servers, limits, tally)
    except SetupFaultError as error:
        raise SandboxFaultError(f"a process could not be confined: {error}") from error
    return tally


def _check(source: str, task: CodeTask, servers: Servers, limits: Limits, tally: Tally) -> None:
    if task.calls:
        _check_calls(source, task, servers, limits, tally)
    elif task.runs:
        for case in task.runs:
            if not _check_run(source, case, servers, limits, tally):
                break
    else:
        _check_tests(source, task, servers, limits, tally)


def _check_calls(
    source: str, task: CodeTask, servers: Servers, limits: Limits, tally: Tally
) -> None:
    with (
        linked() as (channel, far),
        Process(servers.candidates(), {"kind": "candidate"}, limits, [far.fileno()]) as process,
    ):
        far.close()
        candidate = Candidate(channel)
        try:
            candidate.load(source, process.deadline)
            _check_each_call(candidate, task, tally, process.deadline)
        except CandidateRaisedError as error:
            tally.raised(error.type_name, f"the program does not load: {error}")
        except _BROKEN_OFF as error:
            broke_off(tally, error, limits)
        except ClosedError:
            ended(tally, process.end(grace_s=END_GRACE_S), limits)


def _check_each_call(candidate: Candidate, task: CodeTask, tally: Tally, deadline: float) -> None:
    """Several calls are under way at once: waiting for each would cost two changes of process."""
    asked: deque[tuple[CallCase, int | UnsendableError]] = deque()
    for case in task.calls:
        name = case.function or task.entry_point
        assert name is not None
        try:
            asked.append((case, candidate.ask(name, case.args, case.kwargs, deadline)))
        except UnsendableError as error:
            asked.append((case, error))
        if len(asked) > CALLS_AHEAD or candidate.channel.last_sent_bytes > MAX_BYTES_AHEAD:
            while asked:
                _check_answer(candidate, *asked.popleft(), tally, deadline)
    while asked:
        _check_answer(candidate, *asked.popleft(), tally, deadline)


def _check_answer(
    candidate: Candidate,
    case: CallCase,
    number: int | UnsendableError,
    tally: Tally,
    deadline: float,
) -> None:
    if isinstance(number, UnsendableError):
        return tally.missed(CodeGrade.INCONCLUSIVE, str(number))
    try:
        got = candidate.answer(number, deadline)
    except CandidateRaisedError as error:
        return tally.raised(error.type_name, f"it raises {error}")
    if any(equals(expected, got, tolerance=case.tolerance) for expected in case.expected):
        return tally.passed()
    if type(got) is Handle:
        detail = f"it returns {got!r}, no plain value"
        return tally.missed(CodeGrade.FAIL, detail, Attack.FOREIGN_RESULT)
    wanted = shown(case.expected[0])
    return tally.missed(CodeGrade.FAIL, f"it returns {shown(got)}, expected is {wanted}")


def _check_run(
    source: str, case: StdioCase, servers: Servers, limits: Limits, tally: Tally
) -> bool:
    """One run; false where further ones would only cost time."""
    stdin = os.memfd_create("stdin")
    out, far_out = os.pipe()
    try:
        _write_all(stdin, case.stdin.encode(errors="surrogateescape"))
        os.lseek(stdin, 0, os.SEEK_SET)
        with (
            linked() as (channel, far),
            Process(
                servers.candidates(), {"kind": "stdio"}, limits, [far.fileno(), stdin, far_out]
            ) as process,
        ):
            far.close()
            os.close(far_out)
            far_out = -1
            written = _await_run(source, Candidate(channel), process, out, limits, tally)
    finally:
        for fd in (stdin, out, far_out):
            if fd >= 0:
                os.close(fd)
    if written is None:
        return tally.num_timed_out == 0
    if same_output(case.expected, written):
        tally.passed()
    else:
        tally.missed(
            CodeGrade.FAIL, f"it writes {shown(written)}, expected is {shown(case.expected)}"
        )
    return True


def _await_run(
    source: str, candidate: Candidate, process: Process, out: int, limits: Limits, tally: Tally
) -> str | None:
    """What the program wrote; ``None`` where it did not end well, which is then counted."""
    written = ""
    try:
        number = candidate.start_main(source, process.deadline)
        written = _read_output(out, process.deadline, limits).decode(errors="surrogateescape")
        candidate.finish_main(number, process.deadline)
    except CandidateRaisedError as error:
        tally.raised(error.type_name, f"it raises {error}")
        return None
    except _BROKEN_OFF as error:
        broke_off(tally, error, limits)
        return None
    except ClosedError:
        ending = process.end(grace_s=END_GRACE_S)
        if ending.exit_code != 0:
            ended(tally, ending, limits)
            return None
        # A script may end by exit(0): what counts is what it wrote.
    return written


def _read_output(out: int, deadline: float, limits: Limits) -> bytes:
    """Standard output up to its end, which is the end of the process."""
    written = bytearray()
    poll = select.poll()
    poll.register(out, select.POLLIN)
    while True:
        left = (deadline - time.monotonic()) * 1000
        if left <= 0 or not poll.poll(left):
            raise DeadlineError
        chunk = os.read(out, 1 << 16)
        if not chunk:
            return bytes(written)
        written += chunk
        if len(written) > limits.max_output_bytes:
            raise OversizeError(f"more than {limits.max_output_bytes} bytes of output")


def _write_all(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def _check_tests(
    source: str, task: CodeTask, servers: Servers, limits: Limits, tally: Tally
) -> None:
    """Test code runs in a trusted process, which talks to the sandboxed one by itself."""
    test_limits = replace(limits, memory_mb=TESTER_MEMORY_MB)
    near, far = socket.socketpair()
    with (
        near,
        far,
        linked() as (report, far_report),
        Process(servers.candidates(), {"kind": "candidate"}, limits, [far.fileno()]) as process,
        Process(
            servers.testers(),
            {"kind": "tester"},
            test_limits,
            [near.fileno(), far_report.fileno()],
        ) as tester,
    ):
        for handed_over in (near, far, far_report):
            handed_over.close()
        report.max_bytes = MAX_TEST_REPORT_BYTES
        try:
            report.send(_request(source, task), tester.deadline)
            told = report.receive(tester.deadline)
        except DeadlineError as error:
            broke_off(tally, error, limits)
        except ClosedError as error:
            ending = tester.end(grace_s=END_GRACE_S)
            raise SandboxFaultError(
                f"the tests ended their own process (status {ending.status})"
            ) from error
        else:
            _count(told, process, limits, tally)


def _request(source: str, task: CodeTask) -> dict[str, Any]:
    return {
        "source": source,
        "entry_point": task.entry_point,
        "asserts": list(task.asserts),
        "test": task.test,
        "setup": list(task.setup),
        "max_result_bytes": MAX_RESULT_BYTES,
    }


def _count(told: dict[str, Any], process: Process, limits: Limits, tally: Tally) -> None:
    """Turn the report of the tests into cases."""
    if "fault" in told:
        raise SandboxFaultError(told["fault"])
    if "broken" in told:
        return tally.missed(CodeGrade.INCONCLUSIVE, told["broken"])
    if "load_raised" in told:
        type_name, message = told["load_raised"]
        return tally.raised(type_name, f"the program does not load: {type_name}: {message}")
    attacks = (Attack.FOREIGN_RESULT,) if told.get("num_foreign") else ()
    for grade, detail, *type_name in told["results"]:
        if grade == "pass":
            tally.passed()
        elif grade == "raised":
            tally.raised(type_name[0], detail)
        elif grade != "ended":
            tally.missed(CodeGrade(grade), detail, *attacks)
    if "ending" in told:
        kind, detail = told["ending"]
        if kind == "closed":
            return ended(tally, process.end(grace_s=END_GRACE_S), limits)
        broke_off(tally, _REPORTED[kind](detail), limits)
    return None


_REPORTED: dict[str, type[Exception]] = {
    "protocol": WireError,
    "costly": CostlyValueError,
    "too_big": OversizeError,
}
