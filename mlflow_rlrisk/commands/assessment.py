"""``rlrisk assess`` and ``rescore``: sample, judge, print, register."""

from functools import cache
from typing import TYPE_CHECKING, Any

import click

from mlflow_rlrisk import console
from mlflow_rlrisk.commands.option_values import config_of, parse_mapping, policy_of
from mlflow_rlrisk.commands.options import assessment_options, json_option
from mlflow_rlrisk.commands.output import OUTCOME_CODES, command_line, tell
from mlflow_rlrisk.commands.rl_options import run_of
from mlflow_rlrisk.commands.signing import Signer, find_signer, signing_options
from mlflow_rlrisk.result_lines import report_lines

if TYPE_CHECKING:
    from mlflow_rlrisk.assessment.wiring import Assessment
    from mlflow_rlrisk.config import LookaheadConfig
    from mlflow_rlrisk.evidence import AssessmentContext
    from mlflow_rlrisk.policy import Decision
    from mlflow_rlrisk.prompts import PromptSet
    from mlflow_rlrisk.report import RiskReport

DEFAULT_OUT = "rlrisk-out"


@click.command()
@click.argument("model")
@assessment_options
@click.option(
    "--mismatch",
    "is_mismatch_wanted",
    is_flag=True,
    help="Score the rollouts with the trainer's forward pass too, and count the difference.",
)
@click.option(
    "--lookahead",
    "is_lookahead_wanted",
    is_flag=True,
    help="Try the first updates of the run that --rl-config describes.",
)
@click.option(
    "--rl-learning-rate", type=float, help="Of the RL run: try its first updates on the rollouts."
)
@click.option("--rl-steps", type=int, help="Updates of that run.")
@click.option("--rl-prompts-per-step", type=int, help="Groups that an update sees; default: 16.")
@signing_options
@json_option
def assess(
    model: str, as_json: bool, register: bool, is_mismatch_wanted: bool, **settings: Any
) -> int:
    """Sample MODEL as the RL run would and say how risky it is to start RL from it.

    MODEL is models:/name/version, models:/name@alias, models:/m-<id>, runs:/<id>/path or a local
    Hugging Face folder; with --backend openai also endpoint:NAME, a model without files. Exit code:
    0 promote, 10 block, 11 inconclusive.
    """
    from mlflow_rlrisk.policy import decide

    sign, key_file = settings.pop("sign"), settings.pop("key_file")
    signer = find_signer(model, sign=sign, key_file=key_file, register=register)
    if register:
        check_writable()
    out = settings.pop("out")
    folders = {"out_dir": out} if out else {"out_root": DEFAULT_OUT}
    run = run_of(settings)
    said = (("--mismatch", is_mismatch_wanted), ("trying the first updates", run))
    wanted = [name for name, each in said if each]
    if wanted and (settings["backend"] == "replay" or model.startswith("endpoint:")):
        need = "needs the files of the checkpoint that is sampled"
        raise click.UsageError(f"{wanted[0]} {need}")
    if wanted:
        from mlflow_rlrisk.mismatch_evidence import require_same_weights, require_scorable

        if is_mismatch_wanted:
            require_same_weights(model, config_of(settings))
        require_scorable(model, config_of(settings))
    assessment = assess_one(model, settings, folders=folders, lookahead=run)
    if is_mismatch_wanted:
        assessment = _compared(assessment, as_json)
    if run is not None:
        assessment = _looked_ahead(assessment, run, as_json)
    page = write_page(assessment)
    if register:
        register_report(assessment, page, signer)
    # Not the file again: it may have changed while sampling went on for hours.
    return _verdict(assessment.report, decide(assessment.report, assessment.report.policy), as_json)


@click.command()
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

    chosen = policy_of(policy)
    report = rescore_stored(
        folder,
        verifier=changes["verifier"],
        group_size=changes["group_size"],
        success_threshold=changes["success_threshold"],
        policy=chosen,
        run_preflight=not changes["no_preflight"],
        command=command_line(),
    )
    return _verdict(report, decide(report, chosen), as_json)


