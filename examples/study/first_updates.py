"""What the first updates of a run, tried before it, say of its outcome; and what the level says.

``results/lookahead.jsonl`` holds what the tool said of each checkpoint with them. The line of the
component was drawn with the outcomes of the first eight lineages known; those of the third planned
test came after it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from examples.study.looking_ahead import FILE, LookaheadRow, read_lookaheads
from examples.study.predictors import PREDICTORS, RESULTS, values_of
from examples.study.prospective import PLANNED, REFERENCE, stratified
from examples.study.rows import PairRow
from examples.study.scoring import (
    Study,
    auroc_draws,
    by_lineage,
    defined,
    study_of,
    within_auroc,
)
from examples.study.tables import interval_text, table, value_text
from examples.study.verdicts import NO_LUCK, level_now, with_luck
from mlflow_rlrisk.config import PolicyConfig
from mlflow_rlrisk.report_record import RiskLevel
from mlflow_rlrisk.statistics import auroc, ramp, spearman

REACH = "`lookahead_reach`"
PROMISE = 0.25
WIDER = (1.3, 1.8)
"""Today's intervals over those of most rows (`tests.benchmarks.lookahead_coverage`): from, to."""
HAS_WIDE = frozenset(name for test in PLANNED[7:] for name in test.lineages)
"""Lineages whose rows hold intervals as they are today: those of the eighth test and later."""
NO_LINE = PolicyConfig(**NO_LUCK)
"""The rules as they were until the eleventh test."""
HEADROOM_LINE = PolicyConfig(low_agreement_from=0.0)
"""The rules as they were until the twelfth."""
RIVALS = (
    REFERENCE,
    "pass@10",
    "pass@1 sampled",
    "group signal",
    "token entropy",
    "held-out loss",
)


def lookaheads_of(rows: Sequence[PairRow]) -> list[LookaheadRow] | None:
    """The look ahead of each row, in their order; ``None`` where one is missing.

    Raises:
        ValueError: One was made of other weights than were assessed and trained.
    """
    path = RESULTS / FILE
    known = read_lookaheads(path) if path.is_file() else []
    found = {(each["lineage"], each["checkpoint"]): each for each in known}
    if not all((row["lineage"], row["checkpoint"]) in found for row in rows):
        return None
    chosen = [found[row["lineage"], row["checkpoint"]] for row in rows]
    for row, own in zip(rows, chosen, strict=True):
        if own["weights"] != row["digests"]["weights"]:
            raise ValueError(f"{row['lineage']} {row['checkpoint']}: of other weights")
    return chosen


def measured_lineages(rows: Sequence[PairRow]) -> list[str]:
    """Lineages of which the updates of every checkpoint were tried."""
    names = sorted({row["lineage"] for row in rows})
    members = {name: [row for row in rows if row["lineage"] == name] for name in names}
    return [name for name in names if lookaheads_of(members[name]) is not None]


def first_update_figures(
    rows: Sequence[PairRow], lineages: Sequence[str], title: str
) -> dict[str, Any] | None:
    """Every figure for some lineages as JSON values; ``None`` while one of them is not complete."""
    study = study_of([row for row in rows if row["lineage"] in lineages])
    ahead = lookaheads_of(study.rows)
    if not study.rows or ahead is None or set(study.names) != set(lineages):
        return None
    told = study_of([row for row, own in zip(study.rows, ahead, strict=True) if own["reach"]])
    reach = np.array([own["reach"][0] for own in ahead if own["reach"]])
    now = [
        with_luck(row, RiskLevel(own["risk_level"]), PolicyConfig(), are_updates_tried=True)
        for row, own in zip(study.rows, ahead, strict=True)
    ]
    return {
        "title": title,
        "lineages": study.names,
        "num_checkpoints": len(study.rows),
        "num_failed": int(study.failed.sum()),
        "num_silent": len(study.rows) - len(told.rows),
        "pace": pace(reach, closed_share(told)),
        "predictors": _predictors(told, reach),
        "levels": _levels(study, [level_now(row) for row in study.rows]),
        "levels_without_line": _levels(study, [level_now(row, NO_LINE) for row in study.rows]),
        "levels_headroom": _levels(study, [level_now(row, HEADROOM_LINE) for row in study.rows]),
        "levels_with": _levels(study, [RiskLevel(each["risk_level"]) for each in ahead]),
        "levels_with_now": _levels(study, now),
        "lows": _lows(study, now),
        "lows_wider": [_lows_wider(study, ahead, now, factor) for factor in WIDER],
    }


