"""Options of ``rlrisk monitor`` and ``rlrisk outcome`` that say which RL run is read, and how."""

from typing import TYPE_CHECKING, Any

import click

from mlflow_rlrisk.commands.options import grouped
from mlflow_rlrisk.errors import ConfigError
from mlflow_rlrisk.monitor.trainers import ADAPTERS, adapter_name

if TYPE_CHECKING:
    from mlflow_rlrisk.monitor.run import MonitorSettings
    from mlflow_rlrisk.monitor.sources.points import HistorySource

reading_options = grouped(
    click.option("--run-id", default=None, help="An MLflow run, live or finished."),
    click.option(
        "--file",
        "path",
        type=click.Path(exists=True),
        default=None,
        help="JSONL, trainer_state.json, CSV, or a folder of TensorBoard or of TRL.",
    ),
    click.option(
        "--trainer",
        default=None,
        help=f"{', '.join(ADAPTERS)}; default: told from the names.",
    ),
    click.option("--group-size", type=click.IntRange(2), default=None, help="Of the RL run."),
    click.option("--reward-scale", default=None, help="WRONG,RIGHT: rewards of the two answers."),
    click.option("--success-metric", default=None, help="A metric that is a success rate."),
    click.option(
        "--policy",
        type=click.Path(exists=True, dir_okay=False),
        default=None,
        help="YAML: the lines, as in MonitorPolicy.",
    ),
    click.option(
        "--regularised/--not-regularised",
        default=None,
        help="Whether an entropy or KL bonus is active; default: told from the log.",
    ),
)


def run_source(options: dict[str, Any]) -> "HistorySource":
    """Where the run is read from."""
    from mlflow_rlrisk.monitor.sources import FileSource, MlflowRunSource

    run_id, path = options["run_id"], options["path"]
    if (run_id is None) == (path is None):
        raise click.UsageError("one of --run-id and --file is needed")
    if run_id is None:
        return FileSource(path)
    return MlflowRunSource(run_id, extra_metric=options["success_metric"])


def run_settings(options: dict[str, Any]) -> "MonitorSettings":
    """What is known of the run, and the lines it is judged by."""
    from mlflow_rlrisk.monitor import MonitorSettings, RunFacts, monitor_policy

    facts = RunFacts(
        group_size=options["group_size"],
        reward_scale=parse_scale(options["reward_scale"]),
        success_metric=options["success_metric"],
        regularised=options["regularised"],
    )
    policy = monitor_policy(options["policy"])
    trainer = None if options["trainer"] is None else adapter_name(options["trainer"])
    return MonitorSettings(trainer=trainer, policy=policy, facts=facts)


def parse_scale(text: str | None) -> tuple[float, float] | None:
    """Read ``WRONG,RIGHT``.

    Raises:
        ConfigError: These are not two numbers.
    """
    if text is None:
        return None
    try:
        wrong, right = (float(part) for part in text.split(","))
    except ValueError as error:
        need = "two different numbers are needed, such as -1,1"
        raise ConfigError("reward_scale", text, need) from error
    return wrong, right