def assess_one(
    model: str,
    settings: dict[str, Any],
    *,
    folders: dict[str, Any],
    lookahead: "LookaheadConfig | None" = None,
) -> "Assessment":
    """Assess MODEL with the options of the command line, showing the progress."""
    from mlflow_rlrisk.assessment.wiring import run_assessment

    prompts, context = _inputs(settings["prompts"], settings["mapping"], settings["sft_data"])
    observer = console.ConsoleObserver()
    try:
        return run_assessment(
            model,
            prompts,
            verifier=settings["verifier"],
            config=config_of(settings),
            policy=policy_of(settings["policy"]),
            mapping=parse_mapping(settings["mapping"]),
            context=context,
            expert_data=settings["expert_data"],
            expert_train_data=settings["expert_train_data"],
            lookahead=lookahead,
            run_preflight=not settings["no_preflight"],
            observer=observer,
            command=command_line(),
            **folders,
        )
    finally:
        observer.close()


def _compared(assessment: "Assessment", as_json: bool) -> "Assessment":
    """The assessment judged with its mismatch, which is printed in trainers' metric names."""
    from mlflow_rlrisk.commands.mismatch import mismatch_lines, write_mismatch
    from mlflow_rlrisk.mismatch_evidence import with_mismatch

    console.say("score the rollouts with the trainer's forward pass")
    judged, found = with_mismatch(assessment)
    if assessment.folder is not None:
        write_mismatch(assessment.folder, found)
    (console.say if as_json else click.echo)("\n".join([*mismatch_lines(found), ""]))
    return judged


def _looked_ahead(assessment: "Assessment", run: "LookaheadConfig", as_json: bool) -> "Assessment":
    """The assessment judged with the run's first updates, which are printed."""
    from mlflow_rlrisk.commands.lookahead import lookahead_lines, write_lookahead
    from mlflow_rlrisk.lookahead.stored_rollouts import with_lookahead

    with console.progress("first updates") as shown:
        judged, found = with_lookahead(assessment, run, shown)
    if assessment.folder is not None:
        write_lookahead(assessment.folder, found)
    if found is None:
        lines = [judged.report.undefined["rlrisk/lookahead_reach"]]
    else:
        lines = lookahead_lines(found)
    (console.say if as_json else click.echo)("\n".join([*lines, ""]))
    return judged


@cache
def _inputs(
    prompts: str, mapping: str | None, sft_data: str | None
) -> "tuple[str | PromptSet, AssessmentContext | None]":
    """The prompts, and what the SFT data say of them; once for all models of a comparison."""
    if sft_data is None:
        return prompts, None
    from mlflow_rlrisk.evidence import AssessmentContext
    from mlflow_rlrisk.overlap import overlap_evidence, overlap_with
    from mlflow_rlrisk.prompts import load_prompts

    loaded = load_prompts(prompts, parse_mapping(mapping))
    found = overlap_with(loaded, sft_data)
    console.say(f"overlap     {found.sentence}")
    return loaded, AssessmentContext(sft_rl_overlap=overlap_evidence(found, sft_data))


def write_page(assessment: "Assessment") -> str:
    """Render the report page and put it beside the rollouts."""
    from mlflow_rlrisk.rollouts.shards import write_text_atomically
    from mlflow_rlrisk.sinks.html import render
    from mlflow_rlrisk.sinks.kept_figures import render_beside

    if assessment.folder is None:
        return render(assessment.report)
    page = render_beside(assessment.report, assessment.folder)
    path = assessment.folder / "report.html"
    write_text_atomically(path, page)
    console.say(f"report      {path}")
    return page


def register_report(assessment: "Assessment", page: str, signer: Signer | None = None) -> None:
    """Log the report to MLflow, sign it where there is a key, and tag the model version."""
    from mlflow_rlrisk.sinks.mlflow_run import log_report
    from mlflow_rlrisk.sinks.registry import tag_version

    report = assessment.report
    logged = log_report(report, rollouts=assessment.folder, page=page)
    envelope = None if signer is None else signer.attest(report, logged.run_id, logged.report_uri)
    if report.provenance.version is not None:
        tag_version(report, report_uri=logged.report_uri, attestation=envelope)
    console.say(f"registered  {logged.report_uri}")


def check_writable() -> None:
    """Find out before hours of sampling that MLflow does not take the report."""
    from mlflow_rlrisk.sinks.mlflow_store import check_writable

    check_writable(None)


def _verdict(report: "RiskReport", decision: "Decision", as_json: bool) -> int:
    found = {**report.to_dict(), "decision": decision.to_dict()}
    tell(found, *report_lines(report), as_json=as_json)
    return OUTCOME_CODES[decision.outcome]
