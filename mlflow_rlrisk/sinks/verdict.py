"""The verdict as tags and as Markdown: one wording for runs, LoggedModels and versions."""

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from mlflow_rlrisk.plurals import counted

if TYPE_CHECKING:
    from mlflow_rlrisk.report import RiskReport

INDEX_TAG = "rlrisk.risk_index"
MAX_TAG = 5000
"""MLflow takes 8000 characters on a run and, in older registries, 5000 on a version."""

DESCRIPTION_MARK = "**RL risk: "
"""How a description begins that we wrote; any other one belongs to people."""
_MORE = "More reasons and steps stand in the report."


def verdict_tags(report: "RiskReport") -> dict[str, str]:
    """The tags of a report; the index is absent where it is undefined, sentences stand on lines."""
    tags = {
        "rlrisk.risk_level": str(report.risk_level),
        "rlrisk.reasons": _lines(report.reasons),
        "rlrisk.next_steps": _lines(report.next_steps),
        "rlrisk.policy": report.policy.name,
        "rlrisk.assessed_at": report.provenance.finished_at,
        "rlrisk.num_prompts": str(report.num_prompts),
        "rlrisk.group_size": str(report.config.group_size),
    }
    if index := report.metrics.get("rlrisk/risk_index"):
        tags[INDEX_TAG] = f"{index.value:.4f} [{index.ci_low:.4f}, {index.ci_high:.4f}]"
    return tags


def version_tags(report: "RiskReport", report_uri: str) -> dict[str, str]:
    """The tags of a registered version: they are written onto it, and an attestation signs them."""
    return {**verdict_tags(report), "rlrisk.report_uri": report_uri}


def _lines(sentences: Sequence[str]) -> str:
    """Whole sentences, one a line, within the limit of a tag; what is left out is counted."""
    lines = [" ".join(sentence.split())[: MAX_TAG - 100] for sentence in sentences]
    kept = _fitting(lines, MAX_TAG - 50)
    if len(kept) < len(lines):
        kept.append(f"and {len(lines) - len(kept)} more; see the report")
    return "\n".join(kept)


def _fitting(lines: Sequence[str], limit: int) -> list[str]:
    """The first lines, as many as take no more than ``limit`` characters."""
    sizes = accumulate(len(line) + 1 for line in lines)
    return [line for line, size in zip(lines, sizes, strict=True) if size <= limit]


def verdict_markdown(report: "RiskReport", report_uri: str, limit: int = MAX_TAG) -> str:
    """The verdict as the description of a model version or a run, with the report's address.

    Args:
        report: The verdict.
        report_uri: Where its page is.
        limit: Characters that it may take; what does not fit stands in the report alone.
    """
    tags = verdict_tags(report)
    index = f" (index {tags[INDEX_TAG]})" if INDEX_TAG in tags else ""
    lines = [
        f"{DESCRIPTION_MARK}{report.risk_level}**{index}, {counted(report.num_prompts, 'prompt')}",
        "",
    ]
    lines += [f"- {reason}" for reason in report.reasons]
    if report.next_steps:
        lines += ["", "Next:", ""]
        lines += [f"{number}. {step}" for number, step in enumerate(report.next_steps, 1)]
    end = ["", f"Report: `{report_uri}`"]
    kept = _fitting(lines, limit - sum(map(len, end)) - len(_MORE) - 5)
    if len(kept) < len(lines):
        kept += ["", _MORE]
    return "\n".join([*kept, *end])