def _predictors(study: Study, reach: np.ndarray) -> dict[str, dict[str, Any]]:
    """Figures of the reach and its rivals, on the checkpoints that have one."""
    values = {REACH: reach, **{name: values_of(study.rows, PREDICTORS[name]) for name in RIVALS}}
    drawn, closed = stratified(study), closed_share(study)
    draws = {name: auroc_draws(study, each, drawn) for name, each in values.items()}
    return {
        name: {
            "auroc": defined(lambda own=own: auroc(-own, study.failed)),
            "interval": _ends(draws[name]),
            "less_reference": _ends(draws[name] - draws[REFERENCE]),
            "auroc_within": within_auroc(study, own),
            "closed_pooled": defined(lambda own=own: spearman(own, closed)),
            "closed_within": _within_rank(study, own, closed),
            "final_within": float(
                np.mean([r or 0.0 for r in by_lineage(study, own, "final pass_at_1").values()])
            ),
        }
        for name, own in values.items()
    }


def closed_share(study: Study) -> np.ndarray:
    """Share of the gap to a perfect pass@1 that RL closed, mean over its seeds, ``[C]``."""
    return np.array(
        [
            np.mean(
                [
                    run["gain"]["pass_at_1"] / (1.0 - run["before"]["pass_at_1"])
                    for run in row["outcomes"]
                ]
            )
            for row in study.rows
        ]
    )


def pace(reach: np.ndarray, closed: np.ndarray) -> float | None:
    """Median of what was closed over what the first pace promised, where it promised something."""
    promised = reach > PROMISE
    return float(np.median(closed[promised] / reach[promised])) if promised.any() else None


def _within_rank(study: Study, values: np.ndarray, closed: np.ndarray) -> float:
    found = []
    for name in study.names:
        own = study.lineages == name
        found.append(defined(lambda own=own: spearman(values[own], closed[own])) or 0.0)
    return float(np.mean(found))


def _levels(study: Study, levels: Sequence[RiskLevel]) -> dict[str, dict[str, int]]:
    pairs = list(zip(levels, study.failed.tolist(), strict=True))
    return {
        level.value: {"failed": pairs.count((level, True)), "good": pairs.count((level, False))}
        for level in (RiskLevel.LOW, RiskLevel.MEDIUM, RiskLevel.HIGH)
    }


def _lows(study: Study, levels: Sequence[RiskLevel]) -> list[str]:
    """The failed ones that are low all the same."""
    return [
        f"{row['lineage']} {row['checkpoint']}"
        for row, level, has_failed in zip(study.rows, levels, study.failed, strict=True)
        if has_failed and level is RiskLevel.LOW
    ]


def _lows_wider(
    study: Study, ahead: Sequence[LookaheadRow], levels: Sequence[RiskLevel], factor: float
) -> list[int]:
    """How many would be low, and how many of them failed, were the interval so much wider."""
    policy = PolicyConfig()
    line = policy.components["lookahead"]
    reach = np.array([own["reach"][:2] or [0.0, 0.0] for own in ahead])  # a silent one is not low
    times = np.array([1.0 if row["lineage"] in HAS_WIDE else factor for row in study.rows])
    ends = reach[:, 0] - times * (reach[:, 0] - reach[:, 1])
    was_low = np.array([level is RiskLevel.LOW for level in levels])
    stays = was_low & (ramp(ends, line.ok, line.bad) <= policy.max_component)
    return [int(stays.sum()), int((stays & study.failed).sum())]


def _ends(draws: np.ndarray) -> list[float]:
    return [float(end) for end in np.quantile(draws, [0.025, 0.975])]


