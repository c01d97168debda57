"""``rlrisk monitor``: watch an RL run, and say when to stop it."""

import json
import os
import shlex
import subprocess
from typing import TYPE_CHECKING, Any

import click

from mlflow_rlrisk import console
from mlflow_rlrisk.commands.options import FiniteFloat, json_option
from mlflow_rlrisk.commands.output import BLOCK, OK, tell
from mlflow_rlrisk.commands.run_options import reading_options, run_settings, run_source
from mlflow_rlrisk.errors import RLRiskError

if TYPE_CHECKING:
    from mlflow_rlrisk.monitor.alarms import Alarm
    from mlflow_rlrisk.monitor.judgement import Judgement
    from mlflow_rlrisk.monitor.run import MonitorSettings
    from mlflow_rlrisk.monitor.sources.points import HistorySource

COMMAND_LIMIT_S = 60.0


@click.command()
@reading_options
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

    source = run_source(options)
    settings = run_settings(options)
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
        from mlflow_rlrisk.sinks.version_report import report_of

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
