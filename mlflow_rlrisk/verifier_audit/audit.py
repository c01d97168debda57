"""The audit as a whole: gathers the evidence and keeps it as JSON."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from mlflow_rlrisk.assessment.inputs import AssessmentInputs
from mlflow_rlrisk.assessment.stored import stored_groups
from mlflow_rlrisk.config import PositiveInt, Settings
from mlflow_rlrisk.errors import ConfigError, RLRiskError
from mlflow_rlrisk.records import Prompt
from mlflow_rlrisk.rollouts.evidence import keep_evidence
from mlflow_rlrisk.statistics.counts import IntVector
from mlflow_rlrisk.verifier_audit import rollouts as stored
from mlflow_rlrisk.verifier_audit.findings import (
    AuditVerdict,
    find_problems,
    find_warnings,
    verdict_of,
)
from mlflow_rlrisk.verifier_audit.labels import LabelledSet, Repeated, read_labels
from mlflow_rlrisk.verifier_audit.probing import Judge, Probing, probe, shorten
from mlflow_rlrisk.verifier_audit.sample import Rates, rates_of_file, strata_rates
from mlflow_rlrisk.verifiers import VerifierPool
from mlflow_rlrisk.verifiers.gold import spread

NUM_LISTED = 50


class AuditSettings(Settings):
    """How to audit."""

    samples: PositiveInt = 64
    """Prompts whose gold answers are shown, spread evenly over the set."""
    success_threshold: float | None = None
    """Accepted from this reward on; ``None`` accepts every reward above 0."""
    group_size: Annotated[int, Field(ge=2)] = 8
    """Rollouts per prompt and step of the RL run."""
    confidence: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.95
    """Of every interval."""
    timeout_s: Annotated[float, Field(gt=0.0)] = 10.0
    """Of one verifier call."""
    workers: PositiveInt = 2
    """Worker processes."""
    accept_rate: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    """Share that the verifier accepts, for an audit sample by stratum; ``None`` takes that of the
    rollouts."""
    strata: tuple[tuple[int, int], tuple[int, int]] | None = None
    """``(correct, audited)`` among the accepted and among the rejected, in place of an audit
    sample."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifierAudit:
    """What is known of a verifier.

    Attributes:
        verdict: ``ok``, ``faulty`` or ``inconclusive``.
        problems: What must be mended, as sentences.
        warnings: What should be looked at.
        evidence: All figures and lists, as JSON values.
    """

    verdict: AuditVerdict
    problems: tuple[str, ...]
    warnings: tuple[str, ...]
    evidence: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """The audit as JSON values."""
        return {
            "verdict": str(self.verdict),
            "problems": list(self.problems),
            "warnings": list(self.warnings),
            **self.evidence,
        }


