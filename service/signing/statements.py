"""What the signer checks before it signs, and the statement that it makes itself.

Whoever asks names an assessment and a run. Everything else is read: the row must have succeeded;
its report must be about the version that was pinned, made with the settings, prompts, verifier
and policy that *this* process reads from the operator's file; the run must be that assessment's;
and the version's files are fetched and hashed here. What is trusted beside the key is the job
table, because whoever samples decides what was drawn.
"""

import re
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

import mlflow
from mlflow.exceptions import MlflowException

from mlflow_rlrisk import (
    ConfigError,
    ModelReferenceError,
    RiskReport,
    RLRiskError,
    load_prompts,
    resolve_reference,
)
from mlflow_rlrisk.attestation.keys import SigningKey
from mlflow_rlrisk.errors import AttestationError, ReportError
from mlflow_rlrisk.gate.client import registry_name
from mlflow_rlrisk.sinks.attest import attest
from service.commit_points import CommitPoint, reached
from service.registry.bounded_calls import bounded, call_limit_s
from service.registry.references import refusal_of_source
from service.registry.upstream import is_gone, point_mlflow
from service.sampling.verifier_digest import verifier_digest
from service.settings import ServiceSettings
from service.signing.client import ANSWER_LIMIT_S
from service.signing.protocol import ASSESSMENT_TAG, SignerRefusedError
from service.tables.assessment_rows import Assessment, State
from service.tables.assessments import AssessmentTable
from service.tables.attestations import AttestationTable

if TYPE_CHECKING:
    import sqlalchemy as sa

MAX_AGE = timedelta(days=7)
"""A report that could not be published for longer is assessed again, not signed."""
DIGEST_TAG = "rlrisk.report_digest"
_RUN_ID = re.compile(r"[0-9a-f]{32}")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Statements:
    """Makes signed statements from rows; holds the key."""

    def __init__(self, settings: ServiceSettings, engine: "sa.Engine", key: SigningKey) -> None:
        self._settings, self._key = settings, key
        self._jobs, self._kept = AssessmentTable(engine), AttestationTable(engine)

    def attest(self, assessment_id: str, run_id: str) -> str:
        """The envelope for an assessment; the same one at every call.

        Raises:
            SignerRefusedError: What was found is not what may be signed.
        """
        if not _UUID.fullmatch(assessment_id) or not _RUN_ID.fullmatch(run_id):
            raise SignerRefusedError("malformed", "ids of an assessment and a run are needed")
        kept = self._kept.find(assessment_id)
        if kept is not None:
            if kept[0] != run_id:
                raise SignerRefusedError("wrong_run", f"it was signed for run {kept[0]}")
            return kept[1]
        job, report = self._finished(assessment_id)
        self._check_as_configured(job, report)
        try:
            point_mlflow(self._settings)
            bounded(lambda: _check_run(job, report, run_id), call_limit_s())
            bounded(lambda: self._check_source(job), call_limit_s())
            sign = partial(
                attest,
                report,
                report_uri=f"runs:/{run_id}/rlrisk/report.html",
                key=self._key,
                registry=registry_name(),
                name=job.model_name,
                version=job.model_version,
            )
            envelope = bounded(sign, ANSWER_LIMIT_S)  # nobody waits longer for it
        except AttestationError as error:
            raise SignerRefusedError(error.reason, str(error)) from error
        except (RLRiskError, MlflowException, OSError) as error:
            raise _refusal_by_mlflow(error) from error
        reached(CommitPoint.STATEMENT_MADE)
        envelope = self._kept.keep(assessment_id, run_id, envelope)
        reached(CommitPoint.SIGNATURE_COMMITTED)
        return envelope

    def _finished(self, assessment_id: str) -> tuple[Assessment, RiskReport]:
        job, text = self._jobs.find(assessment_id), self._jobs.report(assessment_id)
        if job is None or job.state is not State.SUCCEEDED or text is None:
            raise SignerRefusedError("not_finished", "no finished assessment has this id")
        if job.model_name is None or job.model_version is None:
            raise SignerRefusedError("no_version", "it is about no registered version")
        try:
            report = RiskReport.from_json(text)
        except ReportError as error:
            raise SignerRefusedError("bad_report", str(error)) from error
        source = report.provenance
        if (source.registered_name, source.version) != (job.model_name, job.model_version):
            raise SignerRefusedError("wrong_version", "the report is about another version")
        age = datetime.now(UTC) - datetime.fromisoformat(source.finished_at)
        if not timedelta(seconds=-60) <= age <= MAX_AGE:
            raise SignerRefusedError("stale", f"it was finished at {source.finished_at}")
        return job, report

    def _check_as_configured(self, job: Assessment, report: RiskReport) -> None:
        """Refuse a report that was made with other means than the operator's."""
        request, settings = job.request, self._settings
        try:
            prompts = settings.prompt_sets[request["prompt_set"]]
            run = settings.lookahead(request.get("lookahead"))
            wanted = {
                "prompts": load_prompts(prompts.path, mapping=prompts.mapping).digest,
                "verifier": verifier_digest(settings.verifiers[request["verifier"]], settings),
                "policy": settings.policy(request["policy"]).digest(),
                "lookahead": None if run is None else run.digest(),
            }
        except KeyError as error:
            raise SignerRefusedError("not_as_configured", f"{error} is not configured") from error
        except ConfigError as error:
            raise SignerRefusedError("not_as_configured", str(error)) from error
        found = dict(report.provenance.digests) | {"policy": report.policy.digest()}
        faults = [name for name, value in wanted.items() if found.get(name) != value]
        config = settings.base_config().model_dump(mode="json")
        config |= {"sampling": request["sampling"], "group_size": request["group_size"]}
        for name, value in report.config.model_dump(mode="json").items():
            # The batch is halved where memory runs out; it changes no random stream.
            if name != "batch_size" and value != config[name]:
                faults.append(name)
        if faults:
            text = f"the report was made with other settings: {', '.join(sorted(faults))}"
            raise SignerRefusedError("not_as_configured", text)

    def _check_source(self, job: Assessment) -> None:
        source = resolve_reference(f"models:/{job.model_name}/{job.model_version}")
        if (why := refusal_of_source(source, self._settings)) is not None:
            raise SignerRefusedError("model_uri_refused", why)


def _check_run(job: Assessment, report: RiskReport, run_id: str) -> None:
    tags = mlflow.MlflowClient().get_run(run_id).data.tags
    if tags.get(ASSESSMENT_TAG) != job.id or tags.get(DIGEST_TAG) != report.digest:
        raise SignerRefusedError("wrong_run", "the run does not hold this report")


def _refusal_by_mlflow(error: Exception) -> SignerRefusedError:
    if is_gone(error):
        return SignerRefusedError("version_gone", str(error))
    is_final = isinstance(error, RLRiskError) and not isinstance(error.__cause__, MlflowException)
    is_final &= not isinstance(error, ModelReferenceError)
    return SignerRefusedError("not_readable", str(error), is_final=is_final)
