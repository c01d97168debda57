"""``rlrisk webhooks``: have MLflow tell the scoring service what happens in its registry."""

import click

from mlflow_rlrisk import console
from mlflow_rlrisk.commands.options import json_option
from mlflow_rlrisk.commands.output import FAILURE, OK, print_json
from mlflow_rlrisk.errors import MissingDependencyError


@click.group()
def webhooks() -> None:
    """Signed webhooks from MLflow to the scoring service."""


@webhooks.command()
@click.option(
    "--config",
    required=True,
    type=click.Path(exists=True, dir_okay=False),
    help="The service's YAML file: it names MLflow and webhook_secret_file.",
)
@click.option(
    "--url",
    default="http://127.0.0.1:8787",
    show_default=True,
    help="The service, as the MLflow server reaches it.",
)
@json_option
def register(config: str, url: str, as_json: bool) -> int:
    """Register the service's webhook with MLflow, or renew it, and have MLflow try it once.

    Makes the secret file where there is none. Exit code 1 where MLflow's delivery does not arrive.
    """
    try:
        from service.settings import load_settings
        from service.triggering.registration import register as run
    except ModuleNotFoundError as error:
        raise MissingDependencyError("the scoring service", "service") from error
    found = run(load_settings(config), url)
    if as_json:
        print_json(found.to_dict())
    else:
        word = "arrives" if found.arrives else "does not arrive"
        click.echo(f"webhook {found.webhook_id}: {', '.join(found.events)} to {found.url} {word}")
        for line in found.notes:
            console.say(line)
    return OK if found.arrives else FAILURE
