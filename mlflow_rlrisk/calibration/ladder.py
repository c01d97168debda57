"""What so many outcomes allow: nothing, a small logistic regression, or an isotonic one."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import numpy as np

from mlflow_rlrisk.calibration.curves import Curve, Kind, fit_curve
from mlflow_rlrisk.calibration.formula import RULE, formula_digest
from mlflow_rlrisk.calibration.record import KIND, SCHEMA_VERSION, CalibrationRecord
from mlflow_rlrisk.calibration.rows import FAILED_RULE, LeftOut, OutcomeRow
from mlflow_rlrisk.calibration.validation import (
    CONSTANT,
    FEATURES,
    INDEX,
    LOOKAHEAD,
    Validation,
    risks_of,
    validate,
)
from mlflow_rlrisk.config import ComponentConfig
from mlflow_rlrisk.errors import ConfigError
from mlflow_rlrisk.plurals import counted
from mlflow_rlrisk.statistics.counts import FloatVector
from mlflow_rlrisk.statistics.discrimination import (
    decision_curve,
    expected_calibration_error,
    reliability_bins,
)

MIN_OUTCOMES = 8
"""Below it one outcome more or less turns every figure over."""
MIN_LINEAGES = 3
"""Leaving one out must leave two, or lineage and risk are one."""
MOST_FOR_LOGISTIC = 30
MIN_FOR_ECE = 50
"""A calibration error over bins of fewer than ten each is mostly noise."""
REACH = f"rlrisk/{LOOKAHEAD}"
_BINS = 5
_KNOTS = 101
_CURVE_ERROR = 1e-3
"""By how much a straight line between two points of the table may miss the curve."""


def calibrate(
    rows: Sequence[OutcomeRow],
    components: Mapping[str, ComponentConfig],
    *,
    left_out: Sequence[LeftOut] = (),
    min_gain: float | None = None,
    quantity: str = "pass_at_1",
    feature: str = INDEX,
) -> CalibrationRecord:
    """Fit what the outcomes allow, validate it out of lineage, and record both.

    Args:
        rows: Outcomes, any order; the record does not depend on it.
        components: Lines of the index that is calibrated.
        left_out: Checkpoints that could not be used; they are recorded with their reasons.
        min_gain: The least gain that was asked of a run; recorded with the rule of failure.
        quantity: What ``final`` and ``gain`` of the rows are.
        feature: What is calibrated: ``risk_index``, or ``lookahead_reach``, which knows the run. A
            row without it is left out.

    Returns:
        The record, with ``used`` false and the reasons where nothing can be calibrated.

    Raises:
        ConfigError: There is no such feature.
    """
    if feature not in FEATURES:
        raise ConfigError("feature", feature, f"known: {', '.join(FEATURES)}")
    ordered = sorted(rows, key=lambda row: (row.lineage, row.checkpoint))
    ordered, without = _with_feature(ordered, feature)
    left_out = [*left_out, *without]
    kind, reasons = _kind(ordered)
    is_used = False
    model: dict[str, Any] = {"kind": str(kind), "feature": feature, "curve": []}
    validation: dict[str, Any] | None = None
    predicted: list[float | None] = [None] * len(ordered)
    if kind is not Kind.NONE:
        found = validate(ordered, kind, feature)
        is_used, reasons = _verdict(found, feature)
        model["curve"] = _curve(ordered, kind, feature)
        validation = _validation(ordered, found, feature)
        predicted = [float(chance) for chance in found.predicted]
    lineages = sorted({row.lineage for row in ordered})
    return CalibrationRecord(
        {
            "schema_version": SCHEMA_VERSION,
            "kind": KIND,
            "code_version": version("mlflow-rlrisk"),
            "formula": {
                "digest": formula_digest(components),
                "rule": RULE,
                "components": {n: c.model_dump(mode="json") for n, c in components.items()},
            },
            "outcome": {"quantity": quantity, "failed": FAILED_RULE, "min_gain": min_gain},
            "num_outcomes": len(ordered),
            "num_failed": sum(row.failed for row in ordered),
            "num_preregistered": sum(row.is_preregistered is True for row in ordered),
            "lineages": {
                name: {
                    "num_outcomes": sum(row.lineage == name for row in ordered),
                    "num_failed": sum(row.failed for row in ordered if row.lineage == name),
                }
                for name in lineages
            },
            "left_out": [asdict(each) for each in left_out],
            "model": model,
            "validation": validation,
            "used": is_used,
            "reasons": reasons,
            "rows": [
                {
                    "lineage": row.lineage,
                    "checkpoint": row.checkpoint,
                    "risk_index": row.index,
                    **({} if feature == INDEX else {feature: row.metrics[REACH]}),
                    "failed": row.failed,
                    "final": row.final,
                    "gain": row.gain,
                    "hours": row.hours,
                    "num_runs": row.num_runs,
                    "predicted": chance,
                }
                for row, chance in zip(ordered, predicted, strict=True)
            ],
        }
    )


def _with_feature(
    rows: Sequence[OutcomeRow], feature: str
) -> tuple[list[OutcomeRow], list[LeftOut]]:
    if feature == INDEX:
        return list(rows), []
    reason = (
        f"its report has no {feature}: the first updates of its run were not tried, or said nothing"
    )
    missing = [row for row in rows if REACH not in row.metrics]
    return (
        [row for row in rows if REACH in row.metrics],
        [LeftOut(checkpoint=row.checkpoint, reason=reason) for row in missing],
    )


def _kind(rows: Sequence[OutcomeRow]) -> tuple[Kind, list[str]]:
    """What may be fitted, and why nothing may."""
    lineages, failed = {row.lineage for row in rows}, sum(row.failed for row in rows)
    if len(rows) < MIN_OUTCOMES:
        return Kind.NONE, [
            f"{counted(len(rows), 'checkpoint has', 'checkpoints have')} an outcome: nothing is "
            f"calibrated below {MIN_OUTCOMES}"
        ]
    if len(lineages) < MIN_LINEAGES:
        return Kind.NONE, [
            f"{counted(len(lineages), 'lineage has', 'lineages have')} outcomes: "
            f"out of lineage nothing can be shown below {MIN_LINEAGES}"
        ]
    if failed in (0, len(rows)):
        which = "none" if failed == 0 else "each"
        return Kind.NONE, [f"{which} of the {len(rows)} checkpoints failed: no line to be found"]
    return (Kind.LOGISTIC if len(rows) <= MOST_FOR_LOGISTIC else Kind.ISOTONIC), []


def _verdict(found: Validation, feature: str) -> tuple[bool, list[str]]:
    """Used only where no other prediction has a Brier score as small, out of lineage."""
    named = "the index" if feature == INDEX else feature
    own = found.scores[feature].brier
    rivals = {name: each.brier for name, each in found.scores.items() if name != feature}
    ahead = {
        name: brier
        for name, brier in rivals.items()
        if (brier <= own and name not in found.alike) or (name == CONSTANT and found.is_constant)
    }
    untested = [f"{name} makes the same predictions as {named}" for name in found.alike]
    untested += [f"{name} could not be compared: {why}" for name, why in found.undefined.items()]
    if ahead:
        told = ", ".join(f"{name} {brier:.4f}" for name, brier in sorted(ahead.items()))
        return False, [f"out of lineage {named} has Brier score {own:.4f}: {told}", *untested]
    best = min(rivals, key=lambda name: rivals[name])
    return True, [
        f"out of lineage {named} has Brier score {own:.4f}, the best rival "
        f"({best}) {rivals[best]:.4f}",
        *untested,
    ]


def _curve(rows: Sequence[OutcomeRow], kind: Kind, feature: str) -> list[list[float]]:
    """The curve of all outcomes as a table, so that applying it needs no code of the fit.

    Beyond the least and the largest score that was seen it is flat, but an index has its range.
    """
    scores = np.asarray(risks_of(rows, feature), dtype=float)
    curve = fit_curve(
        kind, scores, np.array([row.failed for row in rows]), [row.lineage for row in rows]
    )
    ends = (0.0, 1.0) if feature == INDEX else (float(scores.min()), float(scores.max()))
    if kind is Kind.ISOTONIC:
        at = np.unique(np.concatenate([ends, scores]))
    else:
        at = _knots(curve, np.unique(np.linspace(*ends, _KNOTS)))
    return [[float(x), float(p)] for x, p in zip(at, curve(at), strict=True)]


def _knots(curve: Curve, at: FloatVector) -> FloatVector:
    """Points between which the curve is straight: more of them where it is steep."""
    while True:
        inner = np.linspace(at[:-1], at[1:], 5)[1:-1]
        missed = np.abs(np.interp(inner, at, curve(at)) - curve(inner)).max(axis=0) > _CURVE_ERROR
        if not missed.any():
            return at
        at = np.unique(np.concatenate([at, inner[:, missed].ravel()]))


def _validation(rows: Sequence[OutcomeRow], found: Validation, feature: str) -> dict[str, Any]:
    failed = np.array([row.failed for row in rows])
    bins = reliability_bins(found.predicted, failed, _BINS)
    known = [row.hours for row in rows]
    is_timed = all(hours is not None for hours in known)
    hours = [hours if is_timed and hours is not None else 1.0 for hours in known]
    enough = len(rows) >= MIN_FOR_ECE
    return {
        "method": "leave one lineage out; intervals have lineages as their units",
        "predictors": {name: asdict(score) for name, score in found.scores.items()},
        "undefined": dict(found.undefined),
        "baselines": [name for name in found.scores if name not in (feature, CONSTANT)],
        "reliability": [each._asdict() for each in bins],
        "ece": expected_calibration_error(bins) if enough else None,
        "ece_undefined": None if enough else f"fewer than {MIN_FOR_ECE} outcomes",
        "decision_curve": {
            "unit": "device hours" if is_timed else "runs",
            "total_failed": float(np.sum(np.array(hours)[failed])),
            "total_good": float(np.sum(np.array(hours)[~failed])),
            "points": [e._asdict() for e in decision_curve(found.predicted, failed, hours)],
        },
    }
