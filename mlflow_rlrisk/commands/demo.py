"""``rlrisk demo``: the main job on checkpoints that are trained on the spot."""

from pathlib import Path

import click


@click.command()
@click.option("--rl", is_flag=True, help="Go on with GRPO of the shallowest and deepest rung.")
@click.option("--out", default="demo-out", show_default=True)
def demo(rl: bool, out: str) -> int:
    """Train a ladder of SFT checkpoints, assess it, and see why pass@1 picks the wrong one."""
    from mlflow_rlrisk.demo.run import main

    return main(Path(out), with_rl=rl)
