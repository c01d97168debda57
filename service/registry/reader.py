"""What the service reads of MLflow: models, versions, their reports and lineages, RL runs.

Reads only. Tags and artifacts are foreign: a tag may point anywhere and an artifact may hold
anything, so a report is fetched from an artifact of a run and nowhere else, within a size, and is
parsed whole or refused. What cannot be read comes back as a sentence, so that one broken report
hides no other.

One client with both addresses stated serves all threads: a client without a registry address
looks for Spark, which can deadlock with MLflow's import hooks.
"""

import re
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cachetools import TTLCache

from mlflow_rlrisk.errors import ModelReferenceError, RLRiskError
from mlflow_rlrisk.gate.evidence import original_of
from mlflow_rlrisk.report import RiskReport
from service.registry.answers import answers, read_artifact
from service.registry.bounded_calls import timed
from service.registry.gate_evidence import GateReader
from service.registry.records import (
    ModelPage,
    StoredReport,
    VersionRecord,
    WatchedRun,
    aliases_of,
    record_of,
    summary_of,
)
from service.registry.stored_lineage import StoredLineage, parse_lineage

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion


REPORT_TAG = "rlrisk.report_uri"
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
            return ModelPage(models=tuple(map(summary_of, found)), next_token=found.token or None)

    def versions(self, name: str) -> tuple[VersionRecord, ...]:
        """Versions of a model, ascending; the newest `MAX_VERSIONS` where there are more.

        Raises:
            ModelReferenceError: There is no such model.
            SinkError: The registry does not answer.
        """
        quote = '"' if "'" in name else "'"
        found: list[ModelVersion] = []
        with answers(f"model {name!r}"):
            aliases = aliases_of(self.client.get_registered_model(name).aliases)
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
            aliases = aliases_of(self.client.get_registered_model(name).aliases)
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
        return RiskReport.from_json(read_artifact(self.client, run_id, path, MAX_REPORT_BYTES))

    def _lineage_of(self, run_id: str) -> StoredLineage:
        return parse_lineage(
            read_artifact(self.client, run_id, "rlrisk/lineage.json", MAX_LINEAGE_BYTES)
        )

    def _parent(self, run_id: str) -> str | None:
        with answers(f"run {run_id}"):
            tags = self.client.get_run(run_id).data.tags
            parent: str | None = tags.get(PARENT_RUN_TAG)
            if parent is None or not _RUN_ID.fullmatch(parent):
                return None
            files = self.client.list_artifacts(parent, "rlrisk")
        return parent if any(each.path == "rlrisk/lineage.json" for each in files) else None


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
