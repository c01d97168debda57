"""Figures of a calibration: did the chances come true, and what would blocking have saved?"""

from typing import Any

from mlflow_rlrisk.calibration.record import CalibrationRecord
from mlflow_rlrisk.plurals import counted
from mlflow_rlrisk.sinks.svg import ACCENT, LINE, MUTED, STARVED, one_figure


def reliability_figure(record: CalibrationRecord) -> str:
    """Predicted chance of failure beside the share that failed, out of lineage, as SVG.

    Args:
        record: With a validation.
    """
    bins = record.content["validation"]["reliability"]
    predicted = [each["mean_predicted"] for each in bins]
    observed = [each["observed"] for each in bins]
    alt = "Out of lineage: " + "; ".join(
        f"of {counted(each['num_rows'], 'checkpoint')} predicted to fail with "
        f"{each['mean_predicted']:.0%}, "
        f"{each['observed']:.0%} did"
        for each in bins
    )

    def draw(axes: Any) -> None:
        axes.plot([0, 1], [0, 1], color=LINE, linewidth=1.2)
        axes.text(0.98, 0.04, "grey line: as predicted", color=MUTED, ha="right", fontsize=8)
        below = [y - each["low"] for y, each in zip(observed, bins, strict=True)]
        above = [each["high"] - y for y, each in zip(observed, bins, strict=True)]
        axes.errorbar(
            predicted,
            observed,
            yerr=[below, above],
            color=ACCENT,
            fmt="o-",
            linewidth=1.6,
            elinewidth=1,
            markersize=5,
        )
        for x, y, each in zip(predicted, observed, bins, strict=True):
            aside = (-7, -3) if x > 0.85 else (7, 4 if y < 0.1 else -10)
            axes.annotate(
                f"n={each['num_rows']}",
                (x, y),
                aside,
                textcoords="offset points",
                ha="right" if x > 0.85 else "left",
                fontsize=8,
            )
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.02, 1.02)
        axes.set_xlabel("predicted chance of failure")
        axes.set_ylabel("share that failed")
        axes.grid()

    return one_figure("reliability", alt, draw)


def decision_figure(record: CalibrationRecord) -> str:
    """Cost of failed runs saved against good runs blocked, for every threshold, as SVG.

    Args:
        record: With a validation.
    """
    curve = record.content["validation"]["decision_curve"]
    points, unit = curve["points"], curve["unit"]
    num_good = record.content["num_outcomes"] - record.content["num_failed"]
    good = [0.0, *(each["good_blocked"] / num_good for each in points)]
    saved = [0.0, *(each["hours_saved"] for each in points)]
    free = max((s for g, s in zip(good, saved, strict=True) if g == 0.0), default=0.0)
    alt = (
        f"Blocking by the predicted chance saves {free:.3g} of {curve['total_failed']:.3g} "
        f"{unit} of failed runs before the first good run is blocked."
    )

    def draw(axes: Any) -> None:
        axes.plot([0, 1], [0, curve["total_failed"]], color=LINE, linewidth=1.2)
        axes.text(0.97, curve["total_failed"] * 0.84, "by lot", color=MUTED, ha="right", fontsize=8)
        axes.plot(good, saved, color=ACCENT, linewidth=2, drawstyle="steps-post")
        axes.plot([0.0], [free], marker="o", color=STARVED, clip_on=False)
        # In the corner that a useful score leaves free: at the dot the axes run.
        note = f"dot: {free:.3g} with no good run blocked"
        axes.text(0.97, 0.04, note, transform=axes.transAxes, color=MUTED, ha="right", fontsize=8)
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(0, curve["total_failed"] * 1.06)
        axes.set_xlabel("share of good runs blocked")
        axes.set_ylabel(f"{unit} of failed runs saved")
        axes.grid()

    return one_figure("decision", alt, draw)
