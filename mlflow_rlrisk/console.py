"""What the command prints for people: the plan, progress bars, the verdict and the comparison.

Everything here goes to standard error or is returned as text; standard output belongs to the
caller, so that ``--json`` prints one JSON object and nothing else.
"""

import os
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_rlrisk.observer import Plan
from mlflow_rlrisk.records import PromptStatistics
from mlflow_rlrisk.sinks.wording import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

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


def say(text: str = "") -> None:
    """Print a line for people."""
    print(text, file=sys.stderr, flush=True)


def _bar_interval() -> float:
    """Seconds between two states of a bar: each is a line of its own in a log file."""
    return 0.2 if sys.stderr.isatty() else 10.0


@contextmanager
def progress(what: str, *, is_shown: bool = True) -> "Iterator[Callable[[int, int], None]]":
    """A progress bar that is told of work done and work in all."""
    from tqdm import tqdm

    bar = tqdm(
        unit="pass",
        desc=what,
        file=sys.stderr,
        mininterval=_bar_interval(),
        disable=not is_shown,
    )
    with bar:

        def move(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield move


def command_beside(name: str) -> str:
    """The command beside this interpreter, relative to here where that is shorter."""
    path = Path(sys.executable).parent / name
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


class ConsoleObserver:
    """Prints the plan, then a progress bar with tokens/s and the running pass@1."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._tokens = 0
        self._correct = 0
        self._scored = 0
        self._started = 0.0

    def stage(self, name: str) -> None:
        """Close the bar when sampling is over."""
        if name != "sample" and self._bar is not None:
            self._bar.close()
            self._bar = None

    def planned(self, plan: Plan) -> None:
        """Say what was understood, and open the bar where there is something to sample."""
        from tqdm import tqdm

        for line in plan_lines(plan):
            say(line)
        if plan.num_prompts == plan.num_stored:
            return
        self._started = time.monotonic()
        self._bar = tqdm(
            total=(plan.num_prompts - plan.num_stored) * plan.num_samples,
            unit="rollout",
            desc="sampling",
            file=sys.stderr,
            mininterval=_bar_interval(),
            dynamic_ncols=True,
        )

    def sampled(self, num_tokens: int, num_rollouts: int) -> None:
        """Move the bar."""
        self._tokens += num_tokens
        if self._bar is not None:
            self._bar.update(num_rollouts)
            self._bar.set_postfix_str(self._postfix(), refresh=False)

    def graded(self, statistics: PromptStatistics) -> None:
        """Move the running pass@1."""
        if statistics.num_correct is not None:
            self._scored += statistics.num_scored
            self._correct += statistics.num_correct

    def close(self) -> None:
        """Leave the terminal in order, also after an interruption."""
        self.stage("closed")

    def _postfix(self) -> str:
        speed = self._tokens / max(time.monotonic() - self._started, 1e-9)
        running = f", pass@1 {self._correct / self._scored:.3f}" if self._scored else ""
        return f"{speed:,.0f} tokens/s{running}"


def plan_lines(plan: Plan) -> list[str]:
    """The plan as lines of text."""
    sample = plan.num_prompts - plan.num_stored
    is_digest = len(plan.checkpoint) == 64  # an endpoint has a sentence in its place
    content = plan.checkpoint[:12] if is_digest else plan.checkpoint
    work = f"{sample} prompts x {plan.num_samples} rollouts"
    lines = [
        f"model       {plan.model}  (content {content})",
        f"prompts     {plan.prompts}",
        f"verifier    {plan.verifier}; {plan.preflight}",
        f"template    {plan.template}",
        f"sampler     {plan.backend}",
        f"to replay   {work}"
        if plan.backend == "replay"
        else f"to sample   {work}, at most {plan.max_tokens:,} tokens",
    ]
    if plan.budget:
        lines.append(f"budget      {plan.budget}")
    if plan.num_stored:
        lines.append(f"resuming    {plan.num_stored} prompts are stored already")
    if plan.estimated_s is not None:
        lines.append(f"estimate    at most about {duration(plan.estimated_s)}")
    return lines


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


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
