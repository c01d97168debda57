"""``rlrisk doctor``: what is installed, what is missing, which command mends it."""

import os

import click

from mlflow_rlrisk.commands.options import json_option
from mlflow_rlrisk.commands.output import FAILURE, OK, print_json


@click.command()
@json_option
def doctor(as_json: bool) -> int:
    """Say what is installed, what is missing and which command mends it."""
    from mlflow_rlrisk.doctor import examine, is_healthy, to_json

    # A store that does not answer is told soon.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    os.environ.setdefault("PGCONNECT_TIMEOUT", "5")
    findings = examine()
    if as_json:
        print_json(to_json(findings))
    else:
        for finding in findings:
            click.echo(f"{finding.status:<8} {finding.name:<18} {finding.detail}")
            if finding.mend:
                click.echo(f"{'':<27} mend: {finding.mend}")
    return OK if is_healthy(findings) else FAILURE
