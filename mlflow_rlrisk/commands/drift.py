"""``rlrisk drift``: what a training stage did to a checkpoint, from weights to rewards."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlflow_rlrisk import console
from mlflow_rlrisk.commands.assessment import DEFAULT_OUT, assess_one, write_page
from mlflow_rlrisk.commands.kept_results import keep_result
from mlflow_rlrisk.commands.options import assessment_options, json_option
from mlflow_rlrisk.commands.output import OK, tell
from mlflow_rlrisk.commands.siblings import place_of, refuse_rounds, refuse_unlike
from mlflow_rlrisk.result_lines import drift_lines

if TYPE_CHECKING:
    from mlflow_rlrisk.assessment.wiring import Assessment
    from mlflow_rlrisk.experts.profile import ExpertProfile


@click.command()
@click.argument("before")
@click.argument("after")
@click.option(
    "--rollouts-per-prompt",
    type=click.IntRange(min=1),
    default=4,
    show_default=True,
    help="Scored by both models.",
)
@click.option(
    "--base",
    default=None,
    help="What BEFORE was trained from: how much of its gain on --expert-data is given back?",
)
@assessment_options
@json_option
def drift(
    before: str,
    after: str,
    rollouts_per_prompt: int,
    base: str | None,
    as_json: bool,
    register: bool,
    **settings: Any,
) -> int:
    """Assess BEFORE and AFTER and say what the stage between them changed.

    Weights, tokenizer, template, generation settings, divergence both ways, entropy, pass@k and
    the reward with the largest change that the divergence allows; drift.html in --out draws it.
    """
    from mlflow_rlrisk.checkpoint import open_checkpoint
    from mlflow_rlrisk.drift.measurement import measure_drift
    from mlflow_rlrisk.sinks.drift_page import render_drift

    if register:
        raise click.UsageError("drift writes no registry; use assess or compare with --register")
    if base is not None and settings["expert_data"] is None:
        raise click.UsageError("--base says what is forgotten of --expert-data; give both")
    refuse_rounds("drift", settings)
    root = Path(settings.pop("out") or DEFAULT_OUT)
    if place_of(before) == place_of(after):
        raise click.UsageError(f"{before} and {after} are one model: drift needs two")
    refuse_unlike([before, after], settings)
    checkpoints = tuple(
        open_checkpoint(each, allow_pickle=settings["allow_pickle"]) for each in (before, after)
    )
    assessments = [assess_one(m, settings, folders={"out_root": root}) for m in (before, after)]
    for assessment in assessments:
        write_page(assessment)
    report = measure_drift(
        assessments[0],
        assessments[1],
        (checkpoints[0], checkpoints[1]),
        rollouts_per_prompt=rollouts_per_prompt,
        base=None if base is None else _profile(base, settings, assessments[0], root),
        on_stage=console.say,
    )
    keep_result(root, "drift", assessments, report.to_dict(), render_drift(report))
    tell(report.to_dict(), *drift_lines(report), as_json=as_json)
    return OK


def _profile(
    base: str, settings: dict[str, Any], measured: "Assessment", root: Path
) -> "ExpertProfile":
    """How the base sees the expert data, under the settings of the assessments."""
    from mlflow_rlrisk.assessment.expert_scoring import expert_profile, store_profile
    from mlflow_rlrisk.checkpoint import open_checkpoint
    from mlflow_rlrisk.experts.examples import load_expert

    console.say(f"score expert data with {base}")
    checkpoint = open_checkpoint(base, allow_pickle=settings["allow_pickle"])
    experts = load_expert(settings["expert_data"])
    found = expert_profile(checkpoint, experts, measured.report.config, (root,))
    store_profile(root, found)
    return found
