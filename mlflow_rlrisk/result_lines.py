"""Results as lines of text: the verdict, a comparison, a lineage, what a training stage changed."""

from typing import TYPE_CHECKING

from mlflow_rlrisk.sinks.wording import shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlflow_rlrisk.comparison import Comparison
    from mlflow_rlrisk.lineage import LineageReport, RankEvidence
    from mlflow_rlrisk.lineage.drift import DriftReport
    from mlflow_rlrisk.lineage.measures import Estimate
    from mlflow_rlrisk.report import RiskReport

ENTROPY, ENTROPY_ESTIMATE = "rlrisk/token_entropy", "rlrisk/token_entropy_estimate"
LOOKAHEAD = "rlrisk/lookahead_reach"
_HEADLINE = (
    ("pass@1", "rlrisk/pass_at_1"),
    ("token entropy (nats)", ENTROPY),
    ("entropy, estimated", ENTROPY_ESTIMATE),
    ("group signal", "rlrisk/group_signal_fraction"),
    ("starved share", "rlrisk/starved_share"),
    ("saturated share", "rlrisk/saturated_share"),
    ("agreement accuracy", "rlrisk/agreement_accuracy"),
    ("truncated share", "rlrisk/truncated_share"),
    ("lookahead reach", LOOKAHEAD),
    ("risk index", "rlrisk/risk_index"),
)


def report_lines(report: "RiskReport") -> list[str]:
    """The verdict: level first, then why, then what to do, then the figures."""
    lines = [f"risk level: {report.risk_level.upper()}"]
    lines += [f"  because  {reason}" for reason in report.reasons]
    lines += [f"  next     {step}" for step in report.next_steps]
    if report.budget is not None:
        lines.append(f"  {report.budget.sentence(report.config.confidence)}")
    lines.append("")
    is_exact = ENTROPY in report.metrics
    for label, name in [*_HEADLINE, *_widest_pass_at_k(report)]:
        if name == ENTROPY_ESTIMATE and is_exact:
            continue
        if name == LOOKAHEAD and name not in report.metrics:
            continue  # why it is missing stands under the reasons
        if name in report.metrics:
            metric = report.metrics[name]
            lines.append(
                f"  {label:<22}{metric.value:>8.3f}   [{metric.ci_low:.3f}, {metric.ci_high:.3f}]"
            )
        elif name in report.undefined:
            lines.append(f"  {label:<22}{'—':>8}   {report.undefined[name]}")
    return lines


_COMPARED = (
    ("pass@1", "rlrisk/pass_at_1"),
    ("entropy", "rlrisk/token_entropy"),
    ("signal", "rlrisk/group_signal_fraction"),
    ("risk index", "rlrisk/risk_index"),
)


def comparison_lines(comparison: "Comparison", reports: "Sequence[RiskReport]") -> list[str]:
    """One table, safest first, and where pass@1 and risk disagree."""
    from mlflow_rlrisk.report_record import RiskLevel

    widest = _widest_pass_at_k(reports[0])
    columns = [_COMPARED[0], *widest, *_COMPARED[1:]]
    rows = []
    for entry in comparison.entries:
        is_known = entry.risk_level is not RiskLevel.UNKNOWN
        marks = ["<- best pass@1"] if entry.pass_at_1_rank == 1 and entry.pass_at_1 else []
        marks += ["<- lowest risk"] if entry.risk_rank == 1 and is_known else []
        cells = [
            f"{entry.metrics[name].value:.3f}" if name in entry.metrics else "undefined"
            for _, name in columns
        ]
        rows.append([entry.model, *cells, str(entry.risk_level), " ".join(marks)])
    lines = table(["model", *(label for label, _ in columns), "level", ""], rows)
    lines.append("")
    num_ordered = sum(
        entry.risk_level is not RiskLevel.UNKNOWN and entry.pass_at_1 is not None
        for entry in comparison.entries
    )
    if num_ordered < 2:
        return [*lines, "pass@1 and risk are not compared: fewer than two models have both."]
    if not comparison.disagreements:
        are_all = num_ordered == len(comparison.entries)
        which = "these models" if are_all else f"the {num_ordered} models that have both"
        return [*lines, f"pass@1 and risk order {which} alike."]
    named = {entry.model: f"{entry.model} ({entry.risk_level})" for entry in comparison.entries}
    return lines + [
        one_line(
            f"disagree: {named[pair.higher_pass_at_1]} has the higher pass@1, "
            f"{named[pair.lower_risk]} the lower risk"
        )
        for pair in comparison.disagreements
    ]


