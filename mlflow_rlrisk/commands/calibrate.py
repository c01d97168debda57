"""``rlrisk calibrate``: outcomes of RL runs become a calibration record."""

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlflow_rlrisk import console
from mlflow_rlrisk.commands.options import FiniteFloat, json_option
from mlflow_rlrisk.commands.output import INCONCLUSIVE, OK, print_json
from mlflow_rlrisk.config import PolicyConfig
from mlflow_rlrisk.plurals import counted

if TYPE_CHECKING:
    from mlflow_rlrisk.calibration import CalibrationRecord


@click.command()
@click.argument("models", nargs=-1)
@click.option(
    "--data",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default=None,
    help="JSONL, one checkpoint a line: lineage, checkpoint, metrics, outcomes; instead of MODELS.",
)
@click.option(
    "--policy",
    type=click.Path(exists=True, dir_okay=False),
    default=None,
    help="YAML: its components are the index that is calibrated.",
)
@click.option(
    "--on",
    "feature",
    type=click.Choice(["risk_index", "lookahead_reach"]),
    default="risk_index",
    show_default=True,
    help="What is calibrated; lookahead_reach needs reports with the run's first updates tried.",
)
@click.option(
    "--min-gain",
    type=FiniteFloat(min=-1.0, max=1.0),
    default=0.0,
    show_default=True,
    help="A run that gains no more than this failed, collapsed or not.",
)
@click.option(
    "--devices",
    type=FiniteFloat(min=0.0, min_open=True),
    default=1.0,
    show_default=True,
    help="GPUs of one RL run, for the hours saved.",
)
@click.option(
    "--lineage-tag", default=None, help="Version tag naming the lineage; default: the model."
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("calibration.json"),
    show_default=True,
    help="The record; its figures are written beside it.",
)
@json_option
def calibrate(
    models: tuple[str, ...],
    data: Path | None,
    policy: str | None,
    feature: str,
    min_gain: float,
    devices: float,
    lineage_tag: str | None,
    out: Path,
    as_json: bool,
) -> int:
    """Calibrate the risk index, or the first updates, on outcomes of `rlrisk outcome`.

    MODELS are registered models or versions; none takes every registered model. The record may be
    named by a policy (`calibration: FILE`), which uses it only where it beats the baselines on
    lineages it has not seen. Exit code 11 where there are too few outcomes to calibrate anything.
    """
    from mlflow_rlrisk.calibration import calibrate as fit
    from mlflow_rlrisk.calibration import read_rows

    if data is not None and models:
        raise click.UsageError("give MODELS or --data, not both")
    for given in (data, policy):
        if given is not None and out.exists() and out.samefile(given):
            raise click.UsageError(f"--out {out} is what is read: the record would replace it")
    lines = PolicyConfig() if policy is None else _lines_of(policy)
    components = lines.components
    quantity = "pass_at_1"
    if data is not None:
        rows, left_out = read_rows(data, components, min_gain=min_gain)
    else:
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # one a report
        from mlflow_rlrisk.sinks.registered_outcomes import registered_outcomes

        rows, left_out, quantity = registered_outcomes(
            models, components, min_gain=min_gain, lineage_tag=lineage_tag
        )
    rows = [row if row.hours is None else replace(row, hours=row.hours * devices) for row in rows]
    record = fit(
        rows,
        components,
        left_out=left_out,
        min_gain=min_gain,
        quantity=quantity,
        feature=feature,
    )
    figures = _write(record, out)
    if as_json:
        print_json({**record.to_dict(), "path": str(out), "figures": figures})
    else:
        click.echo("\n".join(_lines(record, lines.max_fail_probability)))
        console.say(f"record      {out}")
        for figure in figures:
            console.say(f"figure      {figure}")
    return OK if record.content["validation"] is not None else INCONCLUSIVE


def _lines_of(policy: str) -> PolicyConfig:
    """The policy without the record that it names, which may be the one to be made."""
    from mlflow_rlrisk.policy import CALIBRATION, policy_of
    from mlflow_rlrisk.yaml_settings import read_settings

    settings = read_settings(policy, "policy")
    settings.pop(CALIBRATION, None)
    return policy_of(settings, Path(policy).parent)


def _write(record: "CalibrationRecord", out: Path) -> list[str]:
    """The record, and its figures where it has a validation; stale ones are taken away."""
    from mlflow_rlrisk.sinks.calibration_figures import decision_figure, reliability_figure

    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(record.to_json(), encoding="utf-8")
    drawn = {"reliability": reliability_figure, "decisions": decision_figure}
    written = []
    for name, draw in drawn.items():
        path = out.with_name(f"{out.stem}-{name}.svg")
        path.unlink(missing_ok=True)
        if record.content["validation"] is not None:
            path.write_text(draw(record), encoding="utf-8")
            written.append(str(path))
    return written


def _lines(record: "CalibrationRecord", line: float) -> list[str]:
    content = record.content
    lineages = len(content["lineages"])
    on = "" if record.feature == "risk_index" else f"{record.feature}; "
    lines = [
        f"{counted(content['num_outcomes'], 'checkpoint')} with an outcome, "
        f"{content['num_failed']} failed, "
        f"{counted(lineages, 'lineage')}; {on}"
        f"model: {content['model']['kind']}; {'used' if record.is_used else 'not used'}",
        *record.reasons,
    ]
    lines += [f"left out    {each['checkpoint']}: {each['reason']}" for each in content["left_out"]]
    validation = content["validation"]
    if validation is None:
        return lines
    lines += ["", f"{'out of lineage':<16}{'Brier':>8}{'95 %':>18}{'skill':>8}{'AUROC':>8}"]
    for name, score in validation["predictors"].items():
        ends = f"{score['brier_low']:.3f} to {score['brier_high']:.3f}"
        lines.append(
            f"{name:<16}{score['brier']:>8.3f}{ends:>18}{_cell(score['skill'])}"
            f"{_cell(score['auroc'])}"
        )
    curve = validation["decision_curve"]
    free = max((e["hours_saved"] for e in curve["points"] if e["good_blocked"] == 0), default=0.0)
    above = [row["failed"] for row in content["rows"] if row["predicted"] > line]
    num_good = content["num_outcomes"] - content["num_failed"]
    lines += [
        "",
        f"above a chance of {line:g}, where a policy withholds low, lie {sum(above)} of "
        f"{content['num_failed']} failed and {len(above) - sum(above)} of {num_good} others",
        f"blocking by the predicted chance saves {free:.3g} of {curve['total_failed']:.3g} "
        f"{curve['unit']} of failed runs before the first good run is blocked",
    ]
    return lines


def _cell(value: Any) -> str:
    return f"{'-':>8}" if value is None else f"{value:>8.3f}"
