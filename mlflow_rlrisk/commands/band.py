"""``rlrisk band``: the prompts of a difficulty band, in the schema they came in."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from mlflow_rlrisk.commands.options import json_option
from mlflow_rlrisk.commands.output import OK, tell
from mlflow_rlrisk.errors import ConfigError


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False))
@click.option("--low", type=float, default=0.1, show_default=True, help="Least success rate.")
@click.option("--high", type=float, default=0.9, show_default=True, help="Largest success rate.")
@click.option(
    "--min-probability",
    type=float,
    default=0.5,
    show_default=True,
    help="That the true rate lies in the band.",
)
@click.option("--out", required=True, help="JSONL of the prompts; the control lies beside it.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the control's draw.")
@json_option
def band(
    folder: str,
    low: float,
    high: float,
    min_probability: float,
    out: str,
    seed: int,
    as_json: bool,
) -> int:
    """Export the prompts of the assessment in FOLDER that are neither too easy nor too hard.

    Every column is kept as it came. An equally large control that was not filtered is written
    to NAME.control.jsonl: without it the filter's own effect cannot be told.
    """
    from mlflow_rlrisk.assessment.inputs import AssessmentInputs
    from mlflow_rlrisk.assessment.stored import stored_groups
    from mlflow_rlrisk.difficulty_band import select_band
    from mlflow_rlrisk.measure import measure
    from mlflow_rlrisk.prompts.sources import JSON_SUFFIXES
    from mlflow_rlrisk.rollouts.shards import write_text_atomically

    target = Path(out)
    if target.suffix.lower() not in JSON_SUFFIXES:
        need = f"JSON lines are written; a name that says so is needed: {sorted(JSON_SUFFIXES)}"
        raise ConfigError("out", out, need)
    inputs = AssessmentInputs.load(Path(folder))
    threshold = inputs.config.success_threshold
    places = inputs.prompt_places()
    measured = [measure(group, threshold) for group in stored_groups(Path(folder), inputs, None)]
    found = select_band(
        sorted(measured, key=lambda each: places[each.prompt_id]),
        low=low,
        high=high,
        min_probability=min_probability,
        seed=seed,
    )
    rows = {prompt.id: dict(prompt.columns) for prompt in inputs.prompts}
    control = target.with_suffix(f".control{target.suffix}")
    write_text_atomically(target, _lines(rows, found.chosen))
    write_text_atomically(control, _lines(rows, found.control))
    summary = {
        "prompts": len(rows),
        "chosen": len(found.chosen),
        "out": str(target),
        "control": str(control),
        "low": low,
        "high": high,
        "min_probability": min_probability,
    }
    line = f"{len(found.chosen)} of {len(rows)} prompts -> {target}; control -> {control}"
    tell(summary, line, as_json=as_json)
    return OK


def _lines(rows: dict[str, dict[str, Any]], names: Sequence[str]) -> str:
    return "".join(json.dumps(rows[name], ensure_ascii=False) + "\n" for name in names)
