"""How many prompts would tell a value from the line that its interval crosses."""

import math
from collections.abc import Sequence

from mlflow_rlrisk.config import PolicyConfig
from mlflow_rlrisk.report_record import Component, Metric
from mlflow_rlrisk.risk.luck import LuckLine

MOST_PROMPTS_ADVISED = 100_000
"""Beyond it "sample more prompts" is no advice: the value lies on the line."""


def prompts_needed(
    index: Metric,
    short: LuckLine | None,
    components: Sequence[Component],
    signal: Metric,
    policy: PolicyConfig,
) -> list[str]:
    """A step for each interval of a ``medium`` that has to come to one side of its line.

    Args:
        index: The risk index; all steps are reckoned from its number of prompts.
        short: The line of luck that is not met, if that is what withholds ``low``.
        components: Components of the index, in the order in which they are named.
        signal: The group signal.
        policy: The lines.
    """
    reach = max(index.value - index.ci_low, index.ci_high - index.value)
    crossed = [
        ("the risk index", index.value, line, reach)
        for line in (policy.low_below, policy.high_from)
        if index.ci_low < line <= index.ci_high
    ]
    if short is not None and short.line <= short.metric.ci_high:
        crossed.append((short.measure, short.metric.value, short.line, _half(short.metric)))
    lines = (policy.low_signal_from, policy.veto_signal_below)
    for line in [line for line in lines if signal.ci_low < line <= signal.ci_high][:1]:
        crossed.append(("group signal", signal.value, line, _half(signal)))
    for part in components:
        if part.straddles:
            line = part.ok + policy.max_component * (part.bad - part.ok)
            crossed.append((part.measure, part.x, line, (part.x_high - part.x_low) / 2.0))
    return [_resolve(*each, index.num_prompts) for each in crossed]


def _half(metric: Metric) -> float:
    return (metric.ci_high - metric.ci_low) / 2.0


def _resolve(what: str, value: float, line: float, half_width: float, num_prompts: int) -> str:
    distance = abs(value - line)
    wanted = math.inf if distance == 0.0 else num_prompts * (half_width / distance) ** 2
    if wanted > MOST_PROMPTS_ADVISED:
        return f"{what} lies on its decision line {line:.3g}: more prompts will not separate them"
    return (
        f"need about {max(math.ceil(wanted), num_prompts + 1)} prompts (now {num_prompts}) to "
        f"tell {what} {value:.3g} from the line {line:.3g}"
    )
