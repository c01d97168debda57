"""``rlrisk overlap``: how many RL prompts stand in the SFT data?"""

import click

from mlflow_rlrisk.commands.options import json_option
from mlflow_rlrisk.commands.output import OK, print_json


@click.command()
@click.option("--prompts", required=True, help="The RL prompt set: a file or a dataset folder.")
@click.option("--sft-data", required=True, help="The SFT data: a file or a dataset folder.")
@click.option("--map", "mapping", default=None, help="Columns of the prompts: prompt=COL,truth=COL")
@click.option("--sft-column", default=None, help="Column of the SFT prompts; default: recognised.")
@json_option
def overlap(
    as_json: bool, prompts: str, sft_data: str, mapping: str | None, sft_column: str | None
) -> int:
    """Count the RL prompts that stand in the SFT data, exactly or nearly, and show some."""
    from mlflow_rlrisk.commands.option_values import parse_mapping
    from mlflow_rlrisk.overlap import overlap_with
    from mlflow_rlrisk.prompts import load_prompts

    found = overlap_with(load_prompts(prompts, parse_mapping(mapping)), sft_data, sft_column)
    if as_json:
        print_json(found.to_dict())
        return OK
    click.echo(found.sentence)
    for match in found.examples:
        click.echo(f"  {match.similarity:.2f}  RL   {' '.join(match.rl_prompt.split())[:100]}")
        click.echo(f"        SFT  {' '.join(match.sft_prompt.split())[:100]}")
    return OK
