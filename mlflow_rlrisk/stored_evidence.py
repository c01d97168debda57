"""Evidence that was measured on an assessment's rollouts afterwards, kept in its folder.

``evidence.json`` holds values of `AssessmentContext` by field name; whoever judges the rollouts
again takes them into account. What the caller gives wins. The overlap with the SFT data is kept as
well: it belongs to the prompts, which are the folder's own.
"""

import json
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from mlflow_rlrisk.errors import RolloutStoreError
from mlflow_rlrisk.evidence import AssessmentContext, Evidence
from mlflow_rlrisk.rollout_shards import write_text_atomically

EVIDENCE = "evidence.json"

_INSTEAD = {
    "lookahead_reach": "lookahead_undefined",
    "lookahead_undefined": "lookahead_reach",
}
"""What a value takes the place of."""

_NAMES = frozenset(each.name for each in fields(AssessmentContext)) - {"expected_prompts_digest"}


def keep_evidence(folder: Path, name: str, evidence: Evidence | str) -> None:
    """Add one value, or replace it.

    Args:
        folder: Folder of an assessment.
        name: Field of `AssessmentContext`.
        evidence: The value, or why there is none.

    Raises:
        RolloutStoreError: What is kept already cannot be read.
    """
    kept = {**_read(folder), name: evidence}
    kept.pop(_INSTEAD.get(name, ""), None)
    text = json.dumps({key: _plain(kept[key]) for key in sorted(kept)}, indent=2)
    write_text_atomically(folder / EVIDENCE, text + "\n")


def keep_context(folder: Path, context: AssessmentContext | None) -> None:
    """Keep what of the context belongs to the folder's prompts: the overlap.

    Raises:
        RolloutStoreError: What is kept already cannot be read.
    """
    if context is not None and context.sft_rl_overlap is not None:
        keep_evidence(folder, "sft_rl_overlap", context.sft_rl_overlap)


def with_stored_evidence(
    folder: Path | None, context: AssessmentContext | None
) -> AssessmentContext | None:
    """The context with what the folder adds to it.

    Raises:
        RolloutStoreError: What is kept cannot be read.
    """
    kept = {} if folder is None else _read(folder)
    if not kept:
        return context
    given = context or AssessmentContext()
    missing: dict[str, Any] = {
        name: value
        for name, value in kept.items()
        if getattr(given, name) is None and getattr(given, _INSTEAD.get(name, name)) is None
    }
    return replace(given, **missing)


def _plain(value: Evidence | str) -> dict[str, Any] | str:
    return value if isinstance(value, str) else asdict(value)


def _known(name: str, value: Any) -> Evidence | str:
    if name == "lookahead_undefined":
        if not isinstance(value, str):
            raise TypeError(f"{name} must be a sentence")
        return value
    return Evidence(**value)


def _read(folder: Path) -> dict[str, Evidence | str]:
    path = folder / EVIDENCE
    if not path.is_file():
        return {}
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        unknown = sorted(set(raw) - _NAMES)
        if unknown:
            raise ValueError(f"unknown: {', '.join(unknown)}")
        return {name: _known(name, value) for name, value in raw.items()}
    except (OSError, RecursionError, ValueError, TypeError, AttributeError) as error:
        raise RolloutStoreError(f"{path} is damaged: {error}") from error