def first_update_summary(tested: Sequence[dict[str, Any] | None]) -> str:
    """What stands in the README: every set of lineages in a row, and each failed low one named."""
    known = [found for found in tested if found is not None]
    if not known:
        return ""
    rows = []
    for found in known:
        reach, other = (found["predictors"][name] for name in (REACH, REFERENCE))
        keys = ("levels_without_line", "levels_headroom", "levels")
        keys += ("levels_with", "levels_with_now")
        lows = [found[key]["low"] for key in keys]
        rows.append(
            [
                found["title"].removeprefix("First updates, "),
                f"{found['num_checkpoints']} ({found['num_failed']})",
                *(f"{sum(low.values())} ({low['failed']})" for low in lows),
                str(found["levels_with"]["high"]["good"]),
                *_auroc_cells(reach, is_reference=False),
                value_text(other["auroc"]),
                value_text(reach["closed_pooled"]),
                value_text(found["pace"]),
            ]
        )
    head = ["levels and the first updates", "n (failed)", "`low` by the samples (failed)"]
    head += ["with the line of headroom (failed)", "by today's lines (failed)"]
    head += ["`low` with the updates (failed)", "by today's lines (failed)"]
    head += ["good ones `high`", f"AUROC failed, {REACH}"]
    head += ["− pass@64 [95 %]", "AUROC, pass@64", "ρ with the gap closed", "closed of the pace"]
    named = [name for found in known for name in found["lows"]]
    return (
        table(head, rows)
        + "\nFailed and `low` with the updates by today's lines: "
        + f"{', '.join(named) if named else 'none'}. "
        + _said_wider(np.sum([found["lows_wider"] for found in known], axis=0).tolist())
    )


def _said_wider(lows: Sequence[Sequence[int]]) -> str:
    (some, failed), (fewer, still) = lows
    return (
        "Those before the eighth test were given with intervals over prompts alone, which "
        f"held too seldom. Today's are {WIDER[0]:g} to {WIDER[1]:g} times as wide: stretched so, "
        f"{some} ({failed} failed) to {fewer} ({still} failed) of all would be `low`.\n"
    )


def first_update_section(found: dict[str, Any] | None) -> str:
    """One set of lineages for the page of all tables: sentences, and every predictor."""
    if found is None:
        return ""
    sentences = [
        _finding(*(found["predictors"][name] for name in (REACH, REFERENCE))),
        f"Levels by the samples alone: {_said(found['levels'])}. With the first updates: "
        f"{_said(found['levels_with_now'])}; "
        + (
            f"**failed and `low`: {', '.join(found['lows'])}**"
            if found["lows"]
            else "no checkpoint whose run failed is `low`"
        )
        + ".",
        _pace(found["pace"]),
    ]
    rows = [
        [
            f"**{name}**" if name == REACH else name,
            *_auroc_cells(each, is_reference=name == REFERENCE),
            value_text(each["auroc_within"]),
            value_text(each["closed_pooled"]),
            value_text(each["closed_within"]),
            value_text(each["final_within"]),
        ]
        for name, each in found["predictors"].items()
    ]
    head = ["predictor", "AUROC failed [95 %]", "− pass@64 [95 %]", "within a lineage"]
    head += ["ρ with the gap closed", "within", "ρ with final pass@1, within"]
    return (
        f"**{found['title']}.** {found['num_checkpoints']} checkpoints "
        f"({', '.join(found['lineages'])}), {found['num_failed']} failed{_silent(found)}.\n\n"
        + "".join(f"* {sentence}\n" for sentence in sentences)
        + "\n"
        + table(head, rows)
    )


def _silent(found: dict[str, Any]) -> str:
    silent = found["num_silent"]
    return f"; of {silent} the updates say nothing, figures are of the others" if silent else ""


def _auroc_cells(each: dict[str, Any], *, is_reference: bool) -> list[str]:
    if each["auroc"] is None:
        return [value_text(None), ""]
    ends = f"{value_text(each['auroc'])} {interval_text(each['interval'])}"
    return [ends, "" if is_reference else interval_text(each["less_reference"])]


def _pace(found: float | None) -> str:
    if found is None:
        return f"The first pace of no run promised more than {PROMISE}."
    return (
        f"Runs closed {found:.2f} of what the pace of their first updates promised (median, where "
        f"that was above {PROMISE})."
    )


def _finding(reach: dict[str, Any], other: dict[str, Any]) -> str:
    if reach["auroc"] is None:
        return "All runs ended alike, so nothing can be said of finding those that fail."
    verb = "finds" if reach["auroc"] >= other["auroc"] else "**does not find**"
    return (
        f"{REACH} {verb} the runs that fail at least as well as pass@64: AUROC "
        f"{reach['auroc']:.3f} {interval_text(reach['interval'])} and {other['auroc']:.3f}, "
        f"difference in {interval_text(reach['less_reference'])}."
    )


def _said(levels: dict[str, dict[str, int]]) -> str:
    return ", ".join(
        f"`{level}` {sum(counts.values())} ({counts['failed']} failed)"
        for level, counts in levels.items()
    )
