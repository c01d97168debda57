"""What an audit's evidence says is wrong with the verifier, in sentences."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

from mlflow_rlrisk.plurals import counted
from mlflow_rlrisk.verifier_audit.labels import LabelledSet
from mlflow_rlrisk.verifier_audit.probing import Probing
from mlflow_rlrisk.verifier_audit.sample import Rates

DISAGREEMENT_LINE = 0.05
"""Two verifiers that differ on more than this share of texts: one of them is wrong often."""
LOW_YOUDEN_J = 0.2
"""A lower end of J below it leaves little of the signal (threshold registry, `verifier`)."""


class AuditVerdict(StrEnum):
    """What came of an audit."""

    OK = "ok"
    FAULTY = "faulty"
    INCONCLUSIVE = "inconclusive"
    """Nothing could be shown to the verifier."""


def find_problems(probing: Probing, rates: Rates | None) -> tuple[str, ...]:
    """What must be mended, as sentences."""
    problems: list[str] = []
    gold = probing.gold
    if gold.num_judged > gold.counts["accepted"]:
        missed = gold.num_judged - gold.counts["accepted"]
        problems.append(f"{missed} of {gold.num_judged} gold answers are rejected")
    if gold.counts["failed"]:
        why = next((each.grade.reason for each in gold.examples if each.verdict == "failed"), "")
        failed = f"the verifier failed on {counted(gold.counts['failed'], 'gold answer')}"
        problems.append(f"{failed}: {why}" if why else failed)
    gold_reward = max((shown.grade.reward or 0.0 for shown in probing.shown), default=0.0)
    for name, tally in probing.mutated.items():
        if not tally.counts["accepted"]:
            continue
        reward = max(shown.grade.reward or 0.0 for shown in tally.examples)
        less = f" with a reward of {reward:g}, less than the {gold_reward:g} of gold answers: "
        hint = f"{less}--success-threshold may be missing" if reward < gold_reward else ""
        accepted = tally.counts["accepted"]
        problems.append(f"{accepted} of {tally.num_judged} wrong answers accepted ({name}){hint}")
    if rates is not None:
        low, high = rates.intervals["youden_j"]
        shown = f"J = {rates.rates.youden_j:.3f} ({low:.3f} to {high:.3f})"
        if high <= 0.0:
            problems.append(f"{shown}: rewards say nothing, or the opposite of the truth")
        elif low < LOW_YOUDEN_J:
            problems.append(f"{shown}: it may be below {LOW_YOUDEN_J}, most of the signal is lost")
    return tuple(problems)


def find_warnings(
    probing: Probing, labelled: LabelledSet, evidence: Mapping[str, Any]
) -> tuple[str, ...]:
    """What should be looked at, as sentences."""
    warnings: list[str] = []
    for name, tally in probing.variants.items():
        missed = tally.num_judged - tally.counts["accepted"]
        if missed:
            unread = tally.counts["parse_failure"]
            how = f", {unread} of them unread" if unread else ""
            warnings.append(f"{missed} of {tally.num_judged} right answers as {name} rejected{how}")
    others = [shown for shown in probing.shown if shown.kind != "gold"]
    if failed := [shown for shown in others if shown.verdict == "failed"]:
        kinds = ", ".join(dict.fromkeys(shown.kind.partition(":")[2] for shown in failed))
        count = f"{len(failed)} of {len(others)} wrong or reformatted answers"
        warnings.append(f"the verifier failed on {count} ({kinds}): {failed[0].grade.reason}")
    if labelled.conflicting:
        some = counted(len(labelled.conflicting), "prompt has", "prompts have")
        warnings.append(f"{some} contradicting labels")
    if labelled.duplicated:
        some = counted(len(labelled.duplicated), "prompt stands", "prompts stand")
        warnings.append(f"{some} in the set more than once")
    found = evidence["disagreement"]
    if found is not None and "undefined" in found:
        warnings.append(f"the disagreement is undefined: {found['undefined']}")
    elif found is not None and found["value"] > DISAGREEMENT_LINE:
        warnings.append(f"the second verifier disagrees on {found['value']:.1%} of the texts")
    unrated = ((evidence["rates"] or {}).get("counts") or {}).get("num_failed", 0)
    if unrated:
        forms = ("labelled completion: no rate has it", "labelled completions: no rate has them")
        warnings.append(f"the verifier failed on {counted(unrated, *forms)}")
    if evidence.get("is_kept") is False:
        warnings.append(
            "J is not kept with the rollouts: they were assessed with another verifier, success "
            "threshold or confidence"
        )
    return tuple(warnings)


def verdict_of(probing: Probing, rates: Rates | None, problems: Sequence[str]) -> AuditVerdict:
    """What came of the audit."""
    if problems:
        return AuditVerdict.FAULTY
    if not probing.gold.num_judged and rates is None:
        return AuditVerdict.INCONCLUSIVE
    return AuditVerdict.OK
