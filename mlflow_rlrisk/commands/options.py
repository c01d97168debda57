"""The options of the ``rlrisk`` command, grouped by what they set."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from mlflow_rlrisk.commands.rl_options import reads_rl_config

Command = Callable[..., int]


class FiniteFloat(click.FloatRange):
    """A number; NaN, which is within every range, and infinity are none."""

    name = "float"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Refuse what is not finite."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is no finite number.", param, ctx)
        return number


def _pairs(_: click.Context, option: click.Parameter, given: tuple[str, ...]) -> dict[str, Any]:
    """``KEY=VALUE`` options as the mapping that they stand for."""
    from mlflow_rlrisk.commands.option_values import parse_pairs

    return parse_pairs(option.opts[0].lstrip("-").replace("-", "_"), given)


def grouped(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several options as one decorator; help lists them in this order."""

    def decorate(function: Command) -> Command:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
device_option = click.option(
    "--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1"
)
allow_pickle_option = click.option("--allow-pickle", is_flag=True, help="Accept pickled weights.")
key_option = click.option(
    "--key",
    "key_file",
    type=click.Path(dir_okay=False, path_type=Path),
    default=None,
    help="Private key file. Default: RLRISK_KEY, else signing_key.pem in ~/.config/rlrisk.",
)
gate_policy_option = click.option(
    "--policy",
    type=click.Path(exists=True, dir_okay=False),
    default=None,
    help="The gate's policy file. Default: RLRISK_POLICY.",
)

_sampling_options = grouped(
    click.option("--num-samples", type=int, default=16, show_default=True, help="Rollouts/prompt."),
    click.option("--temperature", type=float, default=1.0, show_default=True, help="Softmax."),
    click.option("--top-p", type=float, default=1.0, show_default=True, help="Nucleus."),
    click.option("--top-k", type=int, default=0, show_default=True, help="0 means all tokens."),
    click.option(
        "--min-p", type=float, default=0.0, show_default=True, help="Share of the likeliest token."
    ),
    click.option(
        "--repetition-penalty",
        type=float,
        default=1.0,
        show_default=True,
        help="On tokens of prompt and completion; 1 means none.",
    ),
    click.option(
        "--max-new-tokens", type=int, default=256, show_default=True, help="Then it is truncated."
    ),
    click.option(
        "--stop",
        multiple=True,
        metavar="TEXT",
        help="Ends a completion and stays in it; may be given several times.",
    ),
    click.option("--seed", type=int, default=0, show_default=True, help="Same seed, same bytes."),
    click.option(
        "--chat-template",
        type=click.Choice(["auto", "always", "never"]),
        default="auto",
        show_default=True,
        help="auto: chat prompts get the checkpoint's template, strings stay raw.",
    ),
    click.option(
        "--chat-template-kwargs",
        multiple=True,
        callback=_pairs,
        metavar="KEY=VALUE",
        help="A variable of the template, as enable_thinking=false; may be given several times.",
    ),
)
_input_options = grouped(
    click.option("--prompts", required=True, help="The RL prompt set: a file or a dataset folder."),
    click.option(
        "--verifier",
        required=True,
        help="exact, numeric, math, regex[:PATTERN], code, path/to/file.py:function, "
        "module:function or evaluate:path; DIALECT: before it where the signature does not tell.",
    ),
    click.option("--map", "mapping", default=None, help="Columns: prompt=COL,truth=COL"),
    click.option("--no-preflight", is_flag=True, help="Do not show the verifier its gold answers."),
    click.option("--sft-data", default=None, help="The SFT data: how many RL prompts stand there?"),
    click.option(
        "--expert-data",
        default=None,
        help="Held-out expert examples, prompts with responses: their loss and token profile.",
    ),
    click.option(
        "--expert-train-data",
        default=None,
        help="Examples that SFT was trained on: the gap between both losses.",
    ),
)
_judgement_options = grouped(
    click.option("--success-threshold", type=float, default=None, help="Correct from this reward."),
    click.option(
        "--policy",
        type=click.Path(exists=True, dir_okay=False),
        default=None,
        help="YAML: where the lines between the levels are drawn.",
    ),
    click.option(
        "--num-resamples", type=int, default=2000, show_default=True, help="Of the prompts."
    ),
    click.option(
        "--confidence", type=float, default=0.95, show_default=True, help="Of every interval."
    ),
    click.option(
        "--budget",
        type=click.Choice(["fixed", "auto"]),
        default="fixed",
        show_default=True,
        help="auto (assess): sample in rounds and stop as soon as the level is decided.",
    ),
)
_machine_options = grouped(
    click.option(
        "--backend",
        default="auto",
        show_default=True,
        help="auto: transformers; openai: an endpoint; replay: MODEL is a folder or dump of "
        "rollouts; or any installed.",
    ),
    click.option(
        "--backend-option",
        "backend_options",
        multiple=True,
        callback=_pairs,
        metavar="KEY=VALUE",
        help="A setting of that backend alone; may be given several times.",
    ),
    device_option,
    click.option(
        "--dtype",
        type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
        default="auto",
        show_default=True,
        help="Of the weights; logits are float32 whatever it is.",
    ),
    click.option("--batch-size", type=int, default=256, show_default=True, help="Sequences."),
    click.option(
        "--verifier-timeout-s", type=float, default=10.0, show_default=True, help="Of one call."
    ),
    click.option(
        "--verifier-workers", type=int, default=2, show_default=True, help="Worker processes."
    ),
    click.option(
        "--max-failed-share",
        type=float,
        default=0.0,
        show_default=True,
        help="More failed verifications than this share give unknown.",
    ),
    allow_pickle_option,
)

assessment_options = grouped(
    _input_options,
    click.option(
        "--rl-config",
        default=None,
        metavar="SOURCE",
        help="Settings of the RL run, for every option that is not given: YAML of its trainer, or "
        "runs:/<id> of MLflow.",
    ),
    click.option("--group-size", type=int, default=8, show_default=True, help="Of the RL run."),
    _sampling_options,
    _judgement_options,
    _machine_options,
    click.option(
        "--out", default=None, help="Folder of rollouts and report; compare: of one for each."
    ),
    click.option("--register", is_flag=True, help="Log to MLflow and tag the model version."),
    reads_rl_config,
)
"""What ``assess`` and ``compare`` take."""
