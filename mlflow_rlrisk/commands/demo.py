"""``rlrisk demo``: the main job on checkpoints that are trained on the spot."""

import sys
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import Any

import click

from mlflow_rlrisk.commands.options import json_option
from mlflow_rlrisk.commands.output import OK, tell


@click.command()
@click.option("--rl", is_flag=True, help="Go on with GRPO of the shallowest and deepest rung.")
@click.option("--out", default="demo-out", show_default=True)
@click.option(
    "--serve",
    is_flag=True,
    help="Instead of assessing: a gated MLflow with the ladder, and the scoring service.",
)
@click.option("--port", type=click.IntRange(1, 65535), default=8787, show_default=True)
@click.option("--mlflow-port", type=click.IntRange(1, 65535), default=5000, show_default=True)
@json_option
def demo(rl: bool, out: str, serve: bool, port: int, mlflow_port: int, as_json: bool) -> int:
    """Train a ladder of SFT checkpoints, assess it, and see why pass@1 picks the wrong one."""
    from mlflow_rlrisk.demo import run

    if serve and rl:
        raise click.UsageError("--rl goes on from an assessment, which --serve does not make")
    if serve and port == mlflow_port:
        raise click.UsageError(f"--port and --mlflow-port are both {port}: two are needed")

    def announce(found: dict[str, Any]) -> None:
        tell(found, as_json=as_json)

    if serve:
        return run.serve(Path(out), port=port, mlflow_port=mlflow_port, announce=announce)
    with redirect_stdout(sys.stderr) if as_json else nullcontext():  # what people read
        found = run.main(Path(out), with_rl=rl)
    announce(found)
    return OK
