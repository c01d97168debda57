"""What the service reads of MLflow: models, versions, their reports and lineages, RL runs.

Reads only. Tags and artifacts are foreign: a tag may point anywhere and an artifact may hold
anything, so a report is fetched from an artifact of a run and nowhere else, within a size, and is
parsed whole or refused. What cannot be read comes back as a sentence, so that one broken report
hides no other.

One client with both addresses stated serves all threads: a client without a registry address
looks for Spark, which can deadlock with MLflow's import hooks.
"""

import re
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cachetools import TTLCache

from mlflow_rlrisk.errors import ModelReferenceError, ReportError, RLRiskError, SinkError
from mlflow_rlrisk.gate.evidence import original_of
from mlflow_rlrisk.report import RiskLevel, RiskReport
from service.registry.bounded_calls import timed
from service.registry.gate_evidence import GateReader
from service.registry.stored_lineage import StoredLineage, parse_lineage

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

    from mlflow_rlrisk.monitor import Judgement

REPORT_TAG = "rlrisk.report_uri"
LEVEL_TAG = "rlrisk.risk_level"
ASSESSED_TAG = "rlrisk.assessed_at"
PARENT_RUN_TAG = "mlflow.parentRunId"
MAX_REPORT_BYTES = 32 * 2**20
"""A report of 10^5 prompts with its examples is below a tenth of it."""
MAX_LINEAGE_BYTES = 64 * 2**20
MAX_VERSIONS = 1000
MODELS_A_PAGE = 100
MAX_CACHED = 256
CACHE_S = 300.0
"""A report does not change; a run whose artifact was replaced is read again after this."""
MAX_LINEAGE_RUNS = 8
"""Runs that are asked for a parent; older ones belong to older lineages."""

_REPORT = re.compile(
    r"runs:/(?P<run>[A-Za-z0-9]{1,64})/(?P<folder>rlrisk(?:/[\w-]+)*)/report\.html"
)
_RUN_ID = re.compile(r"[A-Za-z0-9]{1,64}")
_ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


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


