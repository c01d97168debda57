"""Options that the settings of the RL run stand in for."""

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from mlflow_rlrisk import console

if TYPE_CHECKING:
    from mlflow_rlrisk.config import LookaheadConfig
    from mlflow_rlrisk.rl_config import RLConfig

_UPDATES = {
    "rl_learning_rate": "learning_rate",
    "rl_steps": "run_steps",
    "rl_prompts_per_step": "prompts_per_step",
}


def reads_rl_config(function: Callable[..., int]) -> Callable[..., int]:
    """The command with ``rl_config`` read: its settings where the command line gives none."""

    @wraps(function)
    def run(**settings: Any) -> int:
        return function(**_filled(settings))

    return run


def _filled(settings: dict[str, Any]) -> dict[str, Any]:
    if settings["rl_config"] is None:
        return settings
    from mlflow_rlrisk.config import SamplingConfig
    from mlflow_rlrisk.rl_config import read_rl_config

    names = ("group_size", *SamplingConfig.model_fields)
    is_given = click.get_current_context().get_parameter_source
    given = {name: settings[name] for name in names if is_given(name) != ParameterSource.DEFAULT}
    found = read_rl_config(settings["rl_config"])
    merged = found.merged(given)
    read = [f"{name}={value}" for name, value in found.sampling.items() if name not in given]
    console.say(f"rl config   {found.source} ({found.trainer}): {', '.join(read) or 'nothing'}")
    for title, those in (
        ("given here", [name for name in given if name in found.sampling]),
        ("not there", [name for name in names if name not in found.sampling | given]),
    ):
        if those:
            console.say(f"{title:<12}{', '.join(f'{n}={(settings | merged)[n]}' for n in those)}")
    return {**settings, **merged, "rl_config": found}


def run_of(settings: dict[str, Any]) -> "LookaheadConfig | None":
    """Takes the RL run out of the options; ``None`` where its updates are not to be tried."""
    from mlflow_rlrisk.config import LookaheadConfig

    is_wanted = settings.pop("is_lookahead_wanted")
    described: RLConfig | None = settings["rl_config"]
    given = {to: settings.pop(name) for name, to in _UPDATES.items()}
    given = {name: value for name, value in given.items() if value is not None}
    if not given and not is_wanted:
        return None
    if described is not None:
        return described.lookahead_config(**given)
    if not {"learning_rate", "run_steps"} <= given.keys():
        raise click.UsageError("--rl-learning-rate and --rl-steps, or --rl-config, are needed")
    return LookaheadConfig(**given)
