"""The ``rlrisk`` command: parse, call one function, print.

Exit codes are a contract: 0 promote or ok, 1 failure, 2 misuse, 10 block, 11 inconclusive. With
``--json`` standard output is one JSON object; everything for people goes to standard error. An
expected error is one line and has no traceback.
"""

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlflow_rlrisk import __version__, console
from mlflow_rlrisk.cli_options import assessment_options, json_option
from mlflow_rlrisk.config import AssessmentConfig, PolicyConfig, SamplingConfig
from mlflow_rlrisk.errors import ConfigError, RLRiskError

if TYPE_CHECKING:
    from mlflow_rlrisk.policy import Decision
    from mlflow_rlrisk.report import RiskReport
    from mlflow_rlrisk.wiring import Assessment

OK, FAILURE, MISUSE, BLOCK, INCONCLUSIVE = 0, 1, 2, 10, 11
INTERRUPTED = 130
DEFAULT_OUT = "rlrisk-out"
_OUTCOME_CODES = {"promote": OK, "block": BLOCK, "inconclusive": INCONCLUSIVE}


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="rlrisk")
def cli() -> None:
    """Which SFT checkpoint may start RL? Evidence-backed verdicts on MLflow model versions."""


@cli.command()
@click.argument("model")
@assessment_options
@json_option
def assess(model: str, as_json: bool, register: bool, **settings: Any) -> int:
    """Sample MODEL as the RL run would and say how risky it is to start RL from it.

    MODEL is models:/name/version, models:/name@alias, models:/m-<id>, runs:/<id>/path or a local
    Hugging Face folder. Exit code: 0 promote, 10 block, 11 inconclusive.
    """
    from mlflow_rlrisk.policy import decide

    if register:
        _check_writable()
    out = settings.pop("out")
    folders = {"out_dir": out} if out else {"out_root": DEFAULT_OUT}
    assessment = _assess_one(model, settings, folders=folders)
    page = _write_page(assessment)
    if register:
        _register(assessment, page)
    # Not the file again: it may have changed while sampling went on for hours.
    return _verdict(assessment.report, decide(assessment.report, assessment.report.policy), as_json)


@cli.command()
@click.argument("models", nargs=-1, required=True)
@assessment_options
@json_option
def compare(models: tuple[str, ...], as_json: bool, register: bool, **settings: Any) -> int:
    """Assess several MODELS and mark where the ranking by pass@1 and by risk disagree."""
    from mlflow_rlrisk.comparison import rank

    if len(models) < 2:
        raise click.UsageError("compare needs at least two models")
    if register:
        _check_writable()
    folders = {"out_root": settings.pop("out") or DEFAULT_OUT}
    reports = []
    for model in models:
        assessment = _assess_one(model, settings, folders=folders)
        page = _write_page(assessment)
        if register:
            _register(assessment, page)
        reports.append(assessment.report)
    comparison = rank(reports)
    if as_json:
        _print_json(comparison.to_dict())
    else:
        click.echo("\n".join(console.comparison_lines(comparison, reports)))
    return OK


@cli.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False))
@click.option("--verifier", default=None, help="Grade again; default: the stored grades.")
@click.option("--group-size", type=int, default=None, help="Default: as assessed.")
@click.option("--success-threshold", type=float, default=None)
@click.option("--policy", type=click.Path(exists=True, dir_okay=False), default=None)
@click.option("--no-preflight", is_flag=True, help="Do not show the verifier its gold answers.")
@json_option
def rescore(folder: str, as_json: bool, policy: str | None, **changes: Any) -> int:
    """Judge stored rollouts in FOLDER again: other policy, group size or verifier; no model."""
    from mlflow_rlrisk.assess import rescore as rescore_stored
    from mlflow_rlrisk.policy import decide

    chosen = _policy(policy)
    report = rescore_stored(
        folder,
        verifier=changes["verifier"],
        group_size=changes["group_size"],
        success_threshold=changes["success_threshold"],
        policy=chosen,
        run_preflight=not changes["no_preflight"],
        command=_command(),
    )
    return _verdict(report, decide(report, chosen), as_json)


@cli.command()
@json_option
def doctor(as_json: bool) -> int:
    """Say what is installed, what is missing and which command mends it."""
    from mlflow_rlrisk.doctor import examine, is_healthy, to_json

    findings = examine()
    if as_json:
        _print_json(to_json(findings))
    else:
        for finding in findings:
            click.echo(f"{finding.status:<8} {finding.name:<18} {finding.detail}")
            if finding.mend:
                click.echo(f"{'':<27} mend: {finding.mend}")
    return OK if is_healthy(findings) else FAILURE


