"""``rlrisk tokens``: who may call the scoring service."""

import time
from typing import TYPE_CHECKING, Any

import click

from mlflow_rlrisk import console
from mlflow_rlrisk.commands.options import json_option
from mlflow_rlrisk.commands.output import OK, print_json, tell
from mlflow_rlrisk.errors import ConfigError, MissingDependencyError

if TYPE_CHECKING:
    from service.tables.tokens import TokenTable

DAY_S = 86400.0


@click.group()
def tokens() -> None:
    """Make, list and revoke bearer tokens of the scoring service."""


def _config_option(function: Any) -> Any:
    return click.option(
        "--config",
        required=True,
        type=click.Path(exists=True, dir_okay=False),
        help="The service's YAML file: it names the database.",
    )(function)


@tokens.command()
@click.argument("name")
@_config_option
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    default=("read",),
    show_default=True,
    help="assess, read, promote, override or admin; may stand several times.",
)
@click.option("--days", type=float, default=90.0, show_default=True, help="0: it never expires.")
@json_option
def create(name: str, config: str, scopes: tuple[str, ...], days: float, as_json: bool) -> int:
    """Make a token for NAME and print it, once: only its hash is kept."""
    if not 0 <= days < 36500:
        raise ConfigError("days", days, "0 to 36500 days are possible")
    expires_at = time.time() + days * DAY_S if days else None
    text, record = _table(config).create(name, scopes, expires_at=expires_at)
    if as_json:
        print_json({"token": text, "id": record.id, "name": name, "scopes": list(record.scopes)})
    else:
        console.say(f"token {record.id} for {name}: {', '.join(record.scopes)}; shown this once")
        click.echo(text)
    return OK


@tokens.command()
@click.argument("token_id")
@_config_option
@json_option
def revoke(token_id: str, config: str, as_json: bool) -> int:
    """End the token with the id TOKEN_ID at once."""
    _table(config).revoke(token_id)
    tell({"id": token_id, "revoked": True}, f"token {token_id} is revoked", as_json=as_json)
    return OK


@tokens.command(name="list")
@_config_option
@json_option
def list_(config: str, as_json: bool) -> int:
    """List the tokens, without their secrets."""
    found = _table(config).list()
    if as_json:
        print_json({"tokens": [{name: getattr(t, name) for name in t.__slots__} for t in found]})
    else:
        for each in found:
            state = "revoked" if each.revoked_at else "valid"
            if each.expires_at is not None and each.expires_at <= time.time():
                state = "expired"
            click.echo(f"{each.id}  {state:8}{each.name}: {', '.join(each.scopes)}")
    return OK


def _table(config: str) -> "TokenTable":
    try:
        from service.settings import load_settings
        from service.tables.opening import open_database
        from service.tables.tokens import TokenTable
    except ModuleNotFoundError as error:
        raise MissingDependencyError("the scoring service", "service") from error
    return TokenTable(open_database(load_settings(config).database))