def audit_verifier(
    prompts: object,
    verifier: str | Callable[..., Any],
    *,
    second_verifier: str | Callable[..., Any] | None = None,
    audit: object = None,
    rollouts: str | Path | None = None,
    mapping: Mapping[str, str] | None = None,
    settings: AuditSettings | None = None,
) -> VerifierAudit:
    """Audit a verifier.

    Args:
        prompts: The prompt set: what `load_prompts` takes; contradictions are listed.
        verifier: What `load_verifier` takes.
        second_verifier: Another one, for a second opinion on everything that is shown.
        audit: A labelled sample: a path or anything that `read_table` takes.
        rollouts: Folder of an assessment; its rollouts are graded anew. Where the verifier is the
            one of the assessment its J is kept there, for whoever judges the rollouts again.
        mapping: Columns of the prompt set.
        settings: How to audit.

    Raises:
        RLRiskError: The prompt set, a verifier, the sample or the rollouts cannot be used.
    """
    settings = settings or AuditSettings()
    if audit is not None and settings.strata is not None:
        raise ConfigError("strata", settings.strata, "an audit sample is given: rates of one only")
    if settings.accept_rate is not None and audit is None and settings.strata is None:
        need = "it turns an audit sample, or counts by stratum, into rates; there is neither"
        raise ConfigError("accept_rate", settings.accept_rate, need)
    labelled = read_labels(prompts, mapping)
    with ExitStack() as stack:
        judge = _judge(stack, verifier, settings)
        second = None if second_verifier is None else _judge(stack, second_verifier, settings)
        able, unable = _judgeable(judge, labelled.prompts)
        probing = probe(judge, spread(able, settings.samples) if able else [])
        groups = None if rollouts is None else _groups(judge, second, Path(rollouts))
        accepted = None if groups is None else stored.counts(groups, judge)
        rates = _rates(audit, labelled.prompts, judge, settings, accepted)
        evidence = _evidence(judge, labelled, probing, rates, settings)
        evidence["num_unjudgeable_prompts"] = len(unable)
        pairs = [] if second is None else _probe_pairs(second, probing)
        if groups is not None and accepted is not None:
            evidence |= _rollout_evidence(judge, second, groups, accepted, rates, settings)
            pairs = pairs + _rollout_pairs(judge, second, groups)
        if second is not None:
            found = stored.disagreement(pairs, settings.confidence)
            name = second.pool.verifier.described
            found = found or {"undefined": "no text has a verdict of both verifiers"}
            evidence["disagreement"] = {"second_verifier": name, **found}
    if rollouts is not None and rates is not None:
        evidence["is_kept"] = _keep(Path(rollouts), evidence["verifier"]["digest"], rates, settings)
    problems, warnings = find_problems(probing, rates), find_warnings(probing, labelled, evidence)
    if unable:
        told = (_unjudgeable(unable, len(labelled.prompts)),)
        problems, warnings = (told + problems, warnings) if able else (problems, told + warnings)
    return VerifierAudit(
        verdict=verdict_of(probing, rates, problems),
        problems=problems,
        warnings=warnings,
        evidence=evidence,
    )


def _judge(stack: ExitStack, verifier: Any, settings: AuditSettings) -> Judge:
    pool = VerifierPool(verifier, num_workers=settings.workers, timeout_s=settings.timeout_s)
    return Judge(stack.enter_context(pool), settings.success_threshold)


def _judgeable(
    judge: Judge, prompts: Sequence[Prompt]
) -> tuple[list[Prompt], list[tuple[Prompt, str]]]:
    """Prompts that can be shown, and those that the verifier cannot judge with the reason."""
    if not judge.pool.verifier.grades_texts:
        return [], []
    told = list(zip(prompts, judge.pool.problems(prompts), strict=True))
    able = [prompt for prompt, problem in told if problem is None]
    return able, [(prompt, problem) for prompt, problem in told if problem is not None]


def _unjudgeable(prompts: Sequence[tuple[Prompt, str]], num_prompts: int) -> str:
    first, reason = prompts[0]
    told = f"the verifier cannot judge {len(prompts)} of {num_prompts} prompts"
    return f"{told}; first: {shorten(first.text, 80)!r}: {reason}"


def _groups(judge: Judge, second: Judge | None, folder: Path) -> list[stored.JudgedGroup]:
    inputs = AssessmentInputs.load(folder)
    places = inputs.prompt_places()
    judged = stored.judged_groups(stored_groups(folder, inputs, judge.pool), second)
    return sorted(judged, key=lambda each: places[each.group.prompt.id])


def _keep(folder: Path, verifier_digest: str, rates: Rates, settings: AuditSettings) -> bool:
    """Keep J with the rollouts, where it is about their rewards and at the report's confidence."""
    inputs = AssessmentInputs.load(folder)
    config = inputs.config
    is_same = verifier_digest == inputs.provenance.digests["verifier"] and (
        (settings.success_threshold, settings.confidence)
        == (config.success_threshold, config.confidence)
    )
    if is_same:
        keep_evidence(folder, "verifier_youden_j", rates.evidence(), inputs.graded_as)
    return is_same


