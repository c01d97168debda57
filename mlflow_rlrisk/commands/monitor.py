"""``rlrisk monitor`` and ``rlrisk outcome``: watch an RL run, and bring back what came of it."""

import json
import os
import shlex
import subprocess
from typing import TYPE_CHECKING, Any

import click

from mlflow_rlrisk import console
from mlflow_rlrisk.commands.options import FiniteFloat, grouped, json_option
from mlflow_rlrisk.commands.output import BLOCK, OK, tell
from mlflow_rlrisk.errors import ConfigError, RLRiskError
from mlflow_rlrisk.monitor.trainers import ADAPTERS, adapter_name

if TYPE_CHECKING:
    from mlflow_rlrisk.monitor.alarms import Alarm
    from mlflow_rlrisk.monitor.judgement import Judgement
    from mlflow_rlrisk.monitor.run import MonitorSettings
    from mlflow_rlrisk.monitor.sources.points import HistorySource

COMMAND_LIMIT_S = 60.0


_reading_options = grouped(
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


@click.command()
@_reading_options
@click.option(
    "--follow", "is_followed", is_flag=True, help="Watch until the run ends, a file until Ctrl-C."
)
@click.option(
    "--poll-s",
    type=FiniteFloat(min=0.0, min_open=True),
    default=10.0,
    show_default=True,
    help="Between readings.",
)
@click.option(
    "--on-alarm",
    default=None,
    help="Command, without a shell, for each alarm: JSON on its standard input, RLRISK_* set.",
)
@click.option("--report", default=None, help="What was predicted: report.json or models:/...")
@click.option("--read-only", is_flag=True, help="Write no tags and no chart to the MLflow run.")
@click.option(
    "--fail-on",
    type=click.Choice(["never", "stop", "alarm"]),
    default="never",
    show_default=True,
    help="Exit 10 where stopping is advised, or at any alarm.",
)
@click.option(
    "--token-log",
    type=click.Path(exists=True, dir_okay=False),
    default=None,
    help="JSONL of rollouts with logprobs and advantage: covariance and forking tokens.",
)
@json_option
def monitor(as_json: bool, is_followed: bool, **options: Any) -> int:
    """Judge an RL run by its metrics: alarms with evidence, what is missing, whether to stop.

    One of --run-id and --file says which run. Exit code 0 whatever is found, unless --fail-on.
    """
    from mlflow_rlrisk.monitor.follow import judge_source
    from mlflow_rlrisk.monitor.wording import judgement_lines

    source = _source(options)
    settings = _settings(options)
    if is_followed:
        judgement = _follow(source, settings, options)
    else:
        judgement, _ = judge_source(source, settings)
        for alarm in judgement.alarms:
            _run_command(options["on_alarm"], alarm)
    _write(options, judgement)
    extra = _extra(options, judgement)
    lines = judgement_lines(judgement)
    for _, more in extra.values():
        lines += ["", *more]
    found = {**judgement.to_dict(), **{name: value for name, (value, _) in extra.items()}}
    tell(found, *lines, as_json=as_json)
    return _exit_code(judgement, options["fail_on"])


@click.command()
@click.argument("model")
@_reading_options
@click.option(
    "--assessment", default=None, help="report.json of the RL checkpoint, assessed alike."
)
@click.option("--before", default=None, help="report.json of MODEL; default: the one it names.")
@click.option(
    "--replaces",
    default=None,
    metavar="RUN",
    help="A recorded run that is the same, resumed from an earlier step (--json names them).",
)
@json_option
def outcome(
    model: str, as_json: bool, assessment: str | None, replaces: str | None, **options: Any
) -> int:
    """Record on MODEL, the SFT version, what RL made of it: peak, final, step of peak, regression.

    From the run (--run-id or --file) or from a second assessment of the RL checkpoint.
    """
    from mlflow_rlrisk.sinks.monitor_run import record_outcome

    given = [name for name in ("run_id", "path") if options[name] is not None]
    if (assessment is None) == (not given):
        raise click.UsageError("one of --run-id, --file and --assessment is needed")
    stated = {name for name, value in options.items() if value is not None}
    beside, unread = "without", stated & {"before"}
    if assessment is not None:
        beside, unread = "beside", stated - {"before"}
    if unread:
        option = min(unread).replace("_", "-")
        raise click.UsageError(f"--{option} says nothing {beside} --assessment")
    if assessment is not None:
        found, run = _assessed(model, assessment, options["before"])
    else:
        found, run = _run_outcome(options)
    record = record_outcome(model, found, run=run, replaces=replaces)
    line = (
        f"{model}: {record['status']}; {found.quantity} {found.start:.3f} -> {found.final:.3f},"
        f" peak {found.peak:.3f}, {found.regression_from_peak:.3f} below it at the end"
    )
    tell({"model": model, **record}, line, as_json=as_json)
    return OK


def _source(options: dict[str, Any]) -> "HistorySource":
    from mlflow_rlrisk.monitor.sources import FileSource, MlflowRunSource

    run_id, path = options["run_id"], options["path"]
    if (run_id is None) == (path is None):
        raise click.UsageError("one of --run-id and --file is needed")
    if run_id is None:
        return FileSource(path)
    return MlflowRunSource(run_id, extra_metric=options["success_metric"])


def _settings(options: dict[str, Any]) -> "MonitorSettings":
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


def _follow(
    source: "HistorySource", settings: "MonitorSettings", options: dict[str, Any]
) -> "Judgement":
    from mlflow_rlrisk.monitor.follow import follow
    from mlflow_rlrisk.monitor.wording import alarm_line, live_line

    console.say(f"watching {source.title}; Ctrl-C ends with the table")
    seen: list[Judgement] = []

    def on_judgement(judgement: "Judgement") -> None:
        seen[:] = [judgement]
        console.say(live_line(judgement))

    def on_alarm(alarm: "Alarm") -> None:
        console.say(alarm_line(alarm))
        _run_command(options["on_alarm"], alarm)
        _write(options, seen[0])

    return follow(
        source,
        settings,
        on_judgement=on_judgement,
        on_alarm=on_alarm,
        on_outage=lambda error: console.say(f"rlrisk: {error}; trying on"),
        poll_s=options["poll_s"],
    )


def _run_command(command: str | None, alarm: "Alarm") -> None:
    """Run the user's command; that it fails is said and does not end the watch."""
    if command is None:
        return
    environment = {
        "RLRISK_RULE": alarm.rule,
        "RLRISK_STEP": str(alarm.step),
        "RLRISK_SEVERITY": str(alarm.severity),
        "RLRISK_MESSAGE": alarm.message,
    }
    try:
        done = subprocess.run(
            shlex.split(command),
            input=json.dumps(alarm.to_dict()),
            env={**os.environ, **environment},
            stdout=subprocess.DEVNULL,  # standard output is the judgement's
            text=True,
            timeout=COMMAND_LIMIT_S,
            check=False,
        )
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        console.say(f"rlrisk: --on-alarm failed: {error}")
        return
    if done.returncode != 0:
        console.say(f"rlrisk: --on-alarm ended with {done.returncode}")


def _write(options: dict[str, Any], judgement: "Judgement") -> None:
    """Tags and chart onto the run; a tracking server that refuses does not end the watch."""
    if options["run_id"] is None or options["read_only"]:
        return
    from mlflow_rlrisk.sinks.monitor_run import log_judgement

    try:
        log_judgement(options["run_id"], judgement)
    except RLRiskError as error:
        console.say(f"rlrisk: {error}")


def _extra(options: dict[str, Any], judgement: "Judgement") -> dict[str, tuple[Any, list[str]]]:
    """What is laid beside the judgement: JSON and lines by name."""
    extra: dict[str, tuple[Any, list[str]]] = {}
    if options["report"] is not None:
        from mlflow_rlrisk.monitor.before_after import before_after, prediction_lines
        from mlflow_rlrisk.sinks.monitor_run import report_of

        report = report_of(options["report"])
        found = before_after(report, judgement)
        extra["before_after"] = (
            {
                "risk_level": str(report.risk_level),
                "metrics": [each.to_dict() for each in found],
            },
            prediction_lines(report, found),
        )
    if options["token_log"] is not None:
        from mlflow_rlrisk.monitor.sources.token_log import read_token_log
        from mlflow_rlrisk.monitor.token_dynamics import token_dynamics

        dynamics = token_dynamics(read_token_log(options["token_log"]))
        extra["dynamics"] = (dynamics.to_dict(), dynamics.lines())
    return extra


def _exit_code(judgement: "Judgement", fail_on: str) -> int:
    stop = judgement.stop.step is not None
    fails = stop if fail_on == "stop" else bool(judgement.alarms) and fail_on == "alarm"
    return BLOCK if fails else OK


def _run_outcome(options: dict[str, Any]) -> tuple[Any, str]:
    """What came of the run, and the run: its id, or what its log is known by."""
    from mlflow_rlrisk.errors import HistoryError
    from mlflow_rlrisk.monitor.follow import judge_source
    from mlflow_rlrisk.monitor.wording import no_outcome

    source = _source(options)
    judgement, log = judge_source(source, _settings(options))
    if judgement.outcome is None:
        raise HistoryError(f"{source.title}: {no_outcome(judgement)}")
    if log.is_finished is False:
        console.say(f"{source.title} has not ended: recorded as it stands, record it again then")
    named = options["success_metric"]
    if named is not None and judgement.outcome.quantity != "success":
        raise HistoryError(f"{source.title}: no row has a {named} within 0 to 1")
    if judgement.outcome.collapsed:
        console.say(f"recorded as collapsed: {judgement.stop.reason}")
    return judgement.outcome, options["run_id"] or judgement.identity


def _assessed(model: str, assessment: str, before: str | None) -> tuple[Any, str]:
    from mlflow_rlrisk.comparison import check_comparable
    from mlflow_rlrisk.monitor.outcome import assessed_outcome
    from mlflow_rlrisk.sinks.monitor_run import report_of

    first, second = report_of(before or model), report_of(assessment)
    check_comparable([first, second])
    name = "rlrisk/pass_at_1"
    for report in (first, second):
        if name not in report.metrics:
            raise ConfigError("assessment", report.provenance.model_reference, f"has no {name}")
    found = assessed_outcome(first.metrics[name].value, second.metrics[name].value)
    return found, second.provenance.model_reference
