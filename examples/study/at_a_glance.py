"""What the README shows of the evidence: a picture, and a line for each planned test."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from examples.study.first_updates import REACH, closed_share, lookaheads_of
from examples.study.outcomes import CONSTANT
from examples.study.outcomes import REACH as CURVE
from examples.study.predictors import OURS
from examples.study.prospective import REFERENCE
from examples.study.rows import PairRow
from examples.study.scoring import study_of
from examples.study.tables import interval_text, table, value_text

PICTURE = Path(__file__).parent / "evidence.png"
FAILED_GAP = 0.15
"""Of the definition of failure: a run that closes less of the gap to a perfect pass@1 failed."""
REACH_SHOWN, CLOSED_SHOWN = (-1.0, 3.0), (-0.3, 1.0)
"""From where to where the picture goes."""
INK, MUTED, GRID = "#1b2230", "#566072", "#d9dee6"
GOOD, FAILED = "#2a5bd0", "#b4541a"

Found = Mapping[str, Any]


def level_shares(ahead: Sequence[Found | None]) -> dict[str, tuple[int, int]]:
    """How many failed, and of how many, for each level by today's lines, over all rows."""
    known = [found for found in ahead if found is not None]

    def counted(key: str, level: str) -> tuple[int, int]:
        each = [found[key][level] for found in known]
        failed = sum(one["failed"] for one in each)
        return failed, failed + sum(one["good"] for one in each)

    return {
        "low, with the first updates tried": counted("levels_with_now", "low"),
        "low, by the samples": counted("levels", "low"),
        "medium": counted("levels", "medium"),
        "high": counted("levels", "high"),
    }


def alternative_text(ahead: Sequence[Found | None]) -> str:
    """What the picture shows, in words."""
    shares = "; ".join(
        f"{name}: {failed} of {count} failed"
        for name, (failed, count) in level_shares(ahead).items()
    )
    return f"Checkpoints by level, and how many of their RL runs failed. {shares}."


def picture_line(ahead: Sequence[Found | None]) -> str:
    """The picture as Markdown, for the README."""
    return f"![{alternative_text(ahead)}](examples/study/{PICTURE.name})\n"


