"""A planned test as Markdown: sentences and a table that follow from the figures."""

from collections.abc import Mapping, Sequence
from typing import Any

from examples.study.predictors import OURS
from examples.study.prospective import REFERENCE
from examples.study.tables import interval_text, table, value_text

SUMMARY = [
    "planned test",
    "n (failed), GRPO runs",
    "index of then",
    "ρ with final pass@1, index",
    "pass@64",
    "difference [95 %]",
    "AUROC failed, index",
    "pass@64",
    "difference [95 %]",
    "`low` by the samples (failed)",
    "good ones `high`",
]


def prospective_summary(tested: Sequence[Mapping[str, Any] | None]) -> str:
    """What stands in the README: every test that has runs in a row."""
    known = [found for found in tested if found is not None]
    if not known:
        return ""
    return (
        "**Planned tests**, each committed before its first run. ρ is the mean over lineages; "
        "intervals resample the checkpoints of each; levels are those given before the runs. The "
        "first two asked whether the index ranks the finals as pass@64 does, the others what the "
        "first updates tell (below), the thirteenth what the index is to read, the fourteenth "
        "what is low in larger groups.\n\n" + table(SUMMARY, [_summed(found) for found in known])
    )


def _summed(found: Mapping[str, Any]) -> list[str]:
    own, other = (found["predictors"][name] for name in (OURS, REFERENCE))
    none = {"failed": 0, "good": 0}
    low, high = (found["levels"].get(level, none) for level in ("low", "high"))
    count, planned = sum(found["lineages"].values()), found["num_planned"]
    whole = "" if count == planned else f" of {planned}"
    ends = interval_text(own["less_reference"])
    is_lost = own["within"] < other["within"]
    asked = found["is_of_rank"]
    verdict = ("**lost** " if is_lost else "won ") if asked else ""
    return [
        f"{found['title'].removesuffix(' out of sample')}: {', '.join(found['lineages'])}",
        f"{count}{whole} ({sum(found['failed'].values())}), {found['num_runs']}",
        f"`{found['formula'][:12]}`{'' if found['is_shipped'] else ', changed since'}",
        f"{own['within']:.3f}",
        f"{other['within']:.3f}",
        f"{verdict}{ends}",
        value_text(own["auroc_failed"]),
        value_text(other["auroc_failed"]),
        "" if own["auroc_failed"] is None else interval_text(found["auroc_less_reference"]),
        f"{sum(low.values())} ({low['failed']})",
        f"{high['good']} of {sum(each['good'] for each in found['levels'].values())}",
    ]


def prospective_section(found: Mapping[str, Any] | None) -> str:
    """A test in sentences; nothing while there are no runs."""
    if found is None:
        return ""
    sentences = [_ranking(found), _failing(found), _levels(found), _candidates(found)]
    sentences += [] if found["is_shipped"] else [_now(found)]
    return _size(found) + "\n" + "".join(f"* {sentence}\n" for sentence in sentences)


def prospective_page(found: Mapping[str, Any] | None) -> str:
    """The same with every predictor, for the page of all tables."""
    return "" if found is None else prospective_section(found) + "\n" + _main(found)


def _size(found: Mapping[str, Any]) -> str:
    lineages = ", ".join(
        f"{name} {count}, of which {found['failed'][name]} failed"
        for name, count in found["lineages"].items()
    )
    count, planned = sum(found["lineages"].values()), found["num_planned"]
    whole = "" if count == planned else f" of {planned} planned"
    shipped = "and shipped unchanged" if found["is_shipped"] else "**but changed since**"
    floor = found["noise"]["sd"]
    seeds = "" if floor is None else f"; two RL seeds of a checkpoint differ by {floor:.3f}"
    return (
        f"**{found['title']}.** {count} checkpoints{whole} ({lineages}), {found['num_runs']} GRPO "
        f"runs{seeds}. Index formula `{found['formula'][:12]}`, frozen before the first run "
        f"{shipped}. Intervals resample the checkpoints of each lineage.\n"
    )


def _ranking(found: Mapping[str, Any]) -> str:
    own, other = (found["predictors"][name] for name in (OURS, REFERENCE))
    verb = (
        "ranks at least as well as" if own["within"] >= other["within"] else "**ranks worse than**"
    )
    best, most = _best(found, "within")
    ends = interval_text(own["less_reference"])
    what = "The planned test: by" if found["is_of_rank"] else "By"
    return (
        f"{what} final pass@1 the index {verb} pass@64, {own['within']:.3f} and "
        f"{other['within']:.3f} within a lineage, difference in {ends}. Best of all is {best} "
        f"({most:.3f}). Against the gain of pass@1: {own['gain']:.2f} and {other['gain']:.2f}."
    )


