"""Policies from YAML, and the decision: may this checkpoint start RL under this policy?

`decide` reads the level; it does not judge again. A report that was judged under other lines is
``inconclusive``: its intervals belong to those lines, and `rlrisk rescore` judges the stored
rollouts anew.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from os import PathLike
from pathlib import Path
from typing import Any

from mlflow_rlrisk.calibration.formula import formula_digest
from mlflow_rlrisk.calibration.record import CalibrationRecord
from mlflow_rlrisk.config import CalibrationUse, PolicyConfig
from mlflow_rlrisk.errors import ConfigError
from mlflow_rlrisk.report_record import RiskLevel, RiskReport
from mlflow_rlrisk.yaml_settings import read_settings

_SEVERITY = {RiskLevel.LOW: 0, RiskLevel.MEDIUM: 1, RiskLevel.HIGH: 2}
_NOT_A_LINE = ("name", "required_level")
CALIBRATION = "calibration"
"""The setting that names a file."""


class Outcome(StrEnum):
    """What a gate does."""

    PROMOTE = "promote"
    BLOCK = "block"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The outcome with its reasons.

    Attributes:
        outcome: Promote, block, or inconclusive (which must not promote).
        reasons: Why, never empty.
        next_steps: What to do; empty when promoted.
        policy_digest: Digest of the policy that was applied.
        report_digest: Digest of the report that was read.
    """

    outcome: Outcome
    reasons: tuple[str, ...]
    next_steps: tuple[str, ...]
    policy_digest: str
    report_digest: str

    def to_dict(self) -> dict[str, Any]:
        """The decision as JSON values."""
        raw = asdict(self)
        return {
            **raw,
            "outcome": str(self.outcome),
            "reasons": list(self.reasons),
            "next_steps": list(self.next_steps),
        }


def load_policy(path: str | PathLike[str]) -> PolicyConfig:
    """Read a policy from a YAML file; settings that are absent keep their defaults.

    ``components`` replaces the default components as a whole, so that a file shows every
    component that its policy assesses. ``calibration`` is the path of a record of
    ``rlrisk calibrate``, relative to the file; one that may not be used is named with its reason
    and changes no level, one that cannot be read or was changed is an error.

    Raises:
        ConfigError: The file cannot be read, is no mapping, or a setting is unknown or unusable.
    """
    return policy_of(read_settings(path, "policy"), Path(path).parent)


def policy_of(settings: Mapping[str, Any], folder: Path) -> PolicyConfig:
    """The policy that settings of a file in ``folder`` make, as `load_policy` says.

    Raises:
        ConfigError: A setting is unknown or unusable, or its calibration cannot be used.
    """
    lines = {name: value for name, value in settings.items() if name != CALIBRATION}
    policy = PolicyConfig(**lines)
    if (named := settings.get(CALIBRATION)) is not None:
        if not isinstance(named, str):
            raise ConfigError(CALIBRATION, named, "must be the path of a calibration record")
        policy = policy.model_copy(update={CALIBRATION: _calibration_use(folder / named, policy)})
    return policy


def _calibration_use(path: Path, policy: PolicyConfig) -> CalibrationUse:
    """The record as the policy holds it; one of another index, or no better, is not used."""
    record = CalibrationRecord.read(path)
    reason = "; ".join(record.reasons)
    if record.feature == "lookahead_reach":
        is_same = "lookahead" in policy.components
        if not is_same:
            reason = "it calibrates lookahead_reach, and lookahead is no component of the policy"
    else:
        is_same = record.formula == formula_digest(policy.components)
        if not is_same:
            reason = "it calibrates an index of other components or lines than the policy's"
    is_used = record.is_used and is_same
    return CalibrationUse(
        record=record.digest,
        used=is_used,
        reason=reason,
        num_outcomes=record.content["num_outcomes"],
        num_lineages=len(record.content["lineages"]),
        feature="lookahead_reach" if record.feature == "lookahead_reach" else "risk_index",
        curve=tuple((x, p) for x, p in record.curve) if is_used else (),
    )


def decide(report: RiskReport, policy: PolicyConfig) -> Decision:
    """Apply ``policy`` to a report; never raises on a well-formed one.

    ``unknown`` is inconclusive. A level above ``policy.required_level`` blocks. The rest is
    promoted.
    """
    if _lines(policy) != _lines(report.policy):
        return _decision(
            report,
            policy,
            Outcome.INCONCLUSIVE,
            (
                f"the report was judged under policy {report.policy.name!r}, "
                f"whose lines are not those of {policy.name!r}",
            ),
            ("judge the stored rollouts under this policy: rlrisk rescore DIR --policy FILE",),
        )
    if report.risk_level is RiskLevel.UNKNOWN:
        return _decision(report, policy, Outcome.INCONCLUSIVE, report.reasons, report.next_steps)
    required = RiskLevel(policy.required_level)
    if _SEVERITY[report.risk_level] > _SEVERITY[required]:
        verdict = f"risk level {report.risk_level} is above {required}, the riskiest allowed"
        reasons = (verdict, *report.reasons)
        return _decision(report, policy, Outcome.BLOCK, reasons, report.next_steps)
    verdict = f"risk level {report.risk_level} is within {required}, the riskiest allowed"
    return _decision(report, policy, Outcome.PROMOTE, (verdict, *report.reasons), ())


def _lines(policy: PolicyConfig) -> dict[str, Any]:
    """What the level depends on: not the policy's name, nor which level is allowed."""
    return {
        name: value
        for name, value in policy.model_dump(mode="json").items()
        if name not in _NOT_A_LINE
    }


def _decision(
    report: RiskReport,
    policy: PolicyConfig,
    outcome: Outcome,
    reasons: tuple[str, ...],
    next_steps: tuple[str, ...],
) -> Decision:
    return Decision(
        outcome=outcome,
        reasons=reasons,
        next_steps=next_steps,
        policy_digest=policy.digest(),
        report_digest=report.digest,
    )
