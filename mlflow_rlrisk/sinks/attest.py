"""Signs what a report says of a registered version: for holders of a private key only.

The files are hashed again at this moment, and must be those that were assessed: what lies in the
registry now is what the signature is about.
"""

import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from mlflow_rlrisk.attestation import (
    DEFAULT_LIFETIME,
    Attestation,
    AttestedMetric,
    sign_attestation,
)
from mlflow_rlrisk.attestation.keys import SigningKey, to_text
from mlflow_rlrisk.checkpoint.files import find_layout, matter_of
from mlflow_rlrisk.content import FileEntry, content_digest, hash_folder, text_digest
from mlflow_rlrisk.errors import AttestationError, SinkError
from mlflow_rlrisk.model_reference import resolve_reference
from mlflow_rlrisk.run_settings import settings_of
from mlflow_rlrisk.sinks.mlflow_store import mlflow_errors
from mlflow_rlrisk.sinks.verdict import version_tags

if TYPE_CHECKING:
    from mlflow_rlrisk.report import RiskReport

ARTIFACT = "rlrisk/attestation.json"
"""Where the envelope lies in the run of the report."""
NO_JUDGE = "none"
"""Judge tier where no candidate code was run; code that ran without walls says ``unsafe``."""


def attest(
    report: "RiskReport",
    *,
    report_uri: str,
    key: SigningKey,
    registry: str,
    lifetime: timedelta = DEFAULT_LIFETIME,
    name: str | None = None,
    version: str | None = None,
) -> str:
    """Sign a report for the registered version it is about.

    Args:
        report: What was found.
        report_uri: Where its page is.
        key: The private key.
        registry: Name of the registry, as its policy file spells it.
        lifetime: How long the attestation counts.
        name: Registered model; the one of the report's provenance.
        version: Its version; likewise.

    Returns:
        The envelope for the tag ``rlrisk.attestation``.

    Raises:
        AttestationError: ``content_changed``: the version holds other files than were assessed;
            ``weights_declared``: nobody looked whether the endpoint served these weights.
        SinkError: No version is known, or the registry refuses.
    """
    import mlflow

    source = report.provenance
    _refuse_declared_weights(source.sampler)
    name, version = name or source.registered_name, version or source.version
    if name is None or version is None:
        raise SinkError(f"{source.model_reference}: no registered version is known to attest")
    with mlflow_errors(f"version {version} of {name} cannot be read"):
        found = mlflow.MlflowClient().get_model_version(name, version)
    files = _assessed_files(report, name, version)
    now = datetime.now(UTC)
    digests = source.digests
    attestation = Attestation(
        registry=registry,
        workspace=found.workspace,
        model=found.name,
        version=str(found.version),
        files=files,
        issued_at=to_text(now),
        expires_at=to_text(now + lifetime),
        source=str(found.source),
        checkpoint_digest=digests["checkpoint"],
        run_id=source.run_id,
        report_uri=report_uri,
        report_digest=report.digest,
        risk_level=str(report.risk_level),  # type: ignore[arg-type]  # checked by the model
        metrics={
            metric_name: AttestedMetric(
                value=metric.value,
                ci_low=metric.ci_low,
                ci_high=metric.ci_high,
                num_prompts=metric.num_prompts,
            )
            for metric_name, metric in report.metrics.items()
        },
        num_prompts=report.num_prompts,
        num_rollouts=report.num_rollouts,
        policy=report.policy.name,
        policy_digest=report.policy.digest(),
        prompts_digest=digests["prompts"],
        verifier=source.verifier,
        verifier_digest=digests["verifier"],
        sampler_digest=digests["sampler"],
        judge_tier=source.judge_tier or NO_JUDGE,
        code_version=source.code_version,
        tags={tag: text_digest(value) for tag, value in version_tags(report, report_uri).items()},
        started_at=source.started_at,
        finished_at=source.finished_at,
        settings=settings_of(report.config),
    )
    return sign_attestation(attestation, key)


def _refuse_declared_weights(sampler: Mapping[str, object]) -> None:
    """An endpoint serves whatever it serves; the files are signed only where it was compared."""
    if "weights_check" in sampler and not sampler["weights_check"]:
        text = (
            "that the endpoint served this version's weights is declared, not checked: assess "
            "again with --backend-option check_weights=true to sign it"
        )
        raise AttestationError("weights_declared", text)


def _assessed_files(report: "RiskReport", name: str, version: str) -> tuple[FileEntry, ...]:
    """Hash the version and make sure that it still is what the report is about."""
    reference = resolve_reference(f"models:/{name}/{version}")
    with tempfile.TemporaryDirectory(prefix="rlrisk-attest-") as private:
        folder = reference.local_path or reference.download(Path(private))
        files = hash_folder(folder)
        layout = find_layout(folder)
        by_path = {entry.path: entry for entry in files}
        matter = [
            by_path[path.relative_to(layout.root).as_posix()]._replace(path=part)
            for part, path in matter_of(layout, allow_pickle=report.config.allow_pickle)
        ]
    if content_digest(matter) != report.provenance.digests.get("checkpoint"):
        text = f"version {version} of {name} holds other files than were assessed; assess it again"
        raise AttestationError("content_changed", text)
    return files
