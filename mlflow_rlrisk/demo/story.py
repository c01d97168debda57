"""What the demo says at its end: the ladder as a table, and the two choices in words."""

import re
import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

from mlflow_rlrisk.comparison import rank
from mlflow_rlrisk.demo.tracking import Version
from mlflow_rlrisk.report_record import RiskLevel, RiskReport
from mlflow_rlrisk.result_lines import table


class Assessed(NamedTuple):
    """A version with its report."""

    version: Version
    report: RiskReport


COLUMNS = {
    "pass@1": "rlrisk/pass_at_1",
    "pass@64": "rlrisk/pass_at_64",
    "entropy": "rlrisk/token_entropy",
    "signal g=8": "rlrisk/group_signal_fraction",
    "risk index": "rlrisk/risk_index",
}


def best_pass_at_1(ladder: Sequence[Assessed]) -> Assessed:
    """What a leaderboard would pick."""
    return max(ladder, key=lambda each: each.report.metrics["rlrisk/pass_at_1"].value)


def safest(ladder: Sequence[Assessed]) -> Assessed:
    """What the risk report would pick: the first of `comparison.rank`."""
    first = rank([each.report for each in ladder]).entries[0].model
    return next(each for each in ladder if each.version.uri == first)


def story(ladder: Sequence[Assessed]) -> dict[str, Any]:
    """The ladder and both choices as JSON: what the lines below say, and all of the metrics."""
    by_risk = safest(ladder)
    told = ("risk_level", "reasons", "next_steps", "metrics", "undefined")
    return {
        "versions": [
            {
                "model": each.version.uri,
                "epochs": each.version.rung.epochs,
                **{name: value for name, value in each.report.to_dict().items() if name in told},
            }
            for each in ladder
        ],
        "best_pass_at_1": best_pass_at_1(ladder).version.uri,
        "lowest_risk": by_risk.version.uri,
        "as_low": [each.version.uri for each in _as_safe(ladder, by_risk)],
    }


def comparison_lines(ladder: Sequence[Assessed]) -> list[str]:
    """The table, a line a version, both choices marked."""
    by_pass, by_risk = best_pass_at_1(ladder), safest(ladder)
    rows = []
    for each in ladder:
        marks = []
        if each is by_pass:
            marks.append("best pass@1")
        if each is by_risk:
            marks.append("lowest risk")
        rows.append(
            [
                each.version.uri,
                str(each.version.rung.epochs),
                *(_cell(each.report, name) for name in COLUMNS.values()),
                str(each.report.risk_level),
                "<- " + ", ".join(marks) if marks else "",
            ]
        )
    return table(["version", "epochs", *COLUMNS, "level", ""], rows)


def verdict_lines(ladder: Sequence[Assessed]) -> list[str]:
    """Which version each rule picks and why, from the figures at hand, whatever they are."""
    by_pass, by_risk = best_pass_at_1(ladder), safest(ladder)
    if by_pass is by_risk:
        return [f"Both pass@1 and risk pick {by_pass.version.uri}: here they agree."]
    lines = [f"pass@1 alone picks   {_named(by_pass)}"]
    lines += _first_claim(by_pass.report.reasons)
    lines.append(f"the risk report picks {_named(by_risk)}")
    lines += [f"    {line}" for line in _gains(by_risk.report, by_pass.report)]
    if alike := _as_safe(ladder, by_risk):
        lines.append(f"    risk does not tell it apart from {', '.join(map(_named, alike))}")
    if by_risk.report.risk_level is not RiskLevel.LOW:
        lines += _first_claim(by_risk.report.reasons, "still: ")
    return lines


def _first_claim(reasons: Sequence[str], lead: str = "") -> list[str]:
    """The first reason without its source, which stands on the page, as wide as the table."""
    claims = [lead + re.sub(r" \[[^\[]*\]$", "", reason) for reason in reasons[:1]]
    return textwrap.wrap("".join(claims), 102, initial_indent="    ", subsequent_indent="    ")


def _as_safe(ladder: Sequence[Assessed], chosen: Assessed) -> list[Assessed]:
    """Other versions of the same level whose index intervals reach into that of the chosen one."""
    own = chosen.report.metrics.get("rlrisk/risk_index")
    found = []
    for each in ladder:
        index = each.report.metrics.get("rlrisk/risk_index")
        if each is chosen or own is None or index is None:
            continue
        overlaps = index.ci_low <= own.ci_high and own.ci_low <= index.ci_high
        if overlaps and each.report.risk_level == chosen.report.risk_level:
            found.append(each)
    return found


def _named(each: Assessed) -> str:
    return f"{each.version.uri} ({each.version.rung.depth}, risk {each.report.risk_level})"


def _gains(chosen: RiskReport, other: RiskReport) -> list[str]:
    """The same three figures of both, side by side."""
    words = {
        "rlrisk/pass_at_1": "of its answers are right",
        "rlrisk/pass_at_64": "of the prompts are solved within 64 tries",
        "rlrisk/group_signal_fraction": "of the groups of 8 hold a reward difference to learn from",
    }
    return [
        f"{chosen.metrics[name].value:>4.0%} {text} (there: {other.metrics[name].value:.0%})"
        for name, text in words.items()
        if name in chosen.metrics and name in other.metrics
    ]


def _cell(report: RiskReport, name: str) -> str:
    metric = report.metrics.get(name)
    return "undefined" if metric is None else f"{metric.value:.3f}"
