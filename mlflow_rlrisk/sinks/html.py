"""The report page: one HTML file without scripts, fonts or links to anywhere else.

The level and its reasons stand first, then the rollouts as figures, then what the index is made
of, all metrics, sampled rollouts and how to reproduce it. Completions come from a model and may be
hostile: Jinja escapes everything but our own figures, and the page forbids scripts by its content
security policy. The same report gives the same bytes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mlflow_rlrisk import __version__
from mlflow_rlrisk.metrics.catalogue import PREFIX
from mlflow_rlrisk.plurals import counted
from mlflow_rlrisk.report import Metric, RiskLevel, RiskReport
from mlflow_rlrisk.sinks import plots
from mlflow_rlrisk.sinks.page_rows import (
    component_row,
    example_row,
    metric_rows,
    not_assessed_rows,
    provenance_rows,
    undefined_rows,
)
from mlflow_rlrisk.sinks.templating import figure_box, own_markup, template
from mlflow_rlrisk.sinks.wording import estimate, interval, moment, shown
from mlflow_rlrisk.statistics.groups import critical_success
from mlflow_rlrisk.thresholds import REGISTRY

MIN_ALIVE = 0.01
"""Positions that fewer rollouts reach are not drawn: their mean is noise."""

_LEVELS = ("low", "medium", "high", "unknown")
_SENTENCES = {
    "low": "No assessed component speaks against starting RL from this checkpoint.",
    "medium": "Some evidence speaks against it, or does not suffice to rule it out.",
    "high": "The evidence speaks against starting RL from this checkpoint.",
    "unknown": "The evidence does not suffice to say; the reasons name what is missing.",
}
_ICON_PATHS = {
    "low": '<circle cx="12" cy="12" r="10"/><path d="M7.5 12.5l3 3 6-7"/>',
    "medium": '<path d="M12 2.5L22.5 21h-21z"/><path d="M12 9v6M12 17.6v.6"/>',
    "high": '<path d="M8 2h8l6 6v8l-6 6H8l-6-6V8z"/><path d="M8.5 8.5l7 7M15.5 8.5l-7 7"/>',
    "unknown": '<circle cx="12" cy="12" r="10"/>'
    '<path d="M9 9.3a3 3 0 1 1 4.2 2.8c-.8.4-1.2.9-1.2 1.9M12 17.2v.6"/>',
}
_FACTS = (
    ("group_signal_fraction", "Group signal", "groups of {g} with a gradient"),
    ("starved_share", "Starved prompts", "too hard at g = {g}"),
    ("saturated_share", "Saturated prompts", "too easy at g = {g}"),
    ("token_entropy", "Token entropy", "nats, canonical mean"),
    ("token_entropy_estimate", "Token entropy", "nats, estimated from top logprobs, not exact"),
    ("truncated_share", "Truncated rollouts", "ended by the token limit"),
)
_COMPONENTS_NOTE = (
    "Index = 1 − Π(1 − weight × severity) over the assessed components: documented, not calibrated "
    "on outcomes. Severity goes from 0 to 1 between the two ends. What was not assessed is missing "
    "evidence, not safety."
)
_METRICS_NOTE = (
    "Intervals resample prompts, so the rollouts of one prompt move together. Undefined metrics "
    "are named with the reason; they are never filled in."
)
_DISCLAIMER = (
    "Lines and weights are conventions or come from single studies; each stands beside its source. "
    "The index is not a probability that RL fails."
)


def render(report: RiskReport, figures: Sequence[Mapping[str, Any]] | None = None) -> str:
    """Render the page; a pure function of the report.

    Args:
        report: The report.
        figures: What `draw_figures` gave for it; drawn here where they are missing.
    """
    page: str = template("report.html.j2").render(_content(report, figures))
    return page


def render_body(report: RiskReport) -> str:
    """Render what stands between head and foot, for a page that has its own; needs `page.css`."""
    body: str = template("report_body.html.j2").render(_content(report, None))
    return body


def _content(report: RiskReport, figures: Sequence[Mapping[str, Any]] | None) -> dict[str, Any]:
    return dict(
        subject=shown(_subject(report), 200),
        assessed_at=moment(report.provenance.finished_at),
        level=_level(report),
        index=_index(report),
        chances=_chances(report),
        confidence=f"{report.config.confidence * 100:g} %",
        reasons=[_reason(reason) for reason in report.reasons],
        next_steps=[shown(step) for step in report.next_steps],
        notes=[shown(note) for note in report.notes],
        facts=_facts(report),
        figures=draw_figures(report) if figures is None else figures,
        components=[component_row(c) for c in report.components] + not_assessed_rows(report),
        components_note=_COMPONENTS_NOTE,
        metrics=metric_rows(report),
        undefined=undefined_rows(report),
        metrics_note=_METRICS_NOTE,
        examples=[example_row(e, report.config.success_threshold) for e in report.examples],
        examples_note=f"{len(report.examples)} of {report.num_rollouts:,} rollouts.",
        command=shown(report.provenance.command),
        provenance=provenance_rows(report),
        disclaimer=_DISCLAIMER,
        version=report.provenance.code_version or __version__,
    )


def _subject(report: RiskReport) -> str:
    source = report.provenance
    if source.registered_name and source.version:
        return f"{source.registered_name}, version {source.version}"
    return source.model_reference or "unnamed checkpoint"


def _level(report: RiskReport) -> dict[str, Any]:
    key = str(report.risk_level)
    icon = (
        '<svg viewBox="0 0 24 24" aria-hidden="true" fill="none" stroke="currentColor" '
        f'stroke-width="2" stroke-linecap="round" stroke-linejoin="round">{_ICON_PATHS[key]}</svg>'
    )
    return {
        "key": key,
        "word": key.capitalize(),
        "sentence": _SENTENCES[key],
        "icon": own_markup(icon),
    }


def _reason(sentence: str) -> dict[str, str]:
    """Set the source in brackets at the end apart from what it supports."""
    claim, bracket, source = sentence.rpartition(" [")
    if not bracket or not source.endswith("]"):
        return {"claim": shown(sentence), "source": ""}
    return {"claim": shown(claim), "source": shown(source[:-1])}


def _index(report: RiskReport) -> dict[str, Any] | None:
    metric = report.metrics.get(f"{PREFIX}risk_index")
    if metric is None:
        return None
    low_below, high_from = report.policy.low_below * 100, report.policy.high_from * 100
    widths = (low_below, high_from - low_below, 100 - high_from)
    return {
        "value": round(metric.value * 100, 2),
        "low": round(metric.ci_low * 100, 2),
        "width": round((metric.ci_high - metric.ci_low) * 100, 2),
        "value_text": estimate(metric.value),
        "low_text": estimate(metric.ci_low),
        "high_text": estimate(metric.ci_high),
        "by_itself": _level_by_itself(report, metric),
        "low_below": f"{report.policy.low_below:g}",
        "high_from": f"{report.policy.high_from:g}",
        "low_below_at": round(low_below, 2),
        "high_from_at": round(high_from, 2),
        "zones": [
            {"key": key, "width": round(width, 2)}
            for key, width in zip(_LEVELS, widths, strict=False)
        ],
    }


def _level_by_itself(report: RiskReport, index: Metric) -> str:
    """The level that the index alone would give; empty where that is the level."""
    lines = report.policy
    by_itself = RiskLevel.MEDIUM
    if index.ci_low >= lines.high_from:
        by_itself = RiskLevel.HIGH
    elif index.ci_high < lines.low_below:
        by_itself = RiskLevel.LOW
    is_told = report.risk_level in (by_itself, RiskLevel.UNKNOWN)
    return "" if is_told else by_itself.value


def _chances(report: RiskReport) -> list[dict[str, Any]]:
    shares = report.level_probabilities
    return [
        {"key": key, "width": round(shares[key] * 100, 2), "text": f"{shares[key] * 100:.0f} %"}
        for key in _LEVELS
        if key in shares and (shares[key] > 0 or key != "unknown")
    ]


def _facts(report: RiskReport) -> list[dict[str, str]]:
    group_size = report.config.group_size
    facts = [
        {
            "label": "Prompts",
            "value": f"{report.num_prompts:,}",
            "note": f"{counted(report.num_rollouts, 'rollout', spec=',')}{_rounds(report)}",
        }
    ]
    for name, label in [("pass_at_1", "pass@1"), *_widest_pass_at_k(report)]:
        if metric := report.metrics.get(PREFIX + name):
            facts.append(_fact(label, metric, ""))
    for name, label, note in _FACTS:
        if metric := report.metrics.get(PREFIX + name):
            facts.append(_fact(label, metric, note.format(g=group_size)))
    return facts


def _rounds(report: RiskReport) -> str:
    budget = report.budget
    if budget is None:
        return ""
    ended = "level decided" if budget.is_stopped_early else "whole budget"
    return (
        f" of at most {budget.max_rollouts:,}: {ended} after round {budget.rounds} of "
        f"{budget.planned_rounds}"
    )


def _fact(label: str, metric: Metric, note: str) -> dict[str, str]:
    ends = interval(metric.ci_low, metric.ci_high)
    return {"label": label, "value": estimate(metric.value), "note": f"{ends} {note}".strip()}


def _ks(report: RiskReport) -> list[int]:
    names = (name.removeprefix(f"{PREFIX}pass_at_") for name in report.metrics)
    return sorted(int(name) for name in names if name.isdigit())


def _widest_pass_at_k(report: RiskReport) -> list[tuple[str, str]]:
    return [(f"pass_at_{k}", f"pass@{k}") for k in _ks(report)[-1:] if k > 1]


def draw_figures(report: RiskReport) -> list[dict[str, Any]]:
    """The figures of the page, each with its id, title, markup and caption.

    They show nothing of the report's provenance.
    """
    made = (
        _pass_at_k(report),
        _solve_rate(report),
        _entropy_histogram(report),
        _entropy_by_position(report),
    )
    return [figure for figure in made if figure is not None]


def _pass_at_k(report: RiskReport) -> dict[str, Any] | None:
    ks = _ks(report)
    if len(ks) < 2:
        return None
    metrics = [report.metrics[f"{PREFIX}pass_at_{k}"] for k in ks]
    svg = plots.pass_at_k_figure(
        ks, [m.value for m in metrics], [m.ci_low for m in metrics], [m.ci_high for m in metrics]
    )
    caption = (
        "A rise shows prompts that are solved sometimes, which RL can make more frequent; a flat "
        "line shows prompts that are solved always or never. "
        f"Band: {report.config.confidence * 100:g} % interval over prompts."
    )
    return figure_box("pass-at-k-box", "pass@k", svg, caption)


def _solve_rate(report: RiskReport) -> dict[str, Any] | None:
    counts = np.array(report.solve_counts, dtype=np.int64).reshape(-1, 3)
    counts = counts[counts[:, 1] > 0]
    if not counts.size:
        return None
    group_size = report.config.group_size
    critical = critical_success(group_size)
    correct, scored = (np.repeat(counts[:, column], counts[:, 2]) for column in (0, 1))
    svg = plots.solve_rate_figure(correct, scored, group_size, critical)
    caption = (
        f"In the shaded zones (below {critical:.3f} and above {1 - critical:.3f}) most groups of "
        f"{group_size} are all wrong or all right and carry no gradient. The shares in the table "
        "allow for chance in the counts."
    )
    return figure_box("solve-rate-box", "How often each prompt is solved", svg, caption)


def _entropy_histogram(report: RiskReport) -> dict[str, Any] | None:
    profile = report.profile
    if profile is None or not profile.num_tokens:
        return None
    canonical = report.metrics.get(f"{PREFIX}token_entropy")
    svg = plots.entropy_histogram_figure(
        profile.edges(), profile.histogram, canonical.value if canonical else None
    )
    flag = REGISTRY["tau_H"]
    caption = (
        f"{counted(profile.num_tokens, 'token', spec=',')} at temperature "
        f"{report.config.sampling.temperature:g}. "
        "Tokens near 0 leave the policy no choice. "
        f"For scale: {flag.source} flags a mean below {flag.values['value']:g} ({flag.scope})."
    )
    return figure_box("entropy-histogram-box", "Entropy of the generated tokens", svg, caption)


def _entropy_by_position(report: RiskReport) -> dict[str, Any] | None:
    profile = report.profile
    if profile is None:
        return None
    means = profile.mean_by_position()
    counts = profile.position_count[: len(means)]
    if not means or not counts[0]:
        return None
    alive = counts / counts[0]
    kept = np.flatnonzero((alive >= MIN_ALIVE) & (counts > 0))
    svg = plots.entropy_by_position_figure(
        kept + 1.0, np.array([means[at] for at in kept], dtype=float), alive[kept]
    )
    caption = (
        "Line: mean entropy at each token of the completion. Shade: share of rollouts that are "
        f"that long; positions that fewer than {MIN_ALIVE:.0%} reach are left out."
    )
    return figure_box("entropy-position-box", "Entropy along the completion", svg, caption)
