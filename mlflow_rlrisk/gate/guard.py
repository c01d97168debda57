"""The judgement: may this version go there? Pure; evidence in, verdict out.

Everything must be shown: a check that finds nothing wrong says so, and one line at the end of
`judge` promotes. Comparisons are written as what must hold, so that a value that is no number
fails them. What cannot be decided is inconclusive, which refuses as well.
"""

import math
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from mlflow_rlrisk.attestation import (
    OVERRIDE_TAG,
    Attestation,
    Override,
    Place,
    Proven,
    changed_files,
    is_expired,
    verify_attestation,
    verify_override,
)
from mlflow_rlrisk.attestation.envelope import canonical_json
from mlflow_rlrisk.attestation.keys import to_moment
from mlflow_rlrisk.content import FileEntry, content_digest
from mlflow_rlrisk.errors import AttestationError
from mlflow_rlrisk.gate.promotion_policy import (
    Bar,
    MetricRequirement,
    PromotionRule,
    Target,
    max_age_of,
    seconds_of,
)
from mlflow_rlrisk.plurals import counted
from mlflow_rlrisk.policy import Outcome

_SEVERITY = {"low": 0, "medium": 1, "high": 2}
SCORE = "rlrisk assess {model} --prompts FILE --verifier VERIFIER --register --sign"
UNPROTECTED = "unprotected"
"""Reason of a verdict on a place that no rule is about."""
NEW_VERSION = "(new)"
"""Stands for the number of a version that does not exist yet."""
_ELSEWHERE = Place(registry="", workspace="", model="ANOTHER-MODEL", version="VERSION")
OVERRIDE = 'rlrisk gate override {model} {target} --reason "..." --expires 24h'


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What is known of a version, read from the registry and the artifact store.

    Attributes:
        place: The version itself.
        envelope: The attestation it carries, or that of the version it is a copy of.
        attested_places: What the attestation may be about: the version the envelope was found
            on, under its present name and those it had when it was signed.
        source: The ``source`` of that version.
        overrides: Overrides that the version carries, by tag.
        files: Sizes by path of the files it has now; ``None`` where they cannot be listed.
        files_fault: Why they cannot.
        report_uri: Where its report is, for people.
    """

    place: Place
    envelope: str | None
    attested_places: tuple[Place, ...]
    source: str
    overrides: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, int] | None
    files_fault: str = ""
    report_uri: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that keeps a version out.

    Attributes:
        reason: A stable word.
        figure: What was found, as half a sentence.
        outcome: ``block``, or ``inconclusive`` where evidence is missing.
        may_be_overridden: True for refusals of the policy; false for proofs that do not hold.
        command: What to run next.
    """

    reason: str
    figure: str
    outcome: Outcome = Outcome.BLOCK
    may_be_overridden: bool = False
    command: str = SCORE


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What is decided about one version and one target.

    Attributes:
        outcome: ``promote``, ``block`` or ``inconclusive``.
        reason: A stable word: ``proven``, ``unprotected``, ``override``, ``audit_only`` or that
            of the fault.
        message: One sentence.
        rule: Name of the rule that decided; empty where none protects the place.
        files: The files that were attested, or overridden where an override decided.
        key_ids: Who signed the attestation, or the override that decided.
    """

    outcome: Outcome
    reason: str
    message: str
    rule: str = ""
    files: tuple[FileEntry, ...] = ()
    key_ids: tuple[str, ...] = ()

    @property
    def content_digest(self) -> str:
        """Digest of the files; empty where nothing was attested."""
        return content_digest(self.files) if self.files else ""

    @property
    def allows(self) -> bool:
        """Whether the version may go there."""
        return self.outcome is Outcome.PROMOTE


def judge(bar: Bar, evidence: Evidence, target: Target, now: datetime) -> Verdict:
    """Judge one version and one target under every rule that protects the place."""
    place = evidence.place
    rules = bar.policy.rules_for(place.model, place.workspace, target)
    return judge_under(rules, bar, evidence, target, now)


def judge_under(
    rules: list[PromotionRule], bar: Bar, evidence: Evidence, target: Target, now: datetime
) -> Verdict:
    """Judge under given rules; the first refusal of an enforced rule decides.

    Where all let it pass, an override or a rule that only audits is told before a proof.
    """
    if not rules:
        text = f"rlrisk gate: no rule protects {_what(evidence, target)}"
        return Verdict(outcome=Outcome.PROMOTE, reason=UNPROTECTED, message=text)
    verdicts = [_judge_one(rule, bar, evidence, target, now) for rule in rules]
    return min(verdicts, key=lambda verdict: (verdict.allows, verdict.reason == "proven"))


def _judge_one(
    rule: PromotionRule, bar: Bar, evidence: Evidence, target: Target, now: datetime
) -> Verdict:
    found = _attested(bar, evidence, now)
    fault: Fault | None
    if isinstance(found, Fault):
        fault, files, key_ids = found, tuple[FileEntry, ...](), tuple[str, ...]()
    else:
        evidence = replace(evidence, report_uri=found.statement.report_uri)
        fault = next(_faults(rule, bar, evidence, found, now), None)
        files = found.statement.files
        key_ids = tuple(key.key_id for key in found.signers)
    proven = Verdict(
        outcome=Outcome.PROMOTE,
        reason="proven",
        message=f"rlrisk gate: {_what(evidence, target)} is proven under rule '{rule.name}'",
        rule=rule.name,
        files=files,
        key_ids=key_ids,
    )
    if fault is None:
        return proven
    sentence = _sentence(rule, fault, evidence, target)
    refusal = replace(proven, outcome=fault.outcome, reason=fault.reason, message=sentence)
    if rule.mode == "audit":
        text = f"{refusal.message} (mode audit: let pass)"
        return replace(refusal, outcome=Outcome.PROMOTE, reason="audit_only", message=text)
    if fault.may_be_overridden:
        return _overridden(refusal, bar, evidence, target, now)
    return refusal


def _what(evidence: Evidence, target: Target) -> str:
    place = evidence.place
    return f"{target} of '{place.model}' version {place.version}"


def _sentence(rule: PromotionRule, fault: Fault, evidence: Evidence, target: Target) -> str:
    verb = "inconclusive" if fault.outcome is Outcome.INCONCLUSIVE else "blocked"
    place = f"--{target.kind} {target.name}" if target.name else "--every-version"
    command = fault.command
    version = evidence.place
    if version.version == NEW_VERSION:  # nothing can be done to it: it is to be a copy
        version = next(iter(evidence.attested_places), None) or _ELSEWHERE
        command = f"{SCORE}, then copy that version here"
    model = shlex.quote(f"models:/{version.model}/{version.version}")
    command = command.format(model=model, target=place)
    report = f"; report: {evidence.report_uri}" if evidence.report_uri else "; no report"
    text = (
        f"rlrisk gate: {_what(evidence, target)} is {verb} by rule '{rule.name}': "
        f"{fault.figure}{report}; run: {command}"
    )
    return " ".join(text.split())


def _attested(bar: Bar, evidence: Evidence, now: datetime) -> Proven[Attestation] | Fault:
    """The attestation, if it is genuine and about this version; else what is wrong with it."""
    if evidence.envelope is None:
        text = "it has no signed attestation"
        return Fault(reason="unscored", figure=text, may_be_overridden=True)
    for position, place in enumerate(evidence.attested_places):
        try:
            proven = verify_attestation(evidence.envelope, bar.ring, place, now)
        except AttestationError as error:
            is_last = position == len(evidence.attested_places) - 1
            if error.reason == "wrong_subject" and not is_last:
                continue
            return Fault(reason=error.reason, figure=f"its attestation is refused: {error}")
        if proven.statement.source != evidence.source:
            text = "its attestation is refused: it is about another source"
            return Fault(reason="wrong_subject", figure=text)
        return proven
    return Fault(reason="wrong_subject", figure="nothing is known that it could be about")


def _faults(
    rule: PromotionRule, bar: Bar, evidence: Evidence, found: Proven[Attestation], now: datetime
) -> Iterator[Fault]:
    """What keeps a genuine attestation from sufficing: proof first, then policy."""
    yield from _proof_faults(rule, evidence, found)
    statement = found.statement
    if is_expired(statement, now):
        yield _refused("expired", f"its attestation expired at {statement.expires_at}")
    if not now - to_moment(statement.issued_at) <= max_age_of(rule):
        yield _refused("too_old", f"its attestation is older than {rule.max_age}")
    if statement.policy_digest != bar.risk_policy_digest:
        text = (
            f"it was assessed under risk policy '{statement.policy}', not under the current one, "
            "risk_policy of the gate (--policy of rlrisk assess)"
        )
        yield _refused("policy_changed", text)
    yield from _level_faults(rule, statement)
    for name, requirement in rule.required_metrics.items():
        yield from _metric_faults(name, requirement, statement)
    yield from _settings_faults(rule, statement)
    for what, value, allowed in (
        ("prompts", statement.prompts_digest, rule.allowed_prompts),
        ("verifier", statement.verifier_digest, rule.allowed_verifiers),
        ("judge tier", statement.judge_tier, rule.allowed_judge_tiers),
    ):
        if allowed is not None and value not in allowed:
            yield _refused(f"{what.replace(' ', '_')}_not_allowed", f"its {what} is {value}")


def _proof_faults(
    rule: PromotionRule, evidence: Evidence, found: Proven[Attestation]
) -> Iterator[Fault]:
    allowed = rule.allowed_keys
    for key in found.signers:
        if allowed is not None and key.key_id not in allowed:
            text = f"it was signed by key {key.key_id} ({key.name}), which the rule does not allow"
            yield Fault(reason="key_not_allowed", figure=text)
    if evidence.files is None:
        text = f"its files cannot be listed ({evidence.files_fault})"
        yield Fault(reason="files_unknown", figure=text, outcome=Outcome.INCONCLUSIVE)
    elif changed := changed_files(found.statement.files, evidence.files):
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        text = f"its files are not those that were assessed: {changed[0]}{more}"
        yield Fault(reason="content_changed", figure=text)


def _level_faults(rule: PromotionRule, statement: Attestation) -> Iterator[Fault]:
    if statement.risk_level not in _SEVERITY:
        text = "its risk level is unknown: the evidence does not suffice"
        yield replace(_refused("unknown", text), outcome=Outcome.INCONCLUSIVE)
    elif not _SEVERITY[statement.risk_level] <= _SEVERITY[rule.required_level]:
        index = statement.metrics.get("rlrisk/risk_index")
        figure = f" (risk index {index.value:.3f})" if index else ""
        text = f"its risk level is {statement.risk_level}{figure}, {rule.required_level} is needed"
        yield _refused("level", text, command=OVERRIDE)


def _metric_faults(
    name: str, requirement: MetricRequirement, statement: Attestation
) -> Iterator[Fault]:
    metric, bar = statement.metrics.get(name), requirement.threshold
    if metric is None:
        text = f"{name} is required and was not measured"
        yield replace(_refused("metric_missing", text), outcome=Outcome.INCONCLUSIVE)
    elif not (math.isfinite(metric.value) and _meets(metric.value, requirement)):
        side = "at least" if requirement.greater_is_better else "at most"
        text = f"{name} is {metric.value:.4g}, {side} {bar:.4g} is needed"
        yield _refused("metric", text, command=OVERRIDE)


def _settings_faults(rule: PromotionRule, statement: Attestation) -> Iterator[Fault]:
    said = statement.settings or {}
    for name, wanted in rule.required_settings.items():
        if name not in said:
            text = f"its attestation does not say with which {name} it was assessed"
            yield replace(_refused("settings_unknown", text), outcome=Outcome.INCONCLUSIVE)
        elif (found := canonical_json(said[name])) != canonical_json(wanted):
            text = f"it was assessed with {name} {found}, {canonical_json(wanted)} is needed"
            yield _refused("settings", text)


def _meets(value: float, requirement: MetricRequirement) -> bool:
    bar = requirement.threshold
    return value >= bar if requirement.greater_is_better else value <= bar


def _refused(reason: str, figure: str, *, command: str = SCORE) -> Fault:
    """A refusal of the policy, which an override may lift."""
    return Fault(reason=reason, figure=figure, may_be_overridden=True, command=command)


def _overridden(
    refusal: Verdict, bar: Bar, evidence: Evidence, target: Target, now: datetime
) -> Verdict:
    """The refusal, or leave given by a valid override for exactly this content and target."""
    envelope = evidence.overrides.get(OVERRIDE_TAG + target.key)
    if envelope is None:
        return refusal
    found = overriding(bar, envelope, evidence, target, now)
    if isinstance(found, str):
        return replace(refusal, message=f"{refusal.message} (its override does not count: {found})")
    statement = found.statement
    return replace(
        refusal,
        outcome=Outcome.PROMOTE,
        reason="override",
        message=(
            f"rlrisk gate: {_what(evidence, target)} is let pass until {statement.expires_at} by "
            f"an override of {told(found)}"
        ),
        files=statement.files,
        key_ids=tuple(key.key_id for key in found.signers),
    )


def told(found: Proven[Override]) -> str:
    """Who signed an override, for whom and why."""
    signers = ", ".join(f"{key.name} ({key.key_id})" for key in found.signers)
    asked = ", ".join(found.statement.requested_by)
    for_whom = f", asked for by {asked}" if asked else ""
    return f"{signers}{for_whom}: {' '.join(found.statement.reason.split())}"


def overriding(
    bar: Bar, envelope: str, evidence: Evidence, target: Target, now: datetime
) -> Proven[Override] | str:
    """The override, if it counts for this content and target now; else why not."""
    settings = bar.policy.override
    try:
        found = verify_override(envelope, bar.ring, evidence.place, now)
    except AttestationError as error:
        return str(error)
    statement = found.statement
    lasts = to_moment(statement.expires_at) - to_moment(statement.issued_at)
    allowed = [k for k in found.signers if settings.keys is None or k.key_id in settings.keys]
    if statement.target != target.key:
        return f"it is for {statement.target}"
    if is_expired(statement, now):
        return f"it expired at {statement.expires_at}"
    if not lasts <= timedelta(seconds=seconds_of(settings.max_duration)):
        return f"it lasts longer than {settings.max_duration}"
    if not len(statement.reason.strip()) >= settings.min_reason_length:
        return f"its reason has fewer than {counted(settings.min_reason_length, 'character')}"
    if not len(allowed) >= settings.required_signatures:
        have = f"{len(allowed)} of {settings.required_signatures}"
        return f"it has {have} signatures of keys that may override"
    if evidence.files is None or changed_files(statement.files, evidence.files):
        return "its files are not those that the version has"
    return found
