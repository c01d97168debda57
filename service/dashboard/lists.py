"""What the pages of lists show: models with the levels of their versions, overrides."""

from typing import Any

from service.problems import without_paths
from service.registry.reader import ASSESSED_TAG, RegistryReader
from service.registry.records import ModelPage, ModelSummary, VersionRecord
from service.registry.version_levels import versions_of
from service.schemas import moment
from service.tables.overrides import OverrideRow, OverrideState

VERSIONS_SHOWN = 6
_CHIPS = {OverrideState.SIGNED: "out-promote", OverrideState.FAILED: "out-block"}


def model_rows(registry: RegistryReader, page: ModelPage) -> list[dict[str, Any]]:
    """Values of ``models.html.j2``, one model each.

    Raises:
        SinkError: The registry does not answer.
    """
    versions = versions_of(registry.client, [model.name for model in page.models])
    return [_row(model, versions.get(model.name, ())) for model in page.models]


def _row(model: ModelSummary, found: tuple[VersionRecord, ...]) -> dict[str, Any]:
    if not found and model.newest is not None:
        found = (model.newest,)
    by_number = {each.version: each for each in found}
    tags = found[0].tags if found else {}
    return {
        "name": model.name,
        "description": model.description,
        "versions": found[:VERSIONS_SHOWN],
        "more": max(len(found) - VERSIONS_SHOWN, 0),
        "index": tags.get("rlrisk.risk_index", "–"),
        "assessed_at": tags.get(ASSESSED_TAG, ""),
        "aliases": [
            {
                "alias": alias,
                "version": number,
                "is_known": number in by_number,
                "level": by_number[number].level if number in by_number else None,
            }
            for alias, number in sorted((each, str(at)) for each, at in model.aliases.items())
        ],
    }


def override_rows(rows: list[OverrideRow]) -> list[dict[str, Any]]:
    """What was asked for, by whom, and what became of it."""
    return [
        {
            "model": row.model,
            "version": row.version,
            "target": f"{row.target_kind} {row.target_name}",
            "expires": f"until {row.expires_at}" if row.expires_at else f"for {row.expires}",
            "state": str(row.state),
            "chip": _CHIPS.get(row.state, "out-inconclusive"),
            "error": without_paths(row.error or ""),
            "reason": row.reason,
            "people": [name for _, name in row.people],
            "created_at": moment(row.created_at) or "",
        }
        for row in rows
    ]