class RegistryReader:
    """Reads one tracking server and registry."""

    def __init__(
        self,
        *,
        tracking_uri: str | None = None,
        registry_uri: str | None = None,
        policy_path: str | None = None,
        gate_log_uri: str | None = None,
    ) -> None:
        """Bind to a server.

        Args:
            tracking_uri: Its address; by default that which MLflow is set to.
            registry_uri: The registry; by default the same.
            policy_path: The gate's policy file, as `GateReader` takes it.
            gate_log_uri: Database with the gate's log, likewise.
        """
        import mlflow

        self.tracking_uri = tracking_uri or mlflow.get_tracking_uri()
        self.registry_uri = registry_uri or tracking_uri or mlflow.get_registry_uri()
        self.client = timed(mlflow.MlflowClient(self.tracking_uri, self.registry_uri))
        self.gate = GateReader(
            self.client, self.registry_uri, policy_path=policy_path, log_uri=gate_log_uri
        )
        self._cache: TTLCache[tuple[str, ...], Any] = TTLCache(MAX_CACHED, CACHE_S)
        self._lock = threading.Lock()

    def models(self, page_token: str | None = None) -> ModelPage:
        """Registered models, by name.

        Raises:
            ModelReferenceError: There is no such page.
            SinkError: The registry does not answer.
        """
        with answers("the models"):
            found = self.client.search_registered_models(
                max_results=MODELS_A_PAGE, order_by=["name"], page_token=page_token
            )
            return ModelPage(models=tuple(map(_summary, found)), next_token=found.token or None)

    def versions(self, name: str) -> tuple[VersionRecord, ...]:
        """Versions of a model, ascending; the newest `MAX_VERSIONS` where there are more.

        Raises:
            ModelReferenceError: There is no such model.
            SinkError: The registry does not answer.
        """
        quote = '"' if "'" in name else "'"
        found: list[ModelVersion] = []
        with answers(f"model {name!r}"):
            aliases = _aliases(self.client.get_registered_model(name).aliases)
            token = None
            while len(found) < MAX_VERSIONS:
                page = self.client.search_model_versions(
                    f"name={quote}{name}{quote}",
                    max_results=200,
                    order_by=["version_number DESC"],
                    page_token=token,
                )
                found += page
                if not (token := page.token):
                    break
            records = [record_of(each, aliases.get(str(each.version), ())) for each in found]
            return tuple(sorted(records, key=lambda each: int(each.version)))

    def version(self, name: str, version: str) -> VersionRecord:
        """One version.

        Raises:
            ModelReferenceError: There is no such version.
            SinkError: The registry does not answer.
        """
        with answers(f"version {version} of {name!r}"):
            aliases = _aliases(self.client.get_registered_model(name).aliases)
            found = self.client.get_model_version(name, version)
            return record_of(found, aliases.get(str(found.version), ()))

    def report(self, version: VersionRecord) -> StoredReport:
        """The report that a version names, or why there is none; never raises for a bad one."""
        uri = version.tags.get(REPORT_TAG)
        if uri is None:
            text = "It was not assessed yet: it names no report."
            return StoredReport(report=None, run_id=None, problem=text, is_assessed=False)
        match = _REPORT.fullmatch(uri)
        if match is None:
            text = f"Its report is not read: {uri[:200]!r} is no report in a run of this server."
            return StoredReport(report=None, run_id=None, problem=text)
        run_id, path = match["run"], f"{match['folder']}/report.json"
        key = (run_id, path, version.tags.get(ASSESSED_TAG, ""))
        try:
            report = self._cached(key, lambda: self._read_report(run_id, path))
        except RLRiskError as error:
            return StoredReport(
                report=None, run_id=run_id, problem=f"Its report cannot be read: {error}"
            )
        return StoredReport(report=report, run_id=run_id, problem=_misfit(report, version))

    def lineage(self, run_ids: Sequence[str]) -> StoredLineage | None:
        """The lineage that the newest of these report runs belongs to.

        Args:
            run_ids: Runs of reports, newest first.

        Raises:
            ReportError: The lineage that was found cannot be read.
            SinkError: The tracking server does not answer.
        """
        for run_id in list(dict.fromkeys(run_ids))[:MAX_LINEAGE_RUNS]:
            parent = self._parent(run_id)
            if parent is None:
                continue
            key = (parent, "lineage")
            found: StoredLineage = self._cached(key, lambda parent=parent: self._lineage_of(parent))
            return found
        return None

    def run(self, run_id: str) -> WatchedRun:
        """Judge the metrics that an RL run has by now.

        Raises:
            ModelReferenceError: There is no such run.
            HistoryError: Its metrics cannot be read.
            SinkError: The tracking server does not answer.
        """
        from mlflow_rlrisk.monitor import MonitorSettings
        from mlflow_rlrisk.monitor.follow import judge_source
        from mlflow_rlrisk.monitor.sources.mlflow_run import MlflowRunSource

        if not _RUN_ID.fullmatch(run_id):
            raise ModelReferenceError(f"run {run_id[:80]!r}: no run has such an id")
        with answers(f"run {run_id}"):
            info = self.client.get_run(run_id).info
        judgement, log = judge_source(
            MlflowRunSource(run_id, client=self.client), MonitorSettings()
        )
        return WatchedRun(
            run_id=run_id,
            name=info.run_name or run_id,
            status=info.status,
            is_finished=bool(log.is_finished),
            judgement=judgement,
        )

    def _cached(self, key: tuple[str, ...], read: Any) -> Any:
        """What `read` gave before under this key; a failure is not kept."""
        with self._lock:
            if key in self._cache:
                return self._cache[key]
        value = read()
        with self._lock:
            self._cache[key] = value
        return value

    def _read_report(self, run_id: str, path: str) -> RiskReport:
        return RiskReport.from_json(self._artifact(run_id, path, MAX_REPORT_BYTES))

    def _lineage_of(self, run_id: str) -> StoredLineage:
        return parse_lineage(self._artifact(run_id, "rlrisk/lineage.json", MAX_LINEAGE_BYTES))

    def _parent(self, run_id: str) -> str | None:
        with answers(f"run {run_id}"):
            tags = self.client.get_run(run_id).data.tags
            parent: str | None = tags.get(PARENT_RUN_TAG)
            if parent is None or not _RUN_ID.fullmatch(parent):
                return None
            files = self.client.list_artifacts(parent, "rlrisk")
        return parent if any(each.path == "rlrisk/lineage.json" for each in files) else None

    def _artifact(self, run_id: str, path: str, limit: int) -> str:
        """The text of a run's artifact.

        Raises:
            SinkError: It cannot be fetched.
            ReportError: It is too large or no text.
        """
        folder = path.rpartition("/")[0]
        try:
            sizes = {
                each.path: each.file_size for each in self.client.list_artifacts(run_id, folder)
            }
            if path not in sizes:
                raise SinkError(f"run {run_id} has no {path}: it was deleted or never written")
            if (sizes[path] or 0) > limit:
                raise ReportError(
                    f"{path} of run {run_id} has {sizes[path]:,} bytes; {limit:,} fit"
                )
            with tempfile.TemporaryDirectory(prefix="rlrisk-") as private:
                local = Path(self.client.download_artifacts(run_id, path, private))
                return local.read_bytes()[: limit + 1].decode("utf-8")
        except RLRiskError:
            raise
        except UnicodeDecodeError as error:
            raise ReportError(f"{path} of run {run_id} is no UTF-8 text") from error
        except Exception as error:
            text = f"{path} of run {run_id} cannot be fetched: {type(error).__name__}"
            raise SinkError(text) from error


@contextmanager
def answers(what: str) -> Iterator[None]:
    """Tell what is not there from a server that does not answer."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code in _ABSENT:
            raise ModelReferenceError(f"{what}: {error.message}") from error
        raise SinkError(f"{what}: MLflow does not answer ({error.error_code})") from error
    except Exception as error:  # an answer of another kind fails anywhere in its client
        raise SinkError(f"{what}: MLflow does not answer ({type(error).__name__})") from error


def _summary(model: Any) -> ModelSummary:
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
    aliases = _aliases(model.aliases)
    return record_of(found[-1], aliases.get(str(found[-1].version), ()))


def _aliases(by_alias: Mapping[str, Any] | None) -> dict[str, tuple[str, ...]]:
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


def _misfit(report: RiskReport, version: VersionRecord) -> str | None:
    """What speaks against this being the report of this version."""
    source = report.provenance
    if source.registered_name is None or source.version is None:
        return None
    about = (source.registered_name, source.version)
    if about in ((version.name, version.version), original_of(version.source)):
        return None
    return (
        f"Its report is about version {source.version} of {source.registered_name!r}, of which it "
        "is no copy."
    )


def _moment(milliseconds: int | None) -> datetime:
    return datetime.fromtimestamp((milliseconds or 0) / 1000, UTC)
