"""Evidence that is missing for a verdict; where there is any, the level is ``unknown``."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from mlflow_rlrisk.config import PolicyConfig
from mlflow_rlrisk.metrics.catalogue import PREFIX
from mlflow_rlrisk.plurals import counted
from mlflow_rlrisk.report_record import Metric
from mlflow_rlrisk.risk.components import CORE, SIGNAL, STAND_IN, STARVED, TRUNCATED


class GapKind(StrEnum):
    """Why the evidence does not suffice."""

    UNDEFINED = "undefined"
    PROMPTS = "prompts"
    OTHER_PROMPTS = "other_prompts"
    TRUNCATED = "truncated"
    FAILED = "failed"
    ABSTAINED = "abstained"


UNJUDGED = {
    PREFIX + "verifier_failure_share": (GapKind.FAILED, "failed on"),
    PREFIX + "verifier_abstained_share": (GapKind.ABSTAINED, "returned None for"),
}
"""Shares of rollouts without a reward, each held to `AssessmentConfig.max_failed_share`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """One piece of missing evidence; ``subject`` is the full name of an undefined metric."""

    kind: GapKind
    reason: str
    subject: str = ""


def evidence_gaps(
    metrics: Mapping[str, Metric],
    undefined: Mapping[str, str],
    *,
    policy: PolicyConfig,
    max_failed_share: float,
    num_prompts: int,
    expected_digest: str | None,
    prompts_digest: str | None,
) -> tuple[Gap, ...]:
    """What is missing for a verdict; empty when the evidence suffices."""
    core = [metric for component, metric in CORE.items() if component in policy.components]
    gaps = [
        Gap(
            kind=GapKind.UNDEFINED,
            reason=f"{name} is undefined: {undefined.get(name, 'not measured')}",
            subject=name,
        )
        for name in dict.fromkeys([SIGNAL, STARVED, *core])
        if name not in metrics and STAND_IN.get(name) not in metrics
    ]
    if num_prompts < policy.min_prompts:
        some = counted(num_prompts, "prompt")
        reason = f"only {some} assessed, the policy asks for at least {policy.min_prompts}"
        gaps.append(Gap(kind=GapKind.PROMPTS, reason=reason))
    if expected_digest is not None and expected_digest != prompts_digest:
        reason = "the prompts are not those of the RL run: their digests differ"
        gaps.append(Gap(kind=GapKind.OTHER_PROMPTS, reason=reason))
    truncated = metrics.get(TRUNCATED)
    if truncated is not None and truncated.value > policy.max_truncated_share:
        which = "most" if truncated.value > 0.5 else "these"
        reason = (
            f"{truncated.value:.1%} of the rollouts were truncated, more than "
            f"{policy.max_truncated_share:.1%}: {which} answers were never finished"
        )
        gaps.append(Gap(kind=GapKind.TRUNCATED, reason=reason))
    for name, (kind, what) in UNJUDGED.items():
        share = metrics.get(name)
        if share is not None and share.value > max_failed_share:
            reason = (
                f"the verifier {what} {share.value:.1%} of the rollouts, more than "
                f"{max_failed_share:.1%}: their rewards are not known"
            )
            gaps.append(Gap(kind=kind, reason=reason))
    return tuple(gaps)