def _failing(found: Mapping[str, Any]) -> str:
    own, other = (found["predictors"][name]["auroc_failed"] for name in (OURS, REFERENCE))
    if own is None:
        return "Finding runs that fail: all runs ended alike, so nothing can be said."
    best, most = _best(found, "auroc_failed")
    ends, apart = (interval_text(found[f"auroc_{key}"]) for key in ("interval", "less_reference"))
    return (
        f"Finding runs that fail: AUROC {own:.3f} {ends}, pass@64 {other:.3f}, difference in "
        f"{apart}; best is {best} ({most:.3f})."
    )


def _best(found: Mapping[str, Any], key: str) -> tuple[str, float]:
    known = {name: each[key] for name, each in found["predictors"].items() if each[key] is not None}
    best = max(known, key=lambda name: known[name])
    return best, known[best]


def _levels(found: Mapping[str, Any]) -> str:
    none = {"failed": 0, "good": 0}
    low, medium, high = (found["levels"].get(level, none) for level in ("low", "medium", "high"))
    failed, good = (sum(each[key] for each in found["levels"].values()) for key in none)
    which = (
        "no checkpoint whose run failed was called `low`"
        if low["failed"] == 0
        else f"**{low['failed']} of {failed} checkpoints whose run failed were called `low`**"
    )
    if sum(low.values()) == 0:
        which += ", for none was called so at all"
    how = "" if found["is_of_rank"] else " by the samples alone"
    return (
        f"Levels{how} as given before the runs: {which}. `low` {sum(low.values())} "
        f"({low['failed']} failed), `medium` {sum(medium.values())} ({medium['failed']}), `high` "
        f"{sum(high.values())} ({high['failed']}); of {good} that did not fail {high['good']} were "
        f"called `high`."
    )


def _candidates(found: Mapping[str, Any]) -> str:
    own = found["predictors"][OURS]["within"]
    ahead = {
        name: each["within"] for name, each in found["candidates"].items() if each["within"] > own
    }
    if not ahead:
        return "None of the frozen candidates would have ranked the finals better."
    listed = ", ".join(
        f"`{name}` {ahead[name]:.2f}" for name in sorted(ahead, key=lambda n: -ahead[n])
    )
    return f"Frozen candidates that would have ranked the finals better: {listed}."


def _now(found: Mapping[str, Any]) -> str:
    now, count = found["now"], sum(found["lineages"].values())
    return (
        f"The index as it is now differs on {now['num_other']} of the {count} checkpoints, of "
        f"which {now['failed_other']} failed. It ranks the finals with "
        f"{value_text(now['within'])}, the gains with {value_text(now['gain'])}; AUROC of a failed "
        f"run {value_text(now['auroc_failed'])}."
    )


def _main(found: Mapping[str, Any]) -> str:
    names = list(found["lineages"])
    head = ["predictor", "within [95 %]", *names, "− pass@64 [95 %]", "ρ with gain", "AUROC failed"]
    rows = []
    for name, each in found["predictors"].items():
        rows.append(
            [
                f"**{name}**" if name == OURS else name,
                f"{value_text(each['within'])} {interval_text(each['interval'])}",
                *[value_text(each["lineages"][lineage]) for lineage in names],
                interval_text(each["less_reference"]) if name != REFERENCE else "",
                value_text(each["gain"]),
                value_text(each["auroc_failed"]),
                *[value_text(each["auroc_lineages"][lineage]) for lineage in names],
                f"{each['regret']:.3f}",
            ]
        )
    return table([*head, *[f"AUROC {name}" for name in names], "regret"], rows)


def prospective_candidates(found: Mapping[str, Any] | None) -> str:
    """The frozen candidates on the lineages of the test, for the page of all tables."""
    if found is None:
        return ""
    names = list(found["lineages"])
    rows = [
        [
            f"`{name}`",
            value_text(each["within"]),
            *[value_text(each["lineages"][lineage]) for lineage in names],
            value_text(each["gain"]),
            value_text(each["auroc_failed"]),
            f"{each['regret']:.3f}",
        ]
        for name, each in found["candidates"].items()
    ]
    head = ["candidate, out of sample", "within ρ", *names, "ρ with gain", "AUROC failed", "regret"]
    return table(head, rows)
