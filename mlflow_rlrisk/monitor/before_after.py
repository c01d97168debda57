"""What the report before RL said, laid beside what the run then did."""

from dataclasses import asdict, dataclass
from typing import Any

from mlflow_rlrisk.monitor.judgement import Judgement
from mlflow_rlrisk.monitor.trainers import ADAPTERS
from mlflow_rlrisk.report_record import RiskReport

START_STEPS = 10
_PAIRS = (
    ("rlrisk/pass_at_1", "success"),
    ("rlrisk/frac_reward_zero_std", "zero_variance"),
    ("rlrisk/token_entropy_token_mean", "entropy"),
    ("rlrisk/truncated_share", "truncated"),
    ("rlrisk/completion_tokens", "length"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """One figure of the report and of the run.

    Attributes:
        metric: Name in the report.
        predicted: Its value.
        ci_low: Lower end of its interval.
        ci_high: Upper end.
        at_start: Median of the run's first steps.
        at_end: Last value of the run.
        is_inside: Whether the run started inside the interval. The interval is that of the
            report's prompts; a step of few prompts strays further.
    """

    metric: str
    predicted: float
    ci_low: float
    ci_high: float
    at_start: float
    at_end: float
    is_inside: bool

    def to_dict(self) -> dict[str, Any]:
        """The entry as JSON values."""
        return asdict(self)


def before_after(report: RiskReport, judgement: Judgement) -> list[Prediction]:
    """Every figure that both have of one quantity.

    Entropies only where the trainer's are of the same kind, dead groups only of the same size.

    Args:
        report: Of the checkpoint that the run started from.
        judgement: Of the run.
    """
    adapter = ADAPTERS.get(judgement.trainer or "")
    found = []
    for metric, name in _PAIRS:
        value, track = report.metrics.get(metric), judgement.curves.get(name)
        if value is None or track is None:
            continue
        if name == "entropy" and (adapter is None or not adapter.entropy.levels_compare):
            continue
        if name == "zero_variance" and judgement.group_size not in (None, report.config.group_size):
            continue
        start = track.start(START_STEPS)
        found.append(
            Prediction(
                metric=metric,
                predicted=value.value,
                ci_low=value.ci_low,
                ci_high=value.ci_high,
                at_start=start,
                at_end=track.values[-1],
                is_inside=value.ci_low <= start <= value.ci_high,
            )
        )
    return found


def prediction_lines(report: RiskReport, predictions: list[Prediction]) -> list[str]:
    """The comparison as text, the report's level first."""
    lines = [f"before RL the report said: risk {report.risk_level}"]
    for each in predictions:
        mark = "as predicted" if each.is_inside else "outside the interval"
        lines.append(
            f"  {each.metric.removeprefix('rlrisk/'):<26} predicted {each.predicted:.3f} "
            f"[{each.ci_low:.3f}, {each.ci_high:.3f}]  run {each.at_start:.3f} -> "
            f"{each.at_end:.3f}  {mark}"
        )
    return lines
