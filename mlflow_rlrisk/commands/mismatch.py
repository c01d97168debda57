"""``rlrisk mismatch``: the sampler's logprobs beside the trainer's, on the same tokens."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlflow_rlrisk import console
from mlflow_rlrisk.commands.options import allow_pickle_option, device_option, json_option
from mlflow_rlrisk.commands.output import OK, tell
from mlflow_rlrisk.plurals import counted

if TYPE_CHECKING:
    from mlflow_rlrisk.train_inference_mismatch import MismatchReport

RESULT = "mismatch.json"


@click.command()
@click.argument("rollouts", type=click.Path(exists=True))
@click.argument("model", required=False)
@device_option
@click.option(
    "--dtype",
    type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
    default="auto",
    show_default=True,
    help="The trainer's; auto: as stored.",
)
@click.option("--temperature", type=float, default=None, help="Of a dump; a folder says it.")
@click.option(
    "--rollouts-per-prompt", type=click.IntRange(min=1), default=None, help="Default: all."
)
@click.option("--num-resamples", type=int, default=2000, show_default=True, help="Of the prompts.")
@click.option("--confidence", type=float, default=0.95, show_default=True, help="Of intervals.")
@click.option(
    "--outliers",
    "num_outliers",
    type=click.IntRange(min=0),
    default=10,
    show_default=True,
    help="Rollouts and tokens to list.",
)
@click.option("--across-quantization", is_flag=True, help="Compare other weights, and say so.")
@allow_pickle_option
@json_option
def mismatch(rollouts: str, model: str | None, as_json: bool, **settings: Any) -> int:
    """Score stored ROLLOUTS with the transformers forward pass of MODEL and compare logprobs.

    ROLLOUTS is the folder of an assessment or a dump of rollouts with token ids and logprobs;
    MODEL defaults to the one that was assessed. An assessment's folder keeps the figure, and
    `rlrisk rescore` and `rlrisk assess` count it; `rlrisk assess --mismatch` does both at once.
    """
    from mlflow_rlrisk.assessment.rescored import rescore_mismatch

    source = Path(rollouts)
    report = rescore_mismatch(source, model, **settings)
    if source.is_dir():
        write_mismatch(source, report)
    tell(report.to_dict(), *mismatch_lines(report), as_json=as_json)
    return OK


def write_mismatch(folder: Path, report: "MismatchReport") -> None:
    """Put the comparison beside the rollouts."""
    from mlflow_rlrisk.rollouts.shards import write_text_atomically

    text = json.dumps(report.to_dict(), ensure_ascii=False, allow_nan=False)
    write_text_atomically(folder / RESULT, text)
    console.say(f"mismatch    {folder / RESULT}")


def mismatch_lines(report: "MismatchReport") -> list[str]:
    """The comparison in trainers' own metric names, and what differs most."""
    sampler = " ".join(
        str(report.sampler[name])
        for name in ("backend", "engine", "dtype")
        if name in report.sampler
    )
    trainer = f"transformers {report.trainer.get('dtype', '')}"
    head = f"{counted(report.num_rollouts, 'rollout')} of {report.num_prompts} prompts, "
    lines = [
        f"{head}{counted(report.num_tokens, 'token')}: sampled by {sampler or 'unknown'}, scored "
        f"by {trainer}",
        "",
    ]
    from mlflow_rlrisk.train_inference_mismatch import TRAINER_NAMES

    for name, trainer_name in TRAINER_NAMES.items():
        found = report.estimates.get(name)
        if found is None:
            lines.append(f"  {trainer_name:42}{report.values[name]:>12.4g}")
        else:
            ends = f"[{found.ci_low:.4g}, {found.ci_high:.4g}]"
            lines.append(f"  {trainer_name:42}{found.value:>12.4g}  {ends}")
    if report.entropy_mean_abs is not None:
        lines.append(
            f"  token entropy, recorded and recomputed: mean difference "
            f"{report.entropy_mean_abs:.2g}, largest {report.entropy_max_abs:.2g} nats"
        )
    if report.sequences:
        lines += ["", "  rollouts that differ most (mean logprob: sampler minus trainer)"]
    for row in report.sequences:
        lines.append(
            f"  {row.prompt_id:24} sample {row.sample_index:3}  {row.num_tokens:5} tokens  "
            f"{row.log_ppl_diff:+.2g}  largest {row.max_abs:.2g}"
        )
    if report.tokens:
        lines += ["", "  tokens that differ most (logprob: sampler, trainer)"]
    for token in report.tokens:
        lines.append(
            f"  {token.prompt_id:24} sample {token.sample_index:3}  position {token.position:5}  "
            f"id {token.token_id:6}  {token.sampler_logprob:.4f}  {token.trainer_logprob:.4f}  "
            f"difference {token.sampler_logprob - token.trainer_logprob:+.2g}"
        )
    return [*lines, *(f"  note: {note}" for note in report.notes)]