@cli.command()
@click.option("--rl", is_flag=True, help="Go on with GRPO of the shallowest and deepest rung.")
@click.option("--out", default="demo-out", show_default=True)
def demo(rl: bool, out: str) -> int:
    """Train a ladder of SFT checkpoints, assess it, and see why pass@1 picks the wrong one."""
    from mlflow_rlrisk.demo.run import main

    return main(Path(out), with_rl=rl)


def _assess_one(model: str, settings: dict[str, Any], *, folders: dict[str, Any]) -> "Assessment":
    from mlflow_rlrisk.wiring import run_assessment

    observer = console.ConsoleObserver()
    try:
        return run_assessment(
            model,
            settings["prompts"],
            verifier=settings["verifier"],
            config=_config(settings),
            policy=_policy(settings["policy"]),
            mapping=parse_mapping(settings["mapping"]),
            run_preflight=not settings["no_preflight"],
            observer=observer,
            command=_command(),
            **folders,
        )
    finally:
        observer.close()


def _write_page(assessment: "Assessment") -> str:
    from mlflow_rlrisk.rollout_shards import write_text_atomically
    from mlflow_rlrisk.sinks.html import render

    page = render(assessment.report)
    if assessment.folder is not None:
        path = assessment.folder / "report.html"
        write_text_atomically(path, page)
        console.say(f"report      {path}")
    return page


def _register(assessment: "Assessment", page: str) -> None:
    from mlflow_rlrisk.sinks.mlflow_run import log_report
    from mlflow_rlrisk.sinks.registry import tag_version

    logged = log_report(assessment.report, rollouts=assessment.folder, page=page)
    if assessment.report.provenance.version is not None:
        tag_version(assessment.report, report_uri=logged.report_uri)
    console.say(f"registered  {logged.report_uri}")


def _config(settings: dict[str, Any]) -> AssessmentConfig:
    sampling = SamplingConfig(**{name: settings[name] for name in SamplingConfig.model_fields})
    rest = {
        name: settings[name]
        for name in AssessmentConfig.model_fields
        if name in settings and name != "sampling"
    }
    return AssessmentConfig(sampling=sampling, **rest)


def _policy(path: str | None) -> PolicyConfig:
    if path is None:
        return PolicyConfig()
    from mlflow_rlrisk.policy import load_policy

    return load_policy(path)


def parse_mapping(text: str | None) -> dict[str, str] | None:
    """Read ``prompt=COL,truth=COL``.

    Raises:
        ConfigError: A part has no ``=`` or names neither ``prompt`` nor ``truth``.
    """
    if text is None:
        return None
    mapping: dict[str, str] = {}
    for part in text.split(","):
        role, _, column = part.partition("=")
        if role.strip() not in ("prompt", "truth") or not column.strip():
            raise ConfigError("map", text, "expected prompt=COLUMN,truth=COLUMN")
        mapping[role.strip()] = column.strip()
    return mapping


def _check_writable() -> None:
    """Find out before hours of sampling that MLflow does not take the report."""
    from mlflow_rlrisk.sinks.mlflow_run import check_writable

    check_writable(None)


def _verdict(report: "RiskReport", decision: "Decision", as_json: bool) -> int:
    if as_json:
        _print_json({**report.to_dict(), "decision": decision.to_dict()})
    else:
        click.echo("\n".join(console.report_lines(report)))
    return _OUTCOME_CODES[decision.outcome]


def _command() -> str:
    return shlex.join(["rlrisk", *sys.argv[1:]])


def _print_json(value: dict[str, Any]) -> None:
    click.echo(json.dumps(value, allow_nan=False, ensure_ascii=False))


def run(argv: Sequence[str] | None = None) -> int:
    """Entry point: run the command and turn expected errors into one line and an exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        code = cli.main(args=arguments, prog_name="rlrisk", standalone_mode=False)
    except click.exceptions.Abort:
        stopped = "stopped; the same command goes on from the stored rollouts"
        code = _fail(arguments, INTERRUPTED, "interrupted", stopped)
    except click.ClickException as error:
        error.show()
        if "--json" in arguments:
            _print_error("misuse", error.format_message())
        code = MISUSE
    except RLRiskError as error:
        exit_code = MISUSE if isinstance(error, ConfigError) else FAILURE
        code = _fail(arguments, exit_code, error.code, str(error))
    except OSError as error:  # a full disk, a folder that may not be read
        code = _fail(arguments, FAILURE, "system", str(error))
    sys.exit(code if isinstance(code, int) else OK)


def _fail(arguments: Sequence[str], exit_code: int, code: str, message: str) -> int:
    """Say in one line what happened, as JSON too where that was asked for."""
    line = " ".join(message.split())
    console.say(f"rlrisk: {line}")
    if "--json" in arguments:
        _print_error(code, line)
    return exit_code


def _print_error(code: str, message: str) -> None:
    _print_json({"error": {"code": code, "message": message}})
