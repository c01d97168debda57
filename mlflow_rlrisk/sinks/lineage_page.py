"""The lineage page: which version may start RL, and why not the one with the best pass@1.

One HTML file without scripts, as the report page; names of versions are foreign text and escaped.
"""

from collections.abc import Sequence
from typing import Any

from mlflow_rlrisk import __version__
from mlflow_rlrisk.lineage import (
    CoverageChange,
    HeldoutLoss,
    LineageReport,
    ModeChange,
    Pair,
    PairOrder,
    RankEvidence,
    SeriesPhases,
)
from mlflow_rlrisk.lineage.measures import Estimate
from mlflow_rlrisk.lineage.pairs import PairedDifference
from mlflow_rlrisk.lineage.phases import PhaseLabel
from mlflow_rlrisk.lineage.table import ENTROPY, HELDOUT, LENGTH, PASS_AT_1, SIGNAL
from mlflow_rlrisk.metrics.catalogue import PREFIX
from mlflow_rlrisk.report_record import Metric
from mlflow_rlrisk.sinks import plots
from mlflow_rlrisk.sinks.templating import figure_box, template
from mlflow_rlrisk.sinks.wording import estimate, interval, shown

MAX_PAIRS = 60
"""Pairs shown; a page of thousands would not be read."""
RISK_INDEX = PREFIX + "risk_index"
PRESSURE = PREFIX + "entropy_pressure"
_Figure = Metric | Estimate | PairedDifference


def render_lineage(lineage: LineageReport) -> str:
    """Render the page; a pure function of the lineage report."""
    choice = lineage.choice
    reports = {entry.model: entry for entry in lineage.ranking.entries}
    pick = choice.start_from or "none of them"
    level = str(reports[choice.start_from].risk_level) if choice.start_from else "unknown"
    columns = [name for name in _columns(lineage) if _is_known(lineage, name)]
    page: str = template("lineage.html.j2").render(
        headline=shown(pick, 120),
        chosen_level=level,
        pick=shown(pick, 200),
        pick_label=_pick_label(lineage, level),
        duel=_duel(lineage, [name for name in columns if name != HELDOUT]),
        best=None if choice.best_pass_at_1 is None else shown(choice.best_pass_at_1, 200),
        reasons=[shown(reason) for reason in choice.reasons],
        next_steps=[shown(step) for step in choice.next_steps],
        num_prompts=lineage.num_prompts,
        columns=[_label(name) for name in columns],
        versions=[_version(lineage, place, columns) for place in range(len(lineage.names))],
        has_phases=bool(lineage.phases.labels),
        phase_note=_phase_note(lineage),
        figures=_figures(lineage),
        pairs=[_pair(pair) for pair in _shown_pairs(lineage)],
        pairs_note=_pairs_note(lineage),
        coverage=[_coverage(change) for change in lineage.coverage],
        coverage_reference=shown(lineage.coverage[0].reference, 200) if lineage.coverage else "",
        modes=[_modes(change) for change in lineage.modes],
        modes_reference=shown(lineage.modes[0].reference, 200) if lineage.modes else "",
        no_modes=shown(lineage.undefined.get("modes", "")),
        besides=_besides(lineage),
        has_pressure=any(PRESSURE in entry.metrics for entry in lineage.ranking.entries),
        heldout=[_heldout(each) for each in lineage.heldout],
        has_gap=any(each.overfit_gap is not None for each in lineage.heldout),
        has_within=any(each.within is not None for each in lineage.outcomes),
        outcomes=[_outcome(evidence) for evidence in lineage.outcomes],
        notes=[shown(note) for note in lineage.notes]
        + [
            f"{name} is undefined: {shown(reason)}"
            for name, reason in lineage.undefined.items()
            if name != "modes"
        ],
        version=__version__,
    )
    return page


def _pick_label(lineage: LineageReport, level: str) -> str:
    if lineage.choice.start_from is None:
        return "Too little evidence to choose"
    return "Start RL from" if lineage.choice.is_advised else f"Least risk, but {level}"


def _duel(lineage: LineageReport, columns: Sequence[str]) -> list[dict[str, str]]:
    """The version to start from and the best by pass@1 side by side, where they are two."""
    pick, best = lineage.choice.start_from, lineage.choice.best_pass_at_1
    if pick is None or best is None or pick == best:
        return []
    left, right = (_version(lineage, lineage.names.index(name), columns) for name in (pick, best))
    rows = [{"label": "risk", "pick": left["level"], "best": right["level"]}]
    return rows + [
        {"label": own["label"], "pick": own["value"], "best": other["value"]}
        for own, other in zip(left["cells"], right["cells"], strict=True)
    ]


def _columns(lineage: LineageReport) -> list[str]:
    deep = [n for n in lineage.measures if n.startswith(f"{PREFIX}pass_at_") and n != PASS_AT_1]
    return [PASS_AT_1, *deep, ENTROPY, SIGNAL, HELDOUT, RISK_INDEX]


def _is_known(lineage: LineageReport, name: str) -> bool:
    return any(name in entry.metrics for entry in lineage.ranking.entries)


def _label(name: str) -> str:
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


def _version(lineage: LineageReport, place: int, columns: Sequence[str]) -> dict[str, Any]:
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
            {"label": _label(each), **_told("value", entry.metrics.get(each), "undefined")}
            for each in columns
        ],
        "phase": "" if label is None else str(label.phase),
        "phase_note": _confidence(label),
    }


