"""``rlrisk lookahead``: does the checkpoint learn from its own rollouts at the run's settings?"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlflow_rlrisk import console
from mlflow_rlrisk.commands.options import allow_pickle_option, device_option, json_option
from mlflow_rlrisk.commands.output import OK, tell
from mlflow_rlrisk.plurals import counted

if TYPE_CHECKING:
    from mlflow_rlrisk.lookahead import Lookahead
    from mlflow_rlrisk.rl_config import RLConfig
    from mlflow_rlrisk.statistics.reweighting import GapClosed

RESULT = "lookahead.json"


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False))
@click.argument("model", required=False)
@click.option("--learning-rate", type=float, help="Of the RL run (AdamW).")
@click.option("--run-steps", type=int, help="Updates of the whole RL run.")
@click.option("--prompts-per-step", type=int, help="Groups an update sees; default: 16.")
@click.option(
    "--rl-config",
    default=None,
    metavar="SOURCE",
    help="Settings of the RL run instead of these three: YAML of its trainer, or runs:/<id>.",
)
@click.option("--steps", type=int, default=8, show_default=True, help="Updates to try.")
@click.option(
    "--repeats",
    type=int,
    default=3,
    show_default=True,
    help="Tries, in other halves and order; at least 2.",
)
@device_option
@allow_pickle_option
@json_option
def lookahead(
    folder: str,
    model: str | None,
    as_json: bool,
    device: str,
    allow_pickle: bool,
    rl_config: str | None,
    **settings: Any,
) -> int:
    """Try the first updates of the RL run on the rollouts of an assessment in FOLDER.

    One half of the prompts teaches, the other half's rollouts are weighted anew; nothing is sampled
    and MODEL, by default the assessed one, stays as it is. FOLDER keeps the figure: `rlrisk
    rescore` and the same `rlrisk assess` count it. Weights, gradients and two moments are held in
    float32: 16 bytes a parameter.
    """
    from mlflow_rlrisk.config import LookaheadConfig
    from mlflow_rlrisk.lookahead.stored_rollouts import look_ahead_from
    from mlflow_rlrisk.rl_config import read_rl_config

    given = {name: value for name, value in settings.items() if value is not None}
    if rl_config is None:
        run = LookaheadConfig(**given)
    else:
        described = read_rl_config(rl_config)
        run = described.lookahead_config(**given)
        _say_what_differs(described, Path(folder))
    with console.progress("first updates") as shown:
        found = look_ahead_from(
            Path(folder),
            run,
            model,
            device=device,
            allow_pickle=allow_pickle,
            on_step=shown,
        )
    write_lookahead(Path(folder), found)
    tell(found.to_dict(), *lookahead_lines(found), as_json=as_json)
    return OK


def _say_what_differs(described: "RLConfig", folder: Path) -> None:
    """The rollouts are those that are there, in their groups, whatever the run will sample."""
    from mlflow_rlrisk.assessment.inputs import AssessmentInputs
    from mlflow_rlrisk.run_settings import checked_settings, settings_of

    assessed = settings_of(AssessmentInputs.load(folder).config)
    for name, wanted in checked_settings(described.sampling).items():
        if assessed[name] != wanted:
            console.say(f"not the run  {name}={assessed[name]} in {folder}, the run has {wanted}")


def write_lookahead(folder: Path, found: "Lookahead | None") -> None:
    """Put the figures beside the rollouts; without any, take away those of a run before."""
    from mlflow_rlrisk.rollouts.shards import write_text_atomically

    if found is None:
        (folder / RESULT).unlink(missing_ok=True)
        return
    text = json.dumps(found.to_dict(), ensure_ascii=False, allow_nan=False)
    write_text_atomically(folder / RESULT, text + "\n")
    console.say(f"lookahead   {folder / RESULT}")


def lookahead_lines(found: "Lookahead") -> list[str]:
    """What the updates changed, in words."""
    tried, closed, reach = found.settings, found.closed, found.reach
    before, after = found.pass_at_1
    rows = [
        ("pass@1 of prompts that were not taught", f"{before:.3f} -> {after:.3f}"),
        ("gap to 1 closed by these updates", _ends(closed)),
        (f"lookahead_reach: at this pace in {counted(tried.run_steps, 'update')}", _ends(reach)),
        ("rollouts that count, of their number", f"{found.effective_share:.1%}"),
    ]
    return [
        f"{counted(tried.steps, 'update')} of {counted(tried.prompts_per_step, 'group')} at "
        "learning rate "
        f"{tried.learning_rate:g}, tried {tried.repeats} times on each half of {found.num_prompts} "
        "prompts, the other half looked at",
        "",
        *(f"  {what:48}{figure}" for what, figure in rows),
        *(f"  note: {note}" for note in found.notes),
    ]


def _ends(found: "GapClosed") -> str:
    return f"{found.value:.3f}  [{found.low:.3f}, {found.high:.3f}]"
