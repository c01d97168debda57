"""``rlrisk policy``: the policy file of the promotion gate (``RLRISK_POLICY``)."""

import json
import math
from importlib.resources import files
from pathlib import Path

import click
import yaml

from mlflow_rlrisk.attestation.keys import ring_path
from mlflow_rlrisk.commands.options import json_option
from mlflow_rlrisk.commands.output import OK, print_json, tell

DEFAULT_ALIAS = "rl-ready"
DEFAULT_STAGE = "Production"


@click.group()
def policy() -> None:
    """Write the policy file of the promotion gate."""


@policy.command()
@click.option(
    "--protect",
    "aliases",
    multiple=True,
    metavar="ALIAS",
    help="Its name, no pattern. Default: rl-ready.",
)
@click.option(
    "--ring",
    type=click.Path(dir_okay=False, path_type=Path),
    default=None,
    help="Public key ring. Default: RLRISK_KEY_RING, else key_ring.json in ~/.config/rlrisk.",
)
@click.option(
    "--rl-config",
    default=None,
    metavar="SOURCE",
    help="Settings of the RL run: only what was assessed with them is promoted.",
)
@json_option
def init(aliases: tuple[str, ...], ring: Path | None, rl_config: str | None, as_json: bool) -> int:
    """Print a complete default policy: rlrisk policy init > policy.yaml.

    With --json without comments; as a policy file it is the same.
    """
    from mlflow_rlrisk.gate.promotion_policy import parse_policy
    from mlflow_rlrisk.rl_config import read_rl_config
    from mlflow_rlrisk.run_settings import checked_settings

    settings = {} if rl_config is None else checked_settings(read_rl_config(rl_config).sampling)
    chosen = list(aliases or (DEFAULT_ALIAS,))
    template = files("mlflow_rlrisk.gate").joinpath("default_policy.yaml").read_text("utf-8")
    text = template.format(
        key_ring=_quoted(str((ring or ring_path()).absolute())),
        rule=_quoted("protected"),
        aliases=", ".join(_quoted(alias) for alias in chosen),
        stages=_quoted(DEFAULT_STAGE),
        settings=yaml.safe_dump(settings, default_flow_style=True, width=math.inf).strip(),
    )
    usable = parse_policy(text)
    if as_json:
        print_json(usable.model_dump(mode="json"))
    else:
        click.echo(text, nl=False)
    return OK


def _quoted(text: str) -> str:
    """A text as YAML reads it back; JSON escapes characters beyond U+FFFF in two halves."""
    return str(yaml.safe_dump(text, default_style='"', width=math.inf)).strip()


@policy.command()
@json_option
def schema(as_json: bool) -> int:
    """Print the JSON schema of the policy file."""
    from mlflow_rlrisk.gate.promotion_policy import PromotionPolicy

    found = PromotionPolicy.model_json_schema()
    tell(found, json.dumps(found, indent=1), as_json=as_json)
    return OK
