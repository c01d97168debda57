"""Models, versions, reports and runs as the registry knows them; every text is foreign."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mlflow_rlrisk.report import RiskLevel, RiskReport

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

    from mlflow_rlrisk.monitor import Judgement

LEVEL_TAG = "rlrisk.risk_level"


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionRecord:
    """A registered version, as the registry knows it; every text is foreign."""

    name: str
    version: str
    workspace: str = "default"
    description: str = ""
    source: str = ""
    run_id: str = ""
    created_at: datetime
    tags: Mapping[str, str] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()

    @property
    def level(self) -> RiskLevel | None:
        """The level that its tag claims; ``None`` where there is none or it is no level."""
        claimed = self.tags.get(LEVEL_TAG)
        return RiskLevel(claimed) if claimed in list(RiskLevel) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSummary:
    """A registered model with its newest version."""

    name: str
    description: str
    updated_at: datetime
    newest: VersionRecord | None
    aliases: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPage:
    """Some registered models, and what asks for the rest."""

    models: tuple[ModelSummary, ...]
    next_token: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredReport:
    """The report of a version, or why there is none.

    Attributes:
        report: What was stored; ``None`` where nothing usable was.
        run_id: The run that holds it.
        problem: Why there is no report, or why it is not the version's own.
        is_assessed: False where the version names no report at all.
    """

    report: RiskReport | None
    run_id: str | None
    problem: str | None
    is_assessed: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchedRun:
    """An RL run and what the monitor says of it."""

    run_id: str
    name: str
    status: str
    is_finished: bool
    judgement: "Judgement"


def summary_of(model: Any) -> ModelSummary:
    """A model of a listing as a record."""
    return ModelSummary(
        name=model.name,
        description=model.description or "",
        updated_at=_moment(model.last_updated_timestamp),
        newest=_newest(model),
        aliases=dict(model.aliases or {}),
    )


def _newest(model: Any) -> VersionRecord | None:
    """The newest of the versions that a listing brings, one a stage."""
    found = sorted(model.latest_versions or (), key=lambda each: int(each.version))
    if not found:
        return None
    aliases = aliases_of(model.aliases)
    return record_of(found[-1], aliases.get(str(found[-1].version), ()))


def aliases_of(by_alias: Mapping[str, Any] | None) -> dict[str, tuple[str, ...]]:
    """Aliases by version."""
    found: dict[str, tuple[str, ...]] = {}
    for alias, version in sorted((by_alias or {}).items()):
        found[str(version)] = (*found.get(str(version), ()), alias)
    return found


def record_of(found: "ModelVersion", aliases: tuple[str, ...]) -> VersionRecord:
    """A version of the client as a record."""
    return VersionRecord(
        name=found.name,
        version=str(found.version),
        workspace=getattr(found, "workspace", None) or "default",
        description=found.description or "",
        source=found.source or "",
        run_id=found.run_id or "",
        created_at=_moment(found.creation_timestamp),
        tags=dict(found.tags or {}),
        aliases=aliases,
    )


def _moment(milliseconds: int | None) -> datetime:
    return datetime.fromtimestamp((milliseconds or 0) / 1000, UTC)
