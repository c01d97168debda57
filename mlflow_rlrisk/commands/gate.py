"""``rlrisk gate``: ask, promote, override, read the log, test and reconcile the gate."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlflow_rlrisk import console
from mlflow_rlrisk.commands.options import gate_policy_option, grouped, json_option
from mlflow_rlrisk.commands.output import (
    BLOCK,
    FAILURE,
    OK,
    OUTCOME_CODES,
    one_line,
    print_json,
    tell,
    tell_refusal,
)
from mlflow_rlrisk.errors import ConfigError, PromotionRefusedError
from mlflow_rlrisk.plurals import counted

if TYPE_CHECKING:
    from mlflow_rlrisk.gate.promotion_policy import Target

store_option = click.option(
    "--registry-store-uri",
    default=None,
    help="The registry's database, as mlflow server gets it. Default: MLFLOW_REGISTRY_STORE_URI.",
)
target_options = grouped(
    click.option("--stage", default=None, help="Stage, instead of an alias."),
    click.option("--alias", default=None, help="Alias that the version shall have."),
)
"""Where a version wants to go."""
STAGES = ("None", "Staging", "Production", "Archived")


@click.group()
def gate() -> None:
    """The promotion gate of the model registry."""


@gate.command()
@click.argument("model")
@target_options
@click.option("--every-version", is_flag=True, help="May it be a version of its model at all?")
@click.option(
    "--protected",
    "must_be_protected",
    is_flag=True,
    help="Misuse where no rule protects the place: a misspelt name lets nothing pass.",
)
@gate_policy_option
@json_option
def check(
    model: str,
    alias: str | None,
    stage: str | None,
    every_version: bool,
    must_be_protected: bool,
    policy: str | None,
    as_json: bool,
) -> int:
    """May MODEL have this alias? Exit code: 0 promote, 10 block, 11 inconclusive.

    MODEL is models:/name/version, models:/name@alias, or a bare name for the version that has
    the alias now. Changes nothing and needs no plugin in the server.
    """
    from mlflow_rlrisk.gate.client import check as judge
    from mlflow_rlrisk.gate.guard import UNPROTECTED

    target = _target(alias, stage, every_version=every_version)
    try:
        verdict = judge(model, target, policy)
    except PromotionRefusedError as error:
        return tell_refusal(error, model, as_json=as_json)
    if must_be_protected and verdict.reason == UNPROTECTED:
        raise ConfigError(target.kind, target.name or None, verdict.message)
    found = {
        "model": model,
        "target": target.key,
        "outcome": str(verdict.outcome),
        "reason": verdict.reason,
        "message": verdict.message,
        "rule": verdict.rule,
        "content_digest": verdict.content_digest,
        "key_ids": list(verdict.key_ids),
    }
    tell(found, verdict.message, as_json=as_json)
    return OUTCOME_CODES[verdict.outcome]


@gate.command()
@click.argument("model")
@target_options
@json_option
def promote(model: str, alias: str | None, stage: str | None, as_json: bool) -> int:
    """Ask the registry to give MODEL this alias. Exit code: 0 done, 10 block, 11 inconclusive."""
    from mlflow_rlrisk.gate.client import promote as ask

    target = _target(alias, stage)
    try:
        promoted = ask(model, target)
    except PromotionRefusedError as error:
        return tell_refusal(error, model, as_json=as_json)
    done = {"model": model, "target": target.key, "outcome": "promote"}
    tell(done, f"{target} is version {promoted} now", as_json=as_json)
    return OK


@gate.command()
@click.argument("model")
@target_options
@click.option("--reason", default=None, help="Why; kept in the statement and in the log.")
@click.option("--expires", default="24h", show_default=True, help="90m, 24h, 7d ...")
@click.option(
    "--key",
    "key_files",
    multiple=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="Private key file; twice for two signatures. Default: RLRISK_KEY.",
)
@click.option("--co-sign", is_flag=True, help="Sign the override that the version carries, too.")
@click.option("--every-version", is_flag=True, help="May it be a version of its model at all?")
@gate_policy_option
@json_option
def override(model: str, alias: str | None, stage: str | None, as_json: bool, **given: Any) -> int:
    """Sign that MODEL may have this alias although the policy refuses it.

    Bound to the content, the alias and the time; never lifts a signature that does not hold.
    """
    from mlflow_rlrisk.attestation.keys import SigningKey, key_path
    from mlflow_rlrisk.gate import overrides
    from mlflow_rlrisk.gate.client import load_bar

    target = _target(alias, stage, every_version=given["every_version"])
    bar = load_bar(given["policy"])
    loaded = [SigningKey.load(path) for path in given["key_files"] or (key_path(),)]
    keys = list({key.key_id: key for key in loaded}.values())  # one given twice signs once
    if not given["co_sign"] and given["reason"] is None:
        raise click.UsageError("Missing option '--reason'.")
    try:
        if given["co_sign"]:
            found = [overrides.co_sign(model, target, key=key, bar=bar) for key in keys][-1]
        else:
            found = overrides.override(
                model,
                target,
                reason=given["reason"],
                expires=given["expires"],
                keys=keys,
                bar=bar,
            )
    except PromotionRefusedError as error:
        return tell_refusal(error, model, as_json=as_json)
    needed, have = bar.policy.override.required_signatures, len(found.signers)
    lines = [f"{model} may have {target} until {found.statement.expires_at}"]
    if have < needed:
        lines.append(f"{have} of {needed} signatures: another holder runs it with --co-sign")
    told = {
        "model": model,
        "target": target.key,
        "expires_at": found.statement.expires_at,
        "reason": found.statement.reason,
        "content_digest": found.statement.content_digest,
        "key_ids": [key.key_id for key in found.signers],
        "required_signatures": needed,
    }
    tell(told, *lines, as_json=as_json)
    return OK


@gate.command()
@store_option
@click.option("--limit", type=click.IntRange(min=0), default=None, help="Only the last entries.")
@json_option
def log(registry_store_uri: str | None, limit: int | None, as_json: bool) -> int:
    """Print every decision, oldest first, after checking the chain of hashes."""
    from mlflow_rlrisk.gate.registry_database import open_log

    entries = open_log(registry_store_uri).read()
    shown = entries if limit is None else entries[max(len(entries) - limit, 0) :]
    head = entries[-1].hash if entries else ""
    if as_json:
        listed = [each.to_dict() for each in shown]
        print_json({"entries": listed, "num_entries": len(entries), "head": head, "intact": True})
        return OK
    for each in shown:
        entry = each.entry
        about = f"{entry.model}/{entry.version}" if entry.version else entry.model
        line = (
            f"{each.sequence:>5} {each.recorded_at} {entry.outcome:<12} {entry.action:<16} "
            f"{about} {entry.target} by {entry.actor}: {entry.message or entry.reason}"
        )
        click.echo(one_line(line))  # whoever asks chooses names, and one looks like an entry
    click.echo(f"{counted(len(entries), 'entry', 'entries')}, chain intact, head {head or 'none'}")
    return OK


@gate.command()
@gate_policy_option
@json_option
def selftest(policy: str | None, as_json: bool) -> int:
    """Try every forbidden move against a scratch model; 0 when each is refused."""
    from mlflow import MlflowClient

    from mlflow_rlrisk.gate.client import load_bar
    from mlflow_rlrisk.gate.selftest import selftest as try_all
    from mlflow_rlrisk.sinks.mlflow_store import mlflow_errors

    bar = load_bar(policy)
    with mlflow_errors("the selftest cannot be run"):
        moves = try_all(MlflowClient(), bar)
    is_tight = all(move.passed for move in moves)
    lines = []
    for move in moves:
        wanted = "allowed" if move.is_allowed else "refused"
        lines.append(f"{'✓' if move.passed else '✗'} {wanted}: {move.name}")
        if not move.passed:
            lines.append(f"    {move.message}")
    held = sum(move.passed for move in moves)
    lines.append(f"{held} of {len(moves)} moves went as they must")
    found = {"moves": [move.to_dict() for move in moves], "passed": is_tight}
    tell(found, *lines, as_json=as_json)
    return OK if is_tight else FAILURE


@gate.command()
@click.option("--every", default=None, metavar="DURATION", help="Go on, such as 60s.")
@gate_policy_option
@store_option
@json_option
def reconcile(
    every: str | None, policy: str | None, registry_store_uri: str | None, as_json: bool
) -> int:
    """Hash what protected aliases and stages hold; restore or remove those whose proof broke.

    Once, or for ever with --every. Exit code of one pass: 0 all proven, 10 an alias or stage was
    taken back, 1 one could not be judged or taken back.
    """
    from mlflow_rlrisk.gate.promotion_policy import seconds_of

    try:
        pause = None if every is None else seconds_of(every)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    reconciler, bar_now = _reconciler(policy, registry_store_uri)
    while True:
        try:
            code = _reconcile_once(reconciler, bar_now, as_json)
        except Exception as error:  # the registry may be back at the next pass
            if pause is None:
                raise
            console.say(f"rlrisk: {type(error).__name__}: {error}")
            code = FAILURE
        if pause is None:
            return code
        time.sleep(pause)


def _reconciler(policy: str | None, store_uri: str | None) -> tuple[Any, Callable[[], Any]]:
    from mlflow import MlflowClient

    from mlflow_rlrisk.gate.client import load_bar
    from mlflow_rlrisk.gate.reconcile import Reconciler
    from mlflow_rlrisk.gate.registry_database import find_store_uri, open_log

    load_bar(policy)
    log = None if find_store_uri(store_uri) is None else open_log(store_uri)
    if log is None:
        console.say("no database is named: aliases are removed, not restored, and the server logs")
    return Reconciler(MlflowClient(), log), lambda: load_bar(policy)


def _reconcile_once(reconciler: Any, bar_now: Callable[[], Any], as_json: bool) -> int:
    findings = reconciler.run(bar_now())
    if as_json:
        print_json({"findings": [each.to_dict() for each in findings]})
    else:
        for each in findings:
            where = f"@{each.alias}" if each.alias else f" in stage {each.stage}"
            where += "" if each.workspace == "default" else f" of workspace {each.workspace}"
            now = f", now {each.restored_to}" if each.restored_to else ""
            line = f"{each.action:<9} {each.model}{where} ({each.version}{now}) {each.message}"
            click.echo(one_line(line))
        click.echo(
            counted(len(findings), "protected alias or stage", "protected aliases and stages")
        )
    actions = {each.action for each in findings}
    if "failed" in actions:
        return FAILURE
    return BLOCK if actions - {"kept"} else OK


def _target(alias: str | None, stage: str | None, *, every_version: bool | None = None) -> "Target":
    """Where to; ``every_version`` is ``None`` for a command without that option."""
    from mlflow_rlrisk.gate.names import readable
    from mlflow_rlrisk.gate.promotion_policy import Target

    if [alias is not None, stage is not None, bool(every_version)].count(True) != 1:
        more = "" if every_version is None else " or --every-version"
        raise click.UsageError(f"one of --alias or --stage{more} is needed")
    if alias is not None:
        if not readable(alias):  # such as a variable of a pipeline that is not set
            raise ConfigError("alias", alias, "no version can have an alias without a name")
        return Target("alias", alias)
    if stage is not None:
        if readable(stage) not in map(readable, STAGES):
            raise ConfigError("stage", stage, f"MLflow's are {', '.join(STAGES)}")
        return Target("stage", stage)
    return Target("version")