def _told(name: str, found: _Figure | None, missing: str = "") -> dict[str, str]:
    """A figure under ``name`` and its interval beside it; ``missing`` where there is none."""
    if found is None:
        return {name: missing, f"{name}_interval": ""}
    return {name: estimate(found.value), f"{name}_interval": interval(found.ci_low, found.ci_high)}


def _confidence(label: PhaseLabel | None) -> str:
    if label is None:
        return ""
    agreeing = f"{label.confidence:.0%} of resamples agree"
    return agreeing if label.series is None else f"{shown(label.series, 80)}: {agreeing}"


def _phase_note(lineage: LineageReport) -> str:
    phases = lineage.phases
    if not phases.labels:
        return f"Phases are not told: {shown(str(phases.undefined))}."
    parts = []
    for each in [*lineage.series, SeriesPhases(series="", phases=phases)]:
        name = f"{shown(each.series, 80)}: " if each.series else ""
        if each.phases.recommended is not None:
            first, last = (shown(rung, 200) for rung in each.phases.recommended)
            parts.append(f"{name}Interval to look at: {first} to {last}.")
        elif each.phases.undefined is not None:
            parts.append(f"{name}not told: {each.phases.undefined}.")
    if not lineage.series:
        parts.append("The order is taken as that of one run of training (--series names several).")
    return " ".join([*parts, phases.caution])


def _figures(lineage: LineageReport) -> list[dict[str, Any]]:
    shares = {
        _label(name): lineage.measures[name]
        for name in _columns(lineage)
        if name in lineage.measures and name not in (ENTROPY, HELDOUT)
    }
    figures = []
    if shares:
        svg = plots.ladder_figure("ladder-shares", lineage.names, shares, "share")
        caption = "pass@1 may rise while the signal and deep pass@k fall: then it misleads."
        figures.append(figure_box("ladder-shares-box", "Success and signal", svg, caption))
    if ENTROPY in lineage.measures:
        entropy = {"token entropy": lineage.measures[ENTROPY]}
        svg = plots.ladder_figure("ladder-entropy", lineage.names, entropy, "nats per token")
        caption = (
            "A fall says that the policy has less to choose from; a high entropy alone is not "
            "useful: flattened sampling raises it without raising pass@k."
        )
        figures.append(figure_box("ladder-entropy-box", "Token entropy", svg, caption))
    if HELDOUT in lineage.measures:
        loss = {"held-out loss": lineage.measures[HELDOUT]}
        svg = plots.ladder_figure("ladder-heldout", lineage.names, loss, "nats per token")
        caption = "Past its minimum a series learns its own data by heart: overfit."
        figures.append(
            figure_box("ladder-heldout-box", "Loss on held-out expert data", svg, caption)
        )
    return figures


def _shown_pairs(lineage: LineageReport) -> list[Pair]:
    """Resolved inversions first, then what may be one; none with a copy."""
    copies = {each.name for each in lineage.rescaled}
    doubtful = [
        pair
        for pair in lineage.pairs
        if pair.order is PairOrder.UNRESOLVED
        and pair.probability_inverted >= 0.5
        and not copies & {pair.first, pair.second}
    ]
    doubtful.sort(key=lambda pair: -pair.probability_inverted)
    return [*lineage.inversions, *doubtful][:MAX_PAIRS]


def _pairs_note(lineage: LineageReport) -> str:
    found = len(lineage.inversions)
    total = len(lineage.pairs)
    if not total:
        return "pass@1 or every safety measure is undefined, so no order can be compared."
    verb = "is" if found == 1 else "are"
    note = (
        f"{found} of {total} ordered pairs {verb} resolved against pass@1 (paired bootstrap over "
        "prompts, Holm over all pairs and measures); pairs that more than half of the resamples "
        "invert are listed too."
    )
    if lineage.rescaled:
        note += " Copies with scaled logits are left out."
    squeezed = [
        each
        for each in lineage.agreement
        if each.spread_ratio_high is not None and each.spread_ratio_high < 1.0
    ]
    for each in squeezed:
        ratio = estimate(each.spread_ratio or 0.0)
        note += (
            f" {_label(each.measure)} spreads the versions {ratio} times as far as pass@1: "
            "compression, which is not an inversion."
        )
    return note


def _pair(pair: Pair) -> dict[str, str]:
    return {
        "first": shown(pair.first, 200),
        "second": shown(pair.second, 200),
        "measure": _label(pair.measure),
        **_told("by_pass", pair.pass_at_1),
        **_told("difference", pair.difference),
        "probability": f"{pair.probability_inverted:.0%}",
        "resolved": "yes" if pair.order is PairOrder.INVERTED else "no",
    }


def _coverage(change: CoverageChange) -> dict[str, str]:
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


def _modes(change: ModeChange) -> dict[str, str]:
    found = change.modes
    return {
        "name": shown(change.checkpoint, 200),
        "lost_chance": estimate(found.lost_by_chance),
        "new_chance": estimate(found.new_by_chance),
        **_told("lost", found.lost),
        **_told("correct", found.lost_correct),
        **_told("new", found.new),
    }


def _besides(lineage: LineageReport) -> list[dict[str, str]]:
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


def _heldout(each: HeldoutLoss) -> dict[str, str]:
    return {
        "name": shown(each.name, 200),
        **_told("loss", each.loss),
        **_told("above", each.above_least),
        "relative": "undefined" if each.relative is None else f"{each.relative.value:.1%}",
        "resolved": "yes" if each.is_above else "no",
        **_told("train", each.train_loss),
        **_told("gap", each.overfit_gap),
    }


def _outcome(evidence: RankEvidence) -> dict[str, str]:
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
