"""How a run came out, with the definition it was measured by (R10)."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from mlflow_rlrisk.errors import HistoryError

OUTCOME_VERSION = 3
_MEANS = ("peak", "final", "gain", "regression_from_peak")
"""What a record averages over the runs of a version."""
RUN_DEFINITION = (
    "training success of every logged step, not smoothed: peak is the highest, final the last "
    "finite one, "
    "mean the area under the curve over its length; regression is peak less final. Once a run has "
    "diverged into NaN its success is 0, its reward of an unknown scale the lowest it had logged. "
    "Collapsed is a run that diverged, or was to be stopped at a success of 1 - p*(g) or less"
)
ASSESSMENT_DEFINITION = (
    "pass@1 of a second assessment of the RL checkpoint on the same prompts: final; the peak "
    "during the run is not known, so peak is the higher of before and after"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOutcome:
    """What RL made of a checkpoint.

    Attributes:
        quantity: ``success`` (a share), ``reward`` where its scale is unknown, or ``pass_at_1``.
        start: First value.
        peak: Highest value.
        final: Last value that is a number, unless the run had diverged by then (`definition`).
        mean: Mean over steps (trapezoid); ``None`` for a single point.
        step_of_peak: Where the peak is first reached; ``None`` without a run.
        regression_from_peak: ``peak - final``, at least 0.
        first_step: First step with a value.
        last_step: Last one.
        num_points: Values.
        definition: How all this is defined.
        collapsed: Whether the run was dead or advised to stop, other than for having solved its
            prompts; ``None`` without a run.
        version: Of the definition.
    """

    quantity: str
    start: float
    peak: float
    final: float
    mean: float | None
    step_of_peak: int | None
    regression_from_peak: float
    first_step: int | None
    last_step: int | None
    num_points: int
    definition: str
    collapsed: bool | None = None
    version: int = OUTCOME_VERSION

    @property
    def gain(self) -> float:
        """``final - start``."""
        return self.final - self.start

    def to_dict(self) -> dict[str, Any]:
        """The outcome as JSON values."""
        return {**asdict(self), "gain": self.gain}


def run_outcome(
    steps: Sequence[int], values: Sequence[float], *, quantity: str, collapsed: bool
) -> RunOutcome | None:
    """Outcome of a training curve; ``None`` where it has no point.

    Args:
        steps: Logged steps, ascending.
        values: Success or reward at each.
        quantity: What the values are.
        collapsed: Whether the run was advised to stop and had not solved its prompts.
    """
    if not values:
        return None
    peak = max(values)
    area = sum(
        (b - a) * (values[i] + values[i + 1]) / 2.0 for i, (a, b) in enumerate(pairwise(steps))
    )
    span = steps[-1] - steps[0]
    return RunOutcome(
        quantity=quantity,
        start=values[0],
        peak=peak,
        final=values[-1],
        mean=area / span if span else None,
        step_of_peak=steps[list(values).index(peak)],
        regression_from_peak=peak - values[-1],
        first_step=steps[0],
        last_step=steps[-1],
        num_points=len(values),
        definition=RUN_DEFINITION,
        collapsed=collapsed,
    )


def recorded_outcomes(tag: str | None) -> list[dict[str, Any]]:
    """The runs of an outcome tag of a model version, oldest first; none where there is no tag.

    Each is a `RunOutcome` as a mapping, with ``run`` (its id or the RL checkpoint) and
    ``recorded_at``.

    Raises:
        HistoryError: The tag holds something else, so that what it says of RL is not known.
    """
    if tag is None:
        return []
    try:
        runs = json.loads(tag)["runs"]
    except (ValueError, RecursionError, KeyError, TypeError, IndexError):
        runs = None
    if not isinstance(runs, list) or not all(map(_is_outcome, runs)):
        raise HistoryError(f"tag rlrisk.outcome={tag[:60]!r}: what rlrisk outcome writes is needed")
    return runs


def _is_outcome(run: Any) -> bool:
    if not isinstance(run, dict) or run.get("collapsed") not in (True, False, None):
        return False
    figures = [run.get(name) for name in ("start", *_MEANS)]
    return all(isinstance(run.get(name), str) for name in ("run", "quantity")) and all(
        isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x) for x in figures
    )


def outcome_record(known: Sequence[dict[str, Any]], run: dict[str, Any]) -> dict[str, Any]:
    """The outcome tag with one more run; the same run again replaces what was said of it.

    Args:
        known: As `recorded_outcomes` reads them.
        run: The outcome, with ``run`` and ``recorded_at``.
    """
    runs = [each for each in known if not is_same_run(each["run"], run["run"])] + [run]
    alike = [each for each in runs if each["quantity"] == run["quantity"]]
    return {
        "status": outcome_word(run),
        "quantity": run["quantity"],
        "num_runs": len(alike),
        **{f"mean_{name}": sum(each[name] for each in alike) / len(alike) for name in _MEANS},
        "runs": runs,
    }


def is_same_run(one: str, other: str) -> bool:
    """Whether two ids are those of one run: equal, or what its log was known by as it grew."""
    shorter, longer = sorted((one, other), key=len)
    return longer == shorter or (shorter.startswith("log ") and longer.startswith(f"{shorter}."))


def outcome_word(run: dict[str, Any]) -> str:
    """``collapsed`` or ``completed`` by the monitor's advice; ``assessed`` without a run."""
    collapsed = run.get("collapsed")
    return "assessed" if collapsed is None else "collapsed" if collapsed else "completed"


def assessed_outcome(before: float, after: float) -> RunOutcome:
    """Outcome by a second assessment of the RL checkpoint.

    Args:
        before: pass@1 of the SFT checkpoint.
        after: pass@1 of the RL checkpoint, on the same prompts.
    """
    return RunOutcome(
        quantity="pass_at_1",
        start=before,
        peak=max(before, after),
        final=after,
        mean=None,
        step_of_peak=None,
        regression_from_peak=max(before - after, 0.0),
        first_step=None,
        last_step=None,
        num_points=2,
        definition=ASSESSMENT_DEFINITION,
    )
