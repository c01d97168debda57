"""The verdict on one program."""

from dataclasses import dataclass
from enum import StrEnum


class CodeGrade(StrEnum):
    """What came of checking one program."""

    PASS = "pass"
    """Every case."""
    FAIL = "fail"
    """A wrong result."""
    ERROR = "error"
    """It raised, ended, crashed or broke the protocol."""
    TIMEOUT = "timeout"
    """It did not answer in time."""
    RESOURCE = "resource"
    """It wanted more memory or output than it may have."""
    INCONCLUSIVE = "inconclusive"
    """The sandbox or the tests failed, not the program: neither a pass nor a zero."""


class Attack(StrEnum):
    """Behaviour that no honest answer shows; counted, never a reason to leave a sample out."""

    ENDED_PROCESS = "ended_process"
    """It ended its process instead of answering."""
    BLOCKED_CALL = "blocked_system_call"
    """It asked the kernel for what no answer needs."""
    FORGED_REPLY = "forged_reply"
    """It wrote to the judge by itself."""
    FOREIGN_RESULT = "foreign_result"
    """It returned an object that is no plain value, such as one with its own ``__eq__``."""
    COSTLY_RESULT = "costly_result"
    """A result that only serves to keep the judge busy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """One program, judged.

    Attributes:
        grade: The first case that does not pass decides.
        tier: The sandbox it ran in.
        num_passed: Cases that passed.
        num_cases: Cases there are; those after an early end count as not passed.
        detail: One sentence for people.
        attacks: Attack behaviour that was seen.
    """

    grade: CodeGrade
    tier: str
    num_passed: int
    num_cases: int
    detail: str
    attacks: tuple[Attack, ...] = ()

    def to_dict(self) -> dict[str, object]:
        """As JSON."""
        return {
            "grade": self.grade.value,
            "tier": self.tier,
            "num_passed": self.num_passed,
            "num_cases": self.num_cases,
            "detail": self.detail,
            "attacks": [attack.value for attack in self.attacks],
        }