def _rates(
    audit: object,
    prompts: Sequence[Prompt],
    judge: Judge,
    settings: AuditSettings,
    accepted: tuple[IntVector, IntVector] | None,
) -> Rates | None:
    accept_rate = settings.accept_rate
    if accept_rate is None and accepted is not None and accepted[1].sum():
        accept_rate = float(accepted[0].sum() / accepted[1].sum())
    if settings.strata is not None:
        if accept_rate is None:
            raise ConfigError(
                "accept_rate", None, "counts by stratum need the share that the verifier accepts"
            )
        return strata_rates(accept_rate, *settings.strata, settings.confidence)
    if audit is None:
        return None
    return rates_of_file(
        audit,
        prompts,
        judge,
        accept_rate=accept_rate,
        is_by_stratum=settings.accept_rate is not None,
        confidence=settings.confidence,
    )


def _evidence(
    judge: Judge,
    labelled: LabelledSet,
    probing: Probing,
    rates: Rates | None,
    settings: AuditSettings,
) -> dict[str, Any]:
    loaded, level = judge.pool.verifier, settings.confidence
    return {
        "verifier": {
            "name": loaded.name,
            "dialect": loaded.dialect,
            "digest": loaded.digest,
            "reads_answers": loaded.extracts_answers,
        },
        "prompts": labelled.schema,
        "num_rows": labelled.num_rows,
        "num_prompts": len(labelled.prompts),
        "gold": probing.gold.to_dict(level),
        "mutated": {name: tally.to_dict(level) for name, tally in probing.mutated.items()},
        "variants": {name: tally.to_dict(level) for name, tally in probing.variants.items()},
        "rates": None if rates is None else rates.to_dict(),
        "duplicated_prompts": [_listed(each) for each in labelled.duplicated[:NUM_LISTED]],
        "num_duplicated_prompts": len(labelled.duplicated),
        "conflicting_labels": [_listed(each) for each in labelled.conflicting[:NUM_LISTED]],
        "num_conflicting_labels": len(labelled.conflicting),
        "suspicious_labels": None,
        "disagreement": None,
        "signal": None,
    }


def _listed(each: Repeated) -> dict[str, Any]:
    return {
        "prompt": shorten(each.prompt),
        "places": list(each.places),
        "truths": list(each.truths),
    }


def _rollout_evidence(
    judge: Judge,
    second: Judge | None,
    groups: Sequence[stored.JudgedGroup],
    accepted: tuple[IntVector, IntVector],
    rates: Rates | None,
    settings: AuditSettings,
) -> dict[str, Any]:
    verdicts = [judge.verdict(grade) for each in groups for grade in each.group.grades]
    reads = judge.pool.verifier.extracts_answers
    suspects = stored.suspicious_labels(groups, judge, second)
    found: dict[str, Any] = {
        "suspicious_labels": suspects[:NUM_LISTED],
        "rollouts": {
            "num_rollouts": len(verdicts),
            "num_accepted": verdicts.count("accepted"),
            "num_wrong_answers": verdicts.count("wrong_answer"),
            "num_parse_failures": verdicts.count("parse_failure") if reads else None,
            "num_failed": verdicts.count("failed"),
        },
    }
    try:
        found["signal"] = stored.signal(*accepted, settings.group_size, rates, settings.confidence)
    except RLRiskError as error:
        found["signal"] = {"undefined": str(error)}
    return found


def _probe_pairs(second: Judge, probing: Probing) -> list[tuple[str, bool]]:
    by_prompt: dict[str, list[Any]] = {}
    for shown in probing.shown:
        by_prompt.setdefault(shown.prompt.id, []).append(shown)
    pairs = []
    for found in by_prompt.values():
        grades = second.grade(found[0].prompt, [shown.completion for shown in found])
        for shown, grade in zip(found, grades, strict=True):
            pairs += _pair(shown.prompt.id, shown.verdict, second.verdict(grade))
    return pairs


def _rollout_pairs(
    judge: Judge, second: Judge | None, groups: Sequence[stored.JudgedGroup]
) -> list[tuple[str, bool]]:
    return [
        pair
        for each in groups
        if second is not None and each.second is not None
        for own, other in zip(each.group.grades, each.second, strict=True)
        for pair in _pair(each.group.prompt.id, judge.verdict(own), second.verdict(other))
    ]


def _pair(prompt_id: str, own: str, other: str) -> list[tuple[str, bool]]:
    if "failed" in (own, other):
        return []
    return [(prompt_id, (own == "accepted") is not (other == "accepted"))]
