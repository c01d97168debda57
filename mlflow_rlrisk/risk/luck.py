"""Knowledge or luck? The line that withholds ``low`` where right answers may be chance.

Right answers, rare or frequent, help RL where the checkpoint prefers them. Rollouts that agree show
it: where two that give the same answer are right more often than not, the likelier answers are the
right ones. Where answers hardly repeat, as long texts do, the headroom or first updates stand in.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mlflow_rlrisk.config import PolicyConfig
from mlflow_rlrisk.metrics.catalogue import PREFIX
from mlflow_rlrisk.report_record import Component, Metric
from mlflow_rlrisk.risk.components import HEADROOM

AGREEMENT = PREFIX + "agreement_accuracy"
_MEASURES = {
    AGREEMENT: "share of right ones where two rollouts agree",
    HEADROOM: "pass@1 over critical success",
}
ENOUGH = 50
"""Prompts whose rollouts have to agree for their interval to count, in every policy: were it a line
of the policy, a stricter one could turn a short agreement into a headroom that suffices."""
_FIELDS = {AGREEMENT: "low_agreement_from", HEADROOM: "low_headroom_from"}


@dataclass(frozen=True, slots=True, kw_only=True)
class LuckLine:
    """A metric that ``low`` needs with its whole interval at or above a line.

    Attributes:
        name: Full name of the metric; larger is safer.
        metric: What was measured.
        line: Where the policy draws the line.
    """

    name: str
    metric: Metric
    line: float

    @property
    def field(self) -> str:
        """The field of `PolicyConfig` that draws the line."""
        return _FIELDS[self.name]

    @property
    def measure(self) -> str:
        """What was measured, for people."""
        return _MEASURES[self.name]

    @property
    def is_short(self) -> bool:
        """Whether it withholds ``low``."""
        return self.metric.ci_low < self.line


def luck_line(
    metrics: Mapping[str, Metric], components: Sequence[Component], policy: PolicyConfig
) -> LuckLine | None:
    """What is asked for: agreement, or headroom where fewer than `ENOUGH` prompts tell it.

    The headroom not where the run's first updates were tried, which tell more than it does.

    Args:
        metrics: Metrics by full name.
        components: What was assessed: the headroom counts where the policy names it.
        policy: The lines.
    """
    names = {part.name for part in components}
    found = metrics.get(AGREEMENT)
    if policy.low_agreement_from > 0.0 and found and found.num_prompts >= ENOUGH:
        return LuckLine(name=AGREEMENT, metric=found, line=policy.low_agreement_from)
    if "headroom" not in names or "lookahead" in names:
        return None
    return LuckLine(name=HEADROOM, metric=metrics[HEADROOM], line=policy.low_headroom_from)