def draw_picture(
    rows: Sequence[PairRow], ahead: Sequence[Found | None], path: Path = PICTURE
) -> None:
    """Write the picture: failures by level, and the first updates beside what RL then closed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 3.7), dpi=150, layout="constrained")
    levels, updates = figure.subplots(1, 2, width_ratios=[1.0, 1.15])
    for axes in (levels, updates):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=MUTED)
        axes.set_axisbelow(True)
    _draw_levels(levels, level_shares(ahead))
    _draw_updates(updates, rows)
    figure.savefig(path, metadata={"Description": alternative_text(ahead)})


def _draw_levels(axes: Any, shares: Mapping[str, tuple[int, int]]) -> None:
    places = range(len(shares))[::-1]
    for place, (name, (failed, count)) in zip(places, shares.items(), strict=True):
        share = failed / count
        axes.barh(place, 1.0, height=0.42, color=GOOD, alpha=0.25)
        axes.barh(place, share, height=0.42, color=FAILED)
        axes.text(share + 0.015, place, f"{failed} of {count}", va="center", color=INK, fontsize=9)
        axes.text(0.005, place + 0.25, name, va="bottom", color=INK, fontsize=9)
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.5, len(shares) - 0.4)
    axes.set_yticks([])
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25 %", "50 %", "75 %", "100 %"])
    axes.set_xlabel("checkpoints whose RL run failed", color=MUTED)
    axes.set_title("What the level is worth", loc="left", fontsize=11, color=INK)


def _draw_updates(axes: Any, rows: Sequence[PairRow]) -> None:
    ahead = lookaheads_of(rows) or []
    pairs = [(row, own["reach"][0]) for row, own in zip(rows, ahead, strict=True) if own["reach"]]
    study = study_of([row for row, _ in pairs])
    (reach, left), (closed, right) = (
        (np.clip(values, *ends), (values < ends[0]) | (values > ends[1]))
        for values, ends in (
            (np.array([value for _, value in pairs]), REACH_SHOWN),
            (closed_share(study), CLOSED_SHOWN),
        )
    )
    axes.axhline(FAILED_GAP, color=MUTED, linewidth=0.8, linestyle=":")
    for has_failed, colour, label in ((False, GOOD, "did not fail"), (True, FAILED, "failed")):
        own = study.failed == has_failed
        axes.scatter(
            reach[own], closed[own], s=9, color=colour, alpha=0.55, linewidth=0, label=label
        )
    axes.grid(color=GRID, linewidth=0.6)
    beyond = f"{int((left | right).sum())} beyond the frame stand on it"
    axes.text(0.99, 0.02, beyond, transform=axes.transAxes, ha="right", color=MUTED, fontsize=8)
    axes.set_xlabel("gap that RL would close at the pace of its first 8 updates", color=MUTED)
    axes.set_ylabel("gap that RL did close", color=MUTED)
    axes.set_title(
        f"What the first updates foretell ({len(pairs)} checkpoints)",
        loc="left",
        fontsize=11,
        color=INK,
    )
    axes.legend(frameon=False, fontsize=9, loc="upper left", labelcolor=INK)


def planned_table(
    tested: Sequence[Found | None], ahead: Sequence[Found | None], chances: Sequence[Found | None]
) -> str:
    """The planned tests that have runs, a row each; then what was known when the updates came."""
    updates = {_bare(found["title"]): found for found in ahead if found is not None}
    curves = {_bare(found["title"]): found for found in chances if found is not None}
    rows = []
    for found in tested:
        if found is None:
            continue
        name = _bare(found["title"])
        rows.append([*_ranked(found), *_told(updates.pop(name, None)), _held(curves.get(name))])
    rows += [
        [name, f"{found['num_checkpoints']} ({found['num_failed']})", "", *_told(found), ""]
        for name, found in updates.items()
    ]
    head = ["planned test", "n (failed)", "index − pass@64", "`low`, no line of luck", "`low`"]
    head += ["`low`, updates tried", f"AUROC failed, {REACH}", "pass@64", "chance of failure"]
    return (
        "**Planned tests**, each committed before its first run. Index − pass@64: difference of "
        "their mean rank correlations with final pass@1 in a lineage, by the index of then. "
        "`low` (how many of them failed): by the samples without any line of luck (as until the "
        "eleventh test), by the samples as they are judged today, and with the run's first updates "
        "tried. The last row are the lineages that were known when the updates were built. "
        "Chance of failure: Brier score of the curve of the updates that was written down before "
        "the test, of the index's, and of always saying the share that failed before; bold where "
        "the first is not the least. In sentences, with intervals and all rivals: "
        "[EVIDENCE.md](examples/study/EVIDENCE.md).\n\n" + table(head, rows)
    )


def _bare(title: str) -> str:
    return title.removeprefix("First updates, ").removesuffix(" out of sample").lower()


def _ranked(found: Found) -> list[str]:
    own, other = (found["predictors"][name]["within"] for name in (OURS, REFERENCE))
    ends = interval_text(found["predictors"][OURS]["less_reference"])
    count, num_failed = sum(found["lineages"].values()), sum(found["failed"].values())
    lost = "**lost** " if found["is_of_rank"] and own < other else ""
    name = f"{_bare(found['title']).removesuffix(' test')}: {', '.join(found['lineages'])}"
    return [name, f"{count} ({num_failed})", f"{lost}{own - other:+.2f} {ends}"]


def _told(found: Found | None) -> list[str]:
    """Levels and updates of a test; empty cells for one that was before there were updates."""
    if found is None:
        return [""] * 5
    keys = ("levels_without_line", "levels", "levels_with_now")
    lows = [found[key]["low"] for key in keys]
    reach, other = (found["predictors"][name] for name in (REACH, REFERENCE))
    ends = "" if reach["auroc"] is None else f" {interval_text(reach['interval'])}"
    return [
        *(f"{sum(low.values())} ({low['failed']})" for low in lows),
        f"{value_text(reach['auroc'])}{ends}",
        value_text(other["auroc"]),
    ]


def _held(found: Found | None) -> str:
    if found is None:
        return ""
    own, index, constant = (found["brier"][name] for name in (CURVE, "risk_index", CONSTANT))
    mark = "" if own < min(index, constant) else "**"
    return f"{mark}{own:.3f}{mark}, {index:.3f}, {constant:.3f}"
