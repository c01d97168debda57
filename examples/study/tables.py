"""The section of the README as Markdown, from the figures of `analyse`."""

from collections.abc import Mapping, Sequence
from typing import Any

from examples.study.findings import findings
from examples.study.predictors import OURS
from examples.study.scoring import OUTCOMES, PRIMARY


def section(found: Mapping[str, Any]) -> str:
    """What stands in the README, between its markers."""
    return "\n".join([_size(found), findings(found), _main(found)])


def everything(found: Mapping[str, Any]) -> str:
    """All tables, as a page of its own."""
    head = "# Evidence\n\nWritten by `python -m examples.study.analyse`; see the README.\n"
    parts = [_levels(found), _misplaced_kinds(found), _outcomes(found), _chosen(found)]
    parts += [_candidates(found), _misplaced(found)]
    return "\n".join([head, section(found), *parts])


def _size(found: Mapping[str, Any]) -> str:
    lineages = ", ".join(f"{name} {count}" for name, count in found["lineages"].items())
    noise = found["noise"]
    second = f"Of {noise['num_pairs']} checkpoints a second RL seed was run"
    if noise["num_pairs"]:
        second += (
            f": the finals differ by a standard deviation of {noise['sd']:.3f}, the seeds rank "
            f"them alike with {value_text(noise['within'])} within a lineage (nothing predicts "
            f"better than that), and {noise['num_disagreeing']} disagree on failure"
        )
    return (
        f"{found['num_checkpoints']} checkpoints ({lineages}), {found['num_runs']} GRPO runs, "
        f"{found['num_failed']} checkpoints failed by the rule written down before. {second}.\n"
    )


def _main(found: Mapping[str, Any]) -> str:
    names = list(found["lineages"])
    head = ["predictor", "within [95 %]", *names, "− pass@64 [95 %]", "pooled ρ", "τ", "demeaned ρ"]
    head += ["ρ given pass@1", "AUROC failed", "regret"]
    rows = []
    for name, each in found["predictors"].items():
        alone = [value_text(each["lineages"][lineage]) for lineage in names]
        rows.append(
            [
                f"**{name}**" if name == OURS else name,
                f"{value_text(each['within'])} {interval_text(each['interval'])}",
                *alone,
                interval_text(each["less_reference"]) if name != "pass@64" else "",
                *[value_text(each[key]) for key in ("spearman", "kendall", "demeaned", "partial")],
                value_text(each["auroc_failed"]),
                f"{each['regret']:.3f}",
            ]
        )
    return table(head, rows)


def _outcomes(found: Mapping[str, Any]) -> str:
    rows = [
        [name, *[value_text(each["outcomes"][outcome]) for outcome in OUTCOMES]]
        for name, each in found["predictors"].items()
    ]
    head = ["within ρ with", *[name.replace("pass_at_", "pass@") for name in OUTCOMES]]
    return table(head, rows)


def _chosen(found: Mapping[str, Any]) -> str:
    names = list(found["lineages"])
    rows = []
    for pool, each in found["chosen_elsewhere"].items():
        mean = sum(score for _, score in each.values()) / len(each)
        rows.append([pool, *[f"{each[n][0]} {each[n][1]:.2f}" for n in names], f"{mean:.2f}"])
    return table(["chosen on the other lineages", *names, "mean"], rows)


def _levels(found: Mapping[str, Any]) -> str:
    rows = [
        [f"`{level}`", *[str(counts[key]) for key in ("failed", "good", "best_third")]]
        for level, counts in found["levels"].items()
    ]
    return table(["level", "failed", "did not fail", "best third of its lineage"], rows)


def _candidates(found: Mapping[str, Any]) -> str:
    names = list(found["lineages"])
    shown = [PRIMARY, "gain pass_at_1", "peak pass_at_10"]
    rows = [
        [
            f"`{name}`",
            *[value_text(each["lineages"][lineage]) for lineage in names],
            *[value_text(each["outcomes"][outcome]) for outcome in shown],
            value_text(each["auroc_failed"]),
        ]
        for name, each in found["candidates"].items()
    ]
    digest = found["frozen"]["sha256"][:12]
    head = [f"candidate (frozen as {digest})", *names]
    head += [f"within ρ, {name.replace('pass_at_', 'pass@')}" for name in shown]
    return table([*head, "AUROC failed"], rows)


def _misplaced_kinds(found: Mapping[str, Any]) -> str:
    rows = [
        [kind, str(each["count"]), f"{each['mean']:+.2f}", f"{each['mean_size']:.2f}"]
        for kind, each in found["misranked"]["by_kind"].items()
    ]
    return table(["kind", "n", "rank promised less rank held", "size"], rows)


def _misplaced(found: Mapping[str, Any]) -> str:
    worst = [
        [
            f"{each['lineage']} {each['checkpoint']}",
            each["kind"],
            f"{each['error']:+.2f}",
            f"{each['before']:.2f}",
            f"{each['pass_at_64']:.2f}",
            f"{each['final']:.2f}",
        ]
        for each in found["misranked"]["worst"]
    ]
    head = ["most misplaced", "kind", "rank error", "pass@1 before", "pass@64", "pass@1 after"]
    return table(head, worst)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def value_text(value: float | None) -> str:
    """Two digits, a dash where a figure is undefined."""
    return "–" if value is None else f"{value:.2f}"


def interval_text(ends: Sequence[float]) -> str:
    """Both ends, two digits."""
    return f"[{ends[0]:.2f}, {ends[1]:.2f}]"
