"""What a rule says: an alarm with its evidence, and where the line comes from."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from mlflow_rlrisk.monitor.policy import RuleId


class Severity(StrEnum):
    """How bad an alarm is."""

    WARN = "warn"
    CRITICAL = "critical"


TITLES: Mapping[str, str] = {
    "R1": "entropy drop",
    "R2": "entropy surge",
    "R3": "success below critical",
    "R4": "zero-variance groups",
    "R5": "no gradient",
    "R6": "truncation",
    "R7": "trainer-sampler mismatch",
    "R8": "length explosion",
    "R9": "entropy law",
    "R10": "outcome",
}

LINES: Mapping[str, str] = {
    "R1": "tau_2",
    "R2": "entropy_surge",
    "R3": "p_star_8",
    "R4": "zero_variance",
    "R5": "zero_gradient",
    "R6": "clip_share",
    "R7": "verl_health",
    "R8": "length_growth",
    "R9": "entropy_law",
}
"""Entry of `thresholds.REGISTRY` that says where a rule's line comes from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """One rule, beyond its line.

    Attributes:
        rule: ``R1`` to ``R8``.
        step: First step beyond the line of the stretch that raised the alarm.
        severity: ``warn`` or ``critical``.
        value: What was measured there.
        threshold: The line.
        evidence: The series, the window, the step at which the alarm was sure, the margin, the
            line's source and scope, and a sentence.
    """

    rule: RuleId
    step: int
    severity: Severity
    value: float
    threshold: float
    evidence: Mapping[str, Any]

    @property
    def confirmed_step(self) -> int:
        """The step at which the alarm could be raised."""
        return int(self.evidence["confirmed_step"])

    @property
    def message(self) -> str:
        """One sentence."""
        return str(self.evidence["message"])

    def to_dict(self) -> dict[str, Any]:
        """The alarm as JSON values."""
        return {
            "rule": self.rule,
            "step": self.step,
            "severity": str(self.severity),
            "value": self.value,
            "threshold": self.threshold,
            "evidence": dict(self.evidence),
        }
