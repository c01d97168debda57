"""``rlrisk serve``: the scoring service with its dashboard."""

import os
from pathlib import Path
from typing import Any, Literal

import click

from mlflow_rlrisk.errors import MissingDependencyError


@click.command()
@click.option(
    "--config",
    required=True,
    type=click.Path(exists=True, dir_okay=False),
    help="YAML: database, MLflow, prompt sets, verifiers, policies, limits.",
)
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(1, 65535), default=8787, show_default=True)
@click.option(
    "--role",
    type=click.Choice(["all", "api", "worker", "signer"]),
    default="all",
    show_default=True,
    help="API, worker and (with a key) signer in one command, or one of them.",
)
@click.option(
    "--processes",
    type=click.IntRange(1, 64),
    default=min(2, os.cpu_count() or 1),
    show_default="2, or 1 on one core",
    help="Of the API.",
)
@click.option(
    "--threads",
    type=click.IntRange(1, 512),
    default=32,
    show_default=True,
    help="Of each of the API's processes.",
)
@click.option("--worker-name", default=None, help="Tells workers apart; default: the host's name.")
@click.option(
    "--signing-key",
    "signing_keys",
    multiple=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="Private key (rlrisk keys init), held by a process of its own; without one, reports are"
    " advisory. Twice where overrides need two signatures.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="A line of JSON on stdout for each process once up."
)
def serve(role: Literal["all", "api", "worker", "signer"], **options: Any) -> int:
    """Serve the checks over HTTP, with durable jobs and a dashboard."""
    try:
        from service.serve import serve as run
    except ModuleNotFoundError as error:
        raise MissingDependencyError("the scoring service", "service") from error
    return run(options.pop("config"), role=role, **options)