def lineage_lines(lineage: "LineageReport") -> list[str]:
    """Which version to start from, why, and the phases of the series."""
    choice = lineage.choice
    lines = ["", f"start from: {choice.start_from or 'none of them'}"]
    lines += [f"  because  {reason}" for reason in choice.reasons]
    lines += [f"  next     {step}" for step in choice.next_steps]
    resolved = len(lineage.inversions)
    lines.append(f"  pairs    {resolved} of {len(lineage.pairs)} are resolved against pass@1")
    if lineage.heldout:
        told = ", ".join(
            f"{each.name} {each.loss.value:.3f}{' (above the least)' if each.is_above else ''}"
            for each in lineage.heldout
        )
        lines.append(f"  loss     {told}")
    if lineage.phases.labels:
        told = ", ".join(
            f"{label.name} {label.phase} ({label.confidence:.0%})"
            for label in lineage.phases.labels
        )
        lines.append(f"  phases   {told}")
    elif lineage.base is not None:
        lines.append(f"  phases   not told: {lineage.phases.undefined}")
    lines += [_outcome_line(found) for found in lineage.outcomes]
    for each in lineage.series:
        if each.phases.recommended is not None:
            lines.append(f"  {each.series}: look from {' to '.join(each.phases.recommended)}")
    return [one_line(line) for line in (*lines, *(f"  note     {n}" for n in lineage.notes))]


def _outcome_line(found: "RankEvidence") -> str:
    def shown(value: float | None) -> str:
        return "undefined" if value is None else f"{value:.2f}"

    remark = f"; {found.remark}" if found.remark else ""
    return (
        f"  outcome  {found.measure}: regret {found.regret:.3g}, Spearman {shown(found.spearman)} "
        f"(exact p {shown(found.p_value)}), Kendall {shown(found.kendall)}{remark}"
    )


def drift_lines(report: "DriftReport") -> list[str]:
    """A waterfall from weights to rewards."""

    def shown(estimate: "Estimate | None") -> list[str]:
        if estimate is None:
            return ["—", "not measured"]
        ends = f"[{estimate.ci_low:+.4f}, {estimate.ci_high:+.4f}]"
        return [f"{estimate.value:+.4f}", ends]

    rows = []
    if report.weights is not None:
        rows.append(["weights, relative change", f"{report.weights.total:.4g}", ""])
        rows += [[f"  {p}", f"{value:.4g}", ""] for p, value in report.weights.by_part.items()]
    for label, is_equal in (
        ("tokenizer", report.is_tokenizer_equal),
        ("chat template", report.is_template_equal),
        ("generation config", not report.generation_config),
    ):
        rows.append([label, "same" if is_equal else "differs", ""])
    for label, found in (("reverse", report.reverse), ("forward", report.forward)):
        rows.append([f"KL {label}, nats/token", *shown(None if found is None else found.per_token)])
    rows += [[name.removeprefix("rlrisk/"), *shown(e)] for name, e in report.changes.items()]
    if report.forget_ratio is not None:
        low, high = report.forget_ratio_ci or (report.forget_ratio, report.forget_ratio)
        ends = f"[{low:+.4f}, {high:+.4f}]"
        rows.append(["  of SFT's gain given back", f"{report.forget_ratio:+.4f}", ends])
    rows.append(["mean reward", *shown(report.reward_change)])
    if report.reward_bound is not None:
        rows.append(["  largest the KL allows", f"{report.reward_bound:.4f}", ""])
    lines = table([f"{report.before} -> {report.after}", "change", "interval"], rows)
    if report.is_reward_lower:
        lines.append("alarm: the mean reward fell, and the prompts resolve it")
    if report.is_bound_kept is False:
        lines.append(
            "alarm: the reward moved further than the divergence allows; a figure is wrong"
        )
    return lines + [f"note: {note}" for note in report.notes]


def _widest_pass_at_k(report: "RiskReport") -> list[tuple[str, str]]:
    prefix = "rlrisk/pass_at_"
    ks = sorted(int(name.removeprefix(prefix)) for name in report.metrics if prefix in name)
    return [(f"pass@{ks[-1]}", f"{prefix}{ks[-1]}")] if len(ks) > 1 else []


def one_line(text: str) -> str:
    """Foreign text in one line: a name may hold a line break, or codes that a terminal obeys."""
    return shown(text).replace("\n", "\N{SYMBOL FOR LINE FEED}")


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    """Align columns: the first to the left, the others to the right."""
    cells = [[one_line(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
    return [lines[0], "-" * max(map(len, lines)), *lines[1:]]
