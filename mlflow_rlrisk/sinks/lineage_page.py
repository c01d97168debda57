"""The lineage page: which version may start RL, and why not the one with the best pass@1.

One HTML file without scripts, as the report page; names of versions are foreign text and escaped.
"""

from typing import Any

from mlflow_rlrisk import __version__
from mlflow_rlrisk.lineage import LineageReport, Pair, PairOrder, SeriesPhases
from mlflow_rlrisk.lineage.table import ENTROPY, HELDOUT, PASS_AT_1, SIGNAL
from mlflow_rlrisk.metrics.catalogue import PREFIX
from mlflow_rlrisk.sinks import plots
from mlflow_rlrisk.sinks.lineage_rows import (
    PRESSURE,
    RISK_INDEX,
    beside_rows,
    column_label,
    coverage_row,
    duel_rows,
    heldout_row,
    modes_row,
    outcome_row,
    pair_row,
    version_row,
)
from mlflow_rlrisk.sinks.templating import figure_box, template
from mlflow_rlrisk.sinks.wording import estimate, shown

MAX_PAIRS = 60
"""Pairs shown; a page of thousands would not be read."""


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
        duel=duel_rows(lineage, [name for name in columns if name != HELDOUT]),
        best=None if choice.best_pass_at_1 is None else shown(choice.best_pass_at_1, 200),
        reasons=[shown(reason) for reason in choice.reasons],
        next_steps=[shown(step) for step in choice.next_steps],
        num_prompts=lineage.num_prompts,
        columns=[column_label(name) for name in columns],
        versions=[version_row(lineage, place, columns) for place in range(len(lineage.names))],
        has_phases=bool(lineage.phases.labels),
        phase_note=_phase_note(lineage),
        figures=_figures(lineage),
        pairs=[pair_row(pair) for pair in _shown_pairs(lineage)],
        pairs_note=_pairs_note(lineage),
        coverage=[coverage_row(change) for change in lineage.coverage],
        coverage_reference=shown(lineage.coverage[0].reference, 200) if lineage.coverage else "",
        modes=[modes_row(change) for change in lineage.modes],
        modes_reference=shown(lineage.modes[0].reference, 200) if lineage.modes else "",
        no_modes=shown(lineage.undefined.get("modes", "")),
        besides=beside_rows(lineage),
        has_pressure=any(PRESSURE in entry.metrics for entry in lineage.ranking.entries),
        heldout=[heldout_row(each) for each in lineage.heldout],
        has_gap=any(each.overfit_gap is not None for each in lineage.heldout),
        has_within=any(each.within is not None for each in lineage.outcomes),
        outcomes=[outcome_row(evidence) for evidence in lineage.outcomes],
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


def _columns(lineage: LineageReport) -> list[str]:
    deep = [n for n in lineage.measures if n.startswith(f"{PREFIX}pass_at_") and n != PASS_AT_1]
    return [PASS_AT_1, *deep, ENTROPY, SIGNAL, HELDOUT, RISK_INDEX]


def _is_known(lineage: LineageReport, name: str) -> bool:
    return any(name in entry.metrics for entry in lineage.ranking.entries)


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
        column_label(name): lineage.measures[name]
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
            f" {column_label(each.measure)} spreads the versions {ratio} times as far as pass@1: "
            "compression, which is not an inversion."
        )
    return note
