"""Case by case to one grade, and what an ended process means."""

import signal

from mlflow_rlrisk.verifiers.code.judgement import Attack, CodeGrade, Judgement
from mlflow_rlrisk.verifiers.code.sandbox.channel import DeadlineError, OversizeError
from mlflow_rlrisk.verifiers.code.sandbox.wire import CostlyValueError, WireError
from mlflow_rlrisk.verifiers.code.session import Ending, Limits, SandboxFaultError

_NEARLY_ALL = 0.8
"""Share of the memory limit from which on a crash is taken for a lack of memory."""


class Tally:
    """Counts cases of one program.

    The first case that does not pass gives grade and detail; one that could not be judged leaves
    the whole program unjudged.
    """

    def __init__(self, tier: str, num_cases: int) -> None:
        self.tier, self.num_cases = tier, num_cases
        self.num_passed = self.num_seen = self.num_timed_out = 0
        self._grade: CodeGrade | None = None
        self._detail = ""
        self._attacks: list[Attack] = []

    def passed(self) -> None:
        """One more case passed."""
        self.num_seen += 1
        self.num_passed += 1

    def missed(self, grade: CodeGrade, detail: str, *attacks: Attack) -> None:
        """One more case did not."""
        self.num_seen += 1
        self.num_timed_out += grade is CodeGrade.TIMEOUT
        self._attacks += [attack for attack in attacks if attack not in self._attacks]
        if self._grade is None or grade is CodeGrade.INCONCLUSIVE:
            self._grade = grade
            where = f"case {self.num_seen} of {self.num_cases}: " if self.num_cases > 1 else ""
            self._detail = where + _one_line(detail)

    def raised(self, type_name: str, detail: str) -> None:
        """One more case ended in an exception of the program."""
        wants_memory = type_name == "MemoryError"
        leaves = (Attack.ENDED_PROCESS,) if type_name == "SystemExit" else ()
        self.missed(CodeGrade.RESOURCE if wants_memory else CodeGrade.ERROR, detail, *leaves)

    def judgement(self) -> Judgement:
        """The verdict."""
        grade = self._grade or CodeGrade.PASS
        assert grade is not CodeGrade.PASS or self.num_passed == self.num_cases > 0
        return Judgement(
            grade=grade,
            tier=self.tier,
            num_passed=self.num_passed,
            num_cases=self.num_cases,
            detail=self._detail or f"{self.num_passed} of {self.num_cases} cases pass",
            attacks=tuple(self._attacks),
        )


def _one_line(text: str) -> str:
    """Words of a candidate, fit for JSON and for a terminal."""
    line = " ".join(text.split())
    return "".join(each if each.isprintable() else "\ufffd" for each in line)


def broke_off(tally: Tally, error: Exception, limits: Limits) -> None:
    """The process is alive, but the talk with it is over."""
    if isinstance(error, DeadlineError):
        tally.missed(CodeGrade.TIMEOUT, f"no answer within {limits.timeout_s:g} s")
    elif isinstance(error, CostlyValueError):
        tally.missed(CodeGrade.RESOURCE, f"the result is {error}", Attack.COSTLY_RESULT)
    elif isinstance(error, OversizeError):
        tally.missed(CodeGrade.RESOURCE, f"the result has {error}")
    elif isinstance(error, WireError):
        tally.missed(CodeGrade.ERROR, f"it sent {error}", Attack.FORGED_REPLY)
    else:
        raise error


def ended(tally: Tally, ending: Ending, limits: Limits) -> None:
    """The process ended before it had answered.

    Raises:
        SandboxFaultError: Something outside the sandbox killed it.
    """
    number = ending.signal_number
    has_used_time = ending.cpu_s >= limits.timeout_s
    if number == signal.SIGSYS:
        tally.missed(CodeGrade.ERROR, "it made a system call that is blocked", Attack.BLOCKED_CALL)
    elif number in (signal.SIGXCPU, signal.SIGKILL) and has_used_time:
        tally.missed(CodeGrade.TIMEOUT, f"it used {ending.cpu_s:.1f} s of processor time")
    elif number == signal.SIGKILL:
        raise SandboxFaultError(
            "the process was killed from outside; is the machine out of memory?"
        )
    elif number and ending.kib * 1024 >= _NEARLY_ALL * limits.memory_mb * (1 << 20):
        tally.missed(CodeGrade.RESOURCE, f"it crashed with {ending.kib >> 10} MiB in use")
    elif number:
        tally.missed(CodeGrade.ERROR, f"it crashed with {ending.signal_name}", Attack.ENDED_PROCESS)
    else:
        tally.missed(
            CodeGrade.ERROR,
            f"it ended its process with status {ending.exit_code} instead of answering",
            Attack.ENDED_PROCESS,
        )
