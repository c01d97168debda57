"""``rlrisk outcome``: bring back onto an SFT version what RL made of it."""

from typing import Any

import click

from mlflow_rlrisk import console
from mlflow_rlrisk.commands.options import json_option
from mlflow_rlrisk.commands.output import OK, tell
from mlflow_rlrisk.commands.run_options import reading_options, run_settings, run_source
from mlflow_rlrisk.errors import ConfigError, HistoryError


@click.command()
@click.argument("model")
@reading_options
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
    from mlflow_rlrisk.sinks.version_outcome import record_outcome

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


def _run_outcome(options: dict[str, Any]) -> tuple[Any, str]:
    """What came of the run, and the run: its id, or what its log is known by."""
    from mlflow_rlrisk.monitor.follow import judge_source
    from mlflow_rlrisk.monitor.wording import no_outcome

    source = run_source(options)
    judgement, log = judge_source(source, run_settings(options))
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
    from mlflow_rlrisk.sinks.version_report import report_of

    first, second = report_of(before or model), report_of(assessment)
    check_comparable([first, second])
    name = "rlrisk/pass_at_1"
    for report in (first, second):
        if name not in report.metrics:
            raise ConfigError("assessment", report.provenance.model_reference, f"has no {name}")
    found = assessed_outcome(first.metrics[name].value, second.metrics[name].value)
    return found, second.provenance.model_reference
