"""``rlrisk audit-verifier``: is the verifier itself the problem?"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from mlflow_rlrisk.commands.options import json_option
from mlflow_rlrisk.commands.output import BLOCK, INCONCLUSIVE, OK, tell
from mlflow_rlrisk.errors import ConfigError

if TYPE_CHECKING:
    from mlflow_rlrisk.verifier_audit import VerifierAudit

_CODES = {"ok": OK, "faulty": BLOCK, "inconclusive": INCONCLUSIVE}


@click.command("audit-verifier")
@click.option("--prompts", required=True, help="The RL prompt set; contradictions are listed.")
@click.option("--verifier", required=True, help="The verifier to audit, as in assess.")
@click.option("--map", "mapping", default=None, help="Columns: prompt=COL,truth=COL")
@click.option("--second-verifier", default=None, help="Another one, for a second opinion.")
@click.option(
    "--audit",
    type=click.Path(exists=True),
    default=None,
    help="Labelled completions: columns completion, correct, and prompt or prompt_id.",
)
@click.option(
    "--accept-rate",
    type=float,
    default=None,
    help="Share that is accepted: --audit was drawn from accepted and rejected ones.",
)
@click.option("--accepted", default=None, help="CORRECT/AUDITED among accepted completions.")
@click.option("--rejected", default=None, help="CORRECT/AUDITED among rejected completions.")
@click.option(
    "--rollouts",
    type=click.Path(exists=True, file_okay=False),
    default=None,
    help="Folder of an assessment: its rollouts show suspicious labels and the signal.",
)
@click.option("--samples", type=int, default=64, show_default=True, help="Prompts shown.")
@click.option("--group-size", type=int, default=8, show_default=True, help="Of the RL run.")
@click.option("--success-threshold", type=float, default=None, help="Accepted from this reward.")
@click.option("--confidence", type=float, default=0.95, show_default=True, help="Of intervals.")
@click.option("--verifier-timeout-s", type=float, default=10.0, show_default=True)
@click.option("--verifier-workers", type=int, default=2, show_default=True)
@json_option
def audit_verifier(as_json: bool, **options: Any) -> int:
    """Show a verifier right and wrong answers, and say what is wrong with it or with the labels.

    Exit code: 0 nothing found, 10 gold rejected, wrong answers accepted or J too low, 11 nothing
    could be shown.
    """
    from mlflow_rlrisk.commands.option_values import parse_mapping
    from mlflow_rlrisk.verifier_audit import AuditSettings
    from mlflow_rlrisk.verifier_audit import audit_verifier as audit

    found = audit(
        options["prompts"],
        options["verifier"],
        second_verifier=options["second_verifier"],
        audit=options["audit"],
        rollouts=options["rollouts"],
        mapping=parse_mapping(options["mapping"]),
        settings=AuditSettings(
            samples=options["samples"],
            success_threshold=options["success_threshold"],
            group_size=options["group_size"],
            confidence=options["confidence"],
            timeout_s=options["verifier_timeout_s"],
            workers=options["verifier_workers"],
            accept_rate=options["accept_rate"],
            strata=_strata(options["accepted"], options["rejected"]),
        ),
    )
    tell(found.to_dict(), *_lines(found), as_json=as_json)
    return _CODES[str(found.verdict)]


def _strata(
    accepted: str | None, rejected: str | None
) -> tuple[tuple[int, int], tuple[int, int]] | None:
    if accepted is None and rejected is None:
        return None
    if accepted is None or rejected is None:
        missing = "accepted" if accepted is None else "rejected"
        raise ConfigError(missing, None, "an audit by stratum needs --accepted and --rejected")
    return _counts("accepted", accepted), _counts("rejected", rejected)


def _counts(name: str, text: str) -> tuple[int, int]:
    correct, _, audited = text.partition("/")
    if not (correct.strip().isdecimal() and audited.strip().isdecimal()):
        raise ConfigError(name, text, "expected CORRECT/AUDITED, such as 98/100")
    return int(correct), int(audited)


def _lines(found: "VerifierAudit") -> Iterator[str]:
    evidence = found.evidence
    yield f"verifier    {_name(evidence['verifier'])}"
    yield f"prompts     {evidence['prompts']}"
    yield f"gold        {_accepted(evidence['gold'])}"
    for name, tally in evidence["mutated"].items():
        yield f"wrong       {name:<22} {_accepted(tally)}"
    for name, tally in evidence["variants"].items():
        yield f"variant     {name:<22} {_accepted(tally)}"
    for name, value in (evidence["rates"] or {}).items():
        if name in ("tpr", "fpr", "youden_j"):
            yield f"{name:<11} {_value(value)}"
    if "value" in (evidence["disagreement"] or {}):
        yield f"second      {_value(evidence['disagreement'])} disagreement"
    for name, sides in (evidence["signal"] or {}).items():
        if isinstance(sides, dict):
            shown = ", ".join(f"{side} {_value(value)}" for side, value in sides.items())
            yield f"signal      {name}: {shown}"
        elif name == "undefined":
            yield f"signal      undefined: {sides}"
    for each in (evidence["suspicious_labels"] or [])[:10]:
        yield (
            f"suspicious  {each['prompt_id']} truth {each['truth']!r}, "
            f"{each['modal_share']:.0%} answer {each['modal_answer']!r}"
        )
    for each in evidence["conflicting_labels"][:10]:
        yield f"conflict    {each['prompt']!r}: {', '.join(map(repr, each['truths']))}"
    for each in evidence["duplicated_prompts"][:10]:
        yield f"duplicate   {each['prompt']!r}: {', '.join(each['places'])}"
    yield from (f"warning     {warning}" for warning in found.warnings)
    yield from (f"problem     {problem}" for problem in found.problems)
    if evidence.get("is_kept"):
        yield "kept        J, with the rollouts: rlrisk rescore and the next assess count it"
    yield f"verdict     {found.verdict}"


def _name(verifier: dict[str, Any]) -> str:
    dialect = f" ({verifier['dialect']})" if verifier["dialect"] else ""
    return f"{verifier['name']}{dialect}, digest {verifier['digest'][:12]}"


def _accepted(tally: dict[str, Any]) -> str:
    judged = tally["num_accepted"] + tally["num_rejected"]
    if not judged:
        return f"none judged, {tally['num_failed']} failed"
    rest = "".join(
        f", {tally[f'num_{kind}']} {words}"
        for kind, words in (
            ("wrong_answers", "graded wrong"),
            ("parse_failures", "parse failures"),
            ("failed", "failed"),
        )
        if tally[f"num_{kind}"]
    )
    interval = f"({tally['ci_low']:.2f} to {tally['ci_high']:.2f})"
    return f"{tally['num_accepted']} of {judged} accepted {interval}{rest}"


def _value(value: dict[str, Any]) -> str:
    return f"{value['value']:.3f} ({value['ci_low']:.3f} to {value['ci_high']:.3f})"
