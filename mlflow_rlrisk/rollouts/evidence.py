"""Evidence that was measured on an assessment's rollouts afterwards, kept in its folder.

``evidence.json`` holds values of `AssessmentContext` by field name; whoever judges the rollouts
again takes them into account. What the caller gives wins. The overlap with the SFT data is kept as
well: it belongs to the prompts, which are the folder's own. The first updates of an RL run belong
to the rewards and groups that they were tried on, the J of an audit to the rewards alone; which
these were is kept beside them.
"""

import json
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from mlflow_rlrisk.config import AssessmentConfig
from mlflow_rlrisk.errors import RolloutStoreError
from mlflow_rlrisk.evidence import AssessmentContext, Evidence
from mlflow_rlrisk.rollouts.shards import write_text_atomically

EVIDENCE = "evidence.json"

_INSTEAD = {
    "lookahead_reach": "lookahead_undefined",
    "lookahead_undefined": "lookahead_reach",
}
"""What a value takes the place of."""

_AUDITED = "verifier_youden_j"
_GRADED_AS = {**dict.fromkeys(_INSTEAD, "lookahead_graded_as"), _AUDITED: "verifier_graded_as"}
"""Where `graded_as` of what a value depends on is kept; folders of before do not have it."""
_OF_OTHERS = {"expected_prompts_digest", "heldout_rise_undefined"}  # the RL run's, a lineage's
_NAMES = {each.name for each in fields(AssessmentContext)} - _OF_OTHERS | {*_GRADED_AS.values()}


def graded_as(verifier_digest: str, config: AssessmentConfig) -> str:
    """The verifier, the groups and the threshold: what decides which groups teach, and what."""
    return f"{verifier_digest} {config.group_size} {config.success_threshold}"


def keep_evidence(
    folder: Path, name: str, evidence: Evidence | str, graded: str | None = None
) -> None:
    """Add one value, or replace it.

    Args:
        folder: Folder of an assessment.
        name: Field of `AssessmentContext`.
        evidence: The value, or why there is none.
        graded: `graded_as` of the grades that it depends on, where it does.

    Raises:
        RolloutStoreError: What is kept already cannot be read.
    """
    kept = {**_read(folder), name: evidence}
    kept.pop(_INSTEAD.get(name, ""), None)
    if graded is not None:
        kept[_GRADED_AS[name]] = graded
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
    folder: Path | None, context: AssessmentContext | None, graded: str
) -> AssessmentContext | None:
    """The context with what the folder adds to it.

    Args:
        folder: Folder of the assessment, if it has one.
        context: What the caller gives.
        graded: `graded_as` of the grades that are judged; what was tried on others is left out.

    Raises:
        RolloutStoreError: What is kept cannot be read.
    """
    kept = {} if folder is None else _read(folder)
    told = {key: kept.pop(key, graded) for key in set(_GRADED_AS.values())}
    for name in kept.keys() & _GRADED_AS.keys():
        if not _is_about(name, str(told[_GRADED_AS[name]]), graded):
            del kept[name]
    if not kept:
        return context
    given = context or AssessmentContext()
    missing: dict[str, Any] = {
        name: value
        for name, value in kept.items()
        if getattr(given, name) is None and getattr(given, _INSTEAD.get(name, name)) is None
    }
    return replace(given, **missing)


def _is_about(name: str, told: str, graded: str) -> bool:
    """True where a value speaks of these grades; a verifier errs alike in groups of any size."""
    if name != _AUDITED:
        return told == graded
    return told.split(" ")[::2] == graded.split(" ")[::2]


def _plain(value: Evidence | str) -> dict[str, Any] | str:
    return value if isinstance(value, str) else asdict(value)


def _known(name: str, value: Any) -> Evidence | str:
    if name in ("lookahead_undefined", *_GRADED_AS.values()):
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
