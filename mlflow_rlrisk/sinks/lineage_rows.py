"""The rows of the lineage page's tables: figures with their intervals, in words where undefined."""

from collections.abc import Sequence
from typing import Any

from mlflow_rlrisk.lineage import (
    CoverageChange,
    HeldoutLoss,
    LineageReport,
    ModeChange,
    Pair,
    PairOrder,
    RankEvidence,
)
from mlflow_rlrisk.lineage.measures import Estimate
from mlflow_rlrisk.lineage.pairs import PairedDifference
from mlflow_rlrisk.lineage.phases import PhaseLabel
from mlflow_rlrisk.lineage.table import ENTROPY, HELDOUT, LENGTH, SIGNAL
from mlflow_rlrisk.metrics.catalogue import PREFIX
from mlflow_rlrisk.report_record import Metric
from mlflow_rlrisk.sinks.wording import estimate, interval, shown

RISK_INDEX = PREFIX + "risk_index"
PRESSURE = PREFIX + "entropy_pressure"
_Figure = Metric | Estimate | PairedDifference


def column_label(name: str) -> str:
    """What a column of a metric is headed."""
    if name.startswith(f"{PREFIX}pass_at_"):
        return f"pass@{name.rpartition('_')[2]}"
    words = {
        ENTROPY: "entropy",
        SIGNAL: "signal",
        HELDOUT: "held-out loss",
        RISK_INDEX: "risk index",
        LENGTH: "tokens",
    }
    return words.get(name, name)


def version_row(lineage: LineageReport, place: int, columns: Sequence[str]) -> dict[str, Any]:
    """One version: level, marks, a cell for each column, phase."""
    name = lineage.names[place]
    entry = next(each for each in lineage.ranking.entries if each.model == name)
    marks = ["base"] if name == lineage.base else []
    marks += ["best pass@1"] if name == lineage.choice.best_pass_at_1 else []
    marks += ["start here"] if name == lineage.choice.start_from else []
    marks += [
        f"{'sharpened' if copy.is_sharpened else 'flattened'} copy of {shown(copy.original, 80)}"
        for copy in lineage.rescaled
        if copy.name == name
    ]
    reports = [each.phases for each in lineage.series] or [lineage.phases]
    marks += ["most diverse"] if name in [each.diversity_peak for each in reports] else []
    least = [each.validation_loss_minimum for each in reports]
    marks += ["least held-out loss"] if name in least else []
    label = next((each for each in lineage.phases.labels if each.name == name), None)
    return {
        "name": shown(name, 200),
        "level": str(entry.risk_level),
        "marks": marks,
        "cells": [
            {"label": column_label(each), **_told("value", entry.metrics.get(each), "undefined")}
            for each in columns
        ],
        "phase": "" if label is None else str(label.phase),
        "phase_note": _confidence(label),
    }


def _confidence(label: PhaseLabel | None) -> str:
    if label is None:
        return ""
    agreeing = f"{label.confidence:.0%} of resamples agree"
    return agreeing if label.series is None else f"{shown(label.series, 80)}: {agreeing}"


def duel_rows(lineage: LineageReport, columns: Sequence[str]) -> list[dict[str, str]]:
    """The version to start from and the best by pass@1 side by side, where they are two."""
    pick, best = lineage.choice.start_from, lineage.choice.best_pass_at_1
    if pick is None or best is None or pick == best:
        return []
    left, right = (
        version_row(lineage, lineage.names.index(name), columns) for name in (pick, best)
    )
    rows = [{"label": "risk", "pick": left["level"], "best": right["level"]}]
    return rows + [
        {"label": own["label"], "pick": own["value"], "best": other["value"]}
        for own, other in zip(left["cells"], right["cells"], strict=True)
    ]


def pair_row(pair: Pair) -> dict[str, str]:
    """One pair under one measure."""
    return {
        "first": shown(pair.first, 200),
        "second": shown(pair.second, 200),
        "measure": column_label(pair.measure),
        **_told("by_pass", pair.pass_at_1),
        **_told("difference", pair.difference),
        "probability": f"{pair.probability_inverted:.0%}",
        "resolved": "yes" if pair.order is PairOrder.INVERTED else "no",
    }


def coverage_row(change: CoverageChange) -> dict[str, str]:
    """What one version solves beside the reference."""
    between = ", ".join(f"k = {low} and {high}" for low, high in change.crossings)
    return {
        "name": shown(change.checkpoint, 200),
        "k": str(change.k),
        **_told("lost", change.lost),
        "chance": estimate(change.lost_to_chance),
        **_told("gained", change.gained),
        "prompts": f"{len(change.lost_prompts)} / {len(change.gained_prompts)}",
        "crossings": f"between {between}" if between else "not resolved",
    }


def modes_row(change: ModeChange) -> dict[str, str]:
    """Which answers one version gives beside the reference."""
    found = change.modes
    return {
        "name": shown(change.checkpoint, 200),
        "lost_chance": estimate(found.lost_by_chance),
        "new_chance": estimate(found.new_by_chance),
        **_told("lost", found.lost),
        **_told("correct", found.lost_correct),
        **_told("new", found.new),
    }


def beside_rows(lineage: LineageReport) -> list[dict[str, str]]:
    """Entropy over the base's and entropy pressure, of versions that have one of them."""
    entries = {entry.model: entry for entry in lineage.ranking.entries}
    rows = []
    for name in lineage.names:
        ratio = lineage.relative_entropy.get(name)
        pressure = entries[name].metrics.get(PRESSURE)
        if ratio is None and pressure is None:
            continue
        figures = _told("ratio", ratio) | _told("pressure", pressure)
        rows.append({"name": shown(name, 200), **figures})
    return rows


def heldout_row(each: HeldoutLoss) -> dict[str, str]:
    """The loss of one version on expert data."""
    return {
        "name": shown(each.name, 200),
        **_told("loss", each.loss),
        **_told("above", each.above_least),
        "relative": "undefined" if each.relative is None else f"{each.relative.value:.1%}",
        "resolved": "yes" if each.is_above else "no",
        **_told("train", each.train_loss),
        **_told("gap", each.overfit_gap),
    }


def outcome_row(evidence: RankEvidence) -> dict[str, str]:
    """How one measure ranked the versions against what RL made of them."""

    def text(value: float | None) -> str:
        return "undefined" if value is None else estimate(value)

    return {
        "measure": evidence.measure,
        "regret": estimate(evidence.regret),
        "spearman": text(evidence.spearman),
        "within": text(evidence.within),
        "kendall": text(evidence.kendall),
        "p_value": f"{text(evidence.p_value)} ({evidence.smallest_p:.2g})",
        "discordant": f"{evidence.discordant} of {evidence.num_pairs}",
        "remark": evidence.remark,
    }


def _told(name: str, found: _Figure | None, missing: str = "") -> dict[str, str]:
    """A figure under ``name`` and its interval beside it; ``missing`` where there is none."""
    if found is None:
        return {name: missing, f"{name}_interval": ""}
    return {name: estimate(found.value), f"{name}_interval": interval(found.ci_low, found.ci_high)}
