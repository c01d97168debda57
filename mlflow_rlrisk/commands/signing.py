"""Signing what was assessed: which key, and whether there is one."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlflow_rlrisk import console
from mlflow_rlrisk.attestation.keys import KEY_VARIABLE, SigningKey, key_path
from mlflow_rlrisk.commands.options import grouped, key_option
from mlflow_rlrisk.content import plain_files
from mlflow_rlrisk.errors import AttestationError

if TYPE_CHECKING:
    from mlflow_rlrisk.report import RiskReport


@dataclass(frozen=True, slots=True)
class Signer:
    """A key holder at work: signs reports about versions of one registry."""

    key: SigningKey
    registry: str
    is_asked_for: bool = True
    """False where it signs only because there is a key."""

    def attest(self, report: "RiskReport", run_id: str, report_uri: str) -> str | None:
        """Sign a report, keep the envelope in its run, and return it.

        Where nobody asked for a signature and the weights were not looked at, it says so and
        returns ``None``: the report is worth keeping without one.
        """
        from mlflow import MlflowClient

        from mlflow_rlrisk.sinks.attest import ARTIFACT, attest
        from mlflow_rlrisk.sinks.mlflow_store import mlflow_errors

        try:
            envelope = attest(report, report_uri=report_uri, key=self.key, registry=self.registry)
        except AttestationError as error:
            if self.is_asked_for or error.reason != "weights_declared":
                raise
            console.say(f"not signed  {error}")
            return None
        with mlflow_errors(f"the attestation cannot be written to run {run_id}"):
            MlflowClient().log_text(run_id, envelope, ARTIFACT)
        console.say(f"attested    by key {self.key.key_id}")
        return envelope


signing_options = grouped(
    key_option,
    click.option(
        "--sign/--no-sign",
        default=None,
        help="Attest the registered version. Default: with --register, where there is a key.",
    ),
)


def find_signer(
    model: str, *, sign: bool | None, key_file: Path | None, register: bool
) -> Signer | None:
    """Find out before hours of sampling whether and with what the report will be signed.

    Raises:
        UsageError: Signing is asked for, and nothing will be registered.
        ConfigError: The key cannot be used.
        CheckpointError: The version holds what cannot be signed, such as a link.
    """
    is_configured = key_file is not None or KEY_VARIABLE in os.environ or key_path().exists()
    if sign and not register:
        raise click.UsageError("--sign needs --register: a signature stands on a model version")
    if sign is False or not register or not (sign or is_configured):
        return None
    from mlflow_rlrisk.gate.client import registry_name
    from mlflow_rlrisk.model_reference import resolve_reference

    source = resolve_reference(model)
    if source.version is None:
        if sign:
            raise click.UsageError(f"--sign: {model} is no registered version")
        return None
    if source.local_path is not None:
        plain_files(source.local_path)
    return Signer(SigningKey.load(key_file or key_path()), registry_name(), is_asked_for=bool(sign))
