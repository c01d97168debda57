"""Several versions read as one story: ranking, inversions, phases, coverage, outcomes.

A single checkpoint's figure means little; its series and its base mean a lot. Everything here is
made of reports and of what was counted of each prompt; nothing is sampled again and nothing is
written. Members that measured other things are refused by name, never compared with a footnote.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from mlflow_rlrisk.comparison import rank
from mlflow_rlrisk.errors import ComparabilityError, ConfigError
from mlflow_rlrisk.lineage.choice import (
    Choice,
    as_safe_as_the_safest,
    choose,
    with_drift,
)
from mlflow_rlrisk.lineage.coverage import CoverageChange, coverage_changes
from mlflow_rlrisk.lineage.heldout import HeldoutLoss, heldout_losses
from mlflow_rlrisk.lineage.measures import Estimate
from mlflow_rlrisk.lineage.modes import AnswerModes, ModeChange, mode_changes, why_no_modes
from mlflow_rlrisk.lineage.outcomes import RankEvidence, outcome_table, rank_evidence
from mlflow_rlrisk.lineage.pairs import OrderAgreement, Pair, PairOrder, compare_orders
from mlflow_rlrisk.lineage.phases import Phase, PhaseReport
from mlflow_rlrisk.lineage.record import LineageReport
from mlflow_rlrisk.lineage.remarks import entropy_remarks
from mlflow_rlrisk.lineage.scaling import Rescaling
from mlflow_rlrisk.lineage.series import SeriesPhases, phases_by_series
from mlflow_rlrisk.lineage.table import (
    ENTROPY,
    HELDOUT,
    LENGTH,
    PASS_AT_1,
    SIGNAL,
    TRAIN,
    LineageMember,
    LineageTable,
    build_table,
)
from mlflow_rlrisk.statistics.bootstrap import PromptBootstrap

__all__ = [
    "AnswerModes",
    "Choice",
    "CoverageChange",
    "Estimate",
    "HeldoutLoss",
    "LineageMember",
    "LineageReport",
    "ModeChange",
    "OrderAgreement",
    "Pair",
    "PairOrder",
    "Phase",
    "PhaseReport",
    "RankEvidence",
    "Rescaling",
    "SeriesPhases",
    "as_safe_as_the_safest",
    "rank_evidence",
    "trace_lineage",
]


def trace_lineage(
    members: Sequence[LineageMember],
    *,
    base: str | None = None,
    outcomes: Mapping[str, float] | None = None,
    rescalings: Sequence[Rescaling] = (),
    num_resamples: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> LineageReport:
    """Read comparable reports as one lineage.

    Args:
        members: At least two, in the order of training where there is one.
        base: Name of the member that all were trained from; it is put first.
        outcomes: What RL made of a member, by name, one definition for all.
        rescalings: Members that are copies of others but for a factor on their logits.
        num_resamples: Bootstrap replicates over prompts.
        seed: Seed of the resamples.
        confidence: Level of the intervals.

    Returns:
        The lineage report.

    Raises:
        ComparabilityError: The members measured other things, or the base is none of them.
        ConfigError: An outcome is no finite number.
    """
    ordered = [_under_its_name(member) for member in _base_first(members, base)]
    table = build_table(ordered, num_resamples=num_resamples, seed=seed)
    ranking = rank([member.report for member in ordered])
    measures = (table.coverage_name, ENTROPY, SIGNAL)
    judged = [name for name in measures if name != PASS_AT_1]
    pairs, agreement = compare_orders(table, judged, alpha=1.0 - confidence, confidence=confidence)
    known = outcomes or {}
    _check_outcomes(known)
    phases, series = phases_by_series(table, base, {each.name for each in rescalings})
    remarks = entropy_remarks(
        table,
        base=base,
        rescalings=rescalings,
        levels={entry.model: str(entry.risk_level) for entry in ranking.entries},
        alpha=1.0 - confidence,
    )
    deep = table.measures.get(table.coverage_name)
    beside = _beside(table, base, num_resamples, seed)
    choice = choose(table, ranking, pairs, rescalings, alpha=1.0 - confidence)
    return LineageReport(
        names=table.names,
        base=base,
        num_prompts=table.num_prompts,
        measures={m.name: tuple(map(float, m.values)) for m in table.measures.values()},
        ranks=_ranks(table),
        relative_entropy=_relative_entropy(table, base, confidence),
        undefined=_undefined(table, why_no_modes(*beside[:2])),
        ranking=ranking,
        choice=with_drift(choice, base),
        pairs=pairs,
        agreement=agreement,
        phases=phases,
        series=series,
        rescaled=tuple(rescalings),
        coverage=() if deep is None else coverage_changes(*beside, confidence=confidence),
        modes=mode_changes(*beside, confidence=confidence),
        heldout=heldout_losses(table, confidence),
        outcomes=_outcomes(table, known),
        notes=(*remarks, *_notes(table, known)),
    )


def _under_its_name(member: LineageMember) -> LineageMember:
    """A report is called by its member's name, whatever path it was sampled from."""
    provenance = replace(member.report.provenance, model_reference=member.name)
    return replace(member, report=replace(member.report, provenance=provenance))


def _base_first(members: Sequence[LineageMember], base: str | None) -> list[LineageMember]:
    if base is None:
        return list(members)
    first = [member for member in members if member.name == base]
    if not first:
        raise ComparabilityError(f"base={base!r}: is none of the members")
    return [*first, *(member for member in members if member.name != base)]


def _ranks(table: LineageTable) -> dict[str, tuple[int, ...]]:
    """1 is the largest value, or the smallest loss; equal values share a rank."""
    found = {}
    for name, measure in table.measures.items():
        if name == LENGTH:
            continue
        goodness = -measure.evened if name in (HELDOUT, TRAIN) else measure.evened
        found[name] = tuple(int(1 + (goodness > own).sum()) for own in goodness)
    return found


def _relative_entropy(
    table: LineageTable, base: str | None, confidence: float
) -> dict[str, Estimate]:
    entropy = table.measures.get(ENTROPY)
    if base is None or entropy is None:
        return {}
    ratios = {
        name: entropy.ratio(place, 0, confidence)
        for place, name in enumerate(table.names)
        if name != base
    }
    return {name: ratio for name, ratio in ratios.items() if ratio is not None}


def _beside(
    table: LineageTable, base: str | None, num_resamples: int, seed: int
) -> tuple[LineageMember, list[LineageMember], PromptBootstrap]:
    """What all are held against (the base, else the member that solves most), and the others."""
    deep = table.measures.get(table.coverage_name)
    place = 0 if base is not None or deep is None else int(deep.evened.argmax())
    others = [member for position, member in enumerate(table.members) if position != place]
    bootstrap = PromptBootstrap(table.num_prompts, num_resamples, seed)
    return table.members[place], others, bootstrap


def _undefined(table: LineageTable, why_no_modes: str | None) -> dict[str, str]:
    lacking = {} if why_no_modes is None else {"modes": why_no_modes}
    return {**table.undefined, **lacking}


def _check_outcomes(outcomes: Mapping[str, float]) -> None:
    for name, value in outcomes.items():
        if not math.isfinite(value):
            raise ConfigError("outcomes", value, f"that of {name} must be a finite number")


def _outcomes(table: LineageTable, outcomes: Mapping[str, float]) -> tuple[RankEvidence, ...]:
    places = [place for place, name in enumerate(table.names) if name in outcomes]
    if len(places) < 2:
        return ()
    after = [outcomes[table.names[place]] for place in places]
    values: dict[str, Sequence[float]] = {
        measure.name: [float(value) for value in measure.values[places]]
        for measure in table.measures.values()
        if measure.name not in (HELDOUT, TRAIN)
    }
    if (loss := table.measures.get(HELDOUT)) is not None:
        values[f"-{HELDOUT}"] = [-float(value) for value in loss.values[places]]
    indices = [table.members[place].report.risk_index for place in places]
    if all(index is not None for index in indices):
        values["-rlrisk/risk_index"] = [-float(index or 0.0) for index in indices]
    families = [table.members[place].series or "" for place in places]
    return outcome_table(values, after, families)


def _notes(table: LineageTable, outcomes: Mapping[str, float]) -> tuple[str, ...]:
    notes = [*_equal_bytes(table), *_lacking_pass_at_k(table)]
    if 0 < len(outcomes) < len(table.members):
        missing = [name for name in table.names if name not in outcomes]
        notes.append(f"no outcome is known of {', '.join(missing)}")
    if unknown := [name for name in outcomes if name not in table.names]:
        notes.append(f"outcomes of {', '.join(unknown)} belong to no member and were not used")
    return tuple(notes)


def _equal_bytes(table: LineageTable) -> list[str]:
    """Which members are one checkpoint under several names."""
    names: dict[str, list[str]] = {}
    for member in table.members:
        if digest := member.report.provenance.digests.get("checkpoint"):
            names.setdefault(digest, []).append(member.name)
    return [
        f"{' and '.join(equal)} are one checkpoint: weights, configuration and tokenizer have the "
        f"same bytes (digest {digest[:12]}); it stands here {len(equal)} times"
        for digest, equal in names.items()
        if len(equal) > 1
    ]


def _lacking_pass_at_k(table: LineageTable) -> list[str]:
    """Of every k that some members have a pass@k for: who has none, and why."""
    reports = {member.name: member.report for member in table.members}
    prefix = PASS_AT_1.removesuffix("1")
    known = {name for report in reports.values() for name in report.metrics if prefix in name}
    without = [each for each, report in reports.items() if not known & report.metrics.keys()]
    notes = []
    if known and without:
        why = reports[without[0]].undefined.get(PASS_AT_1, "was not measured")
        notes.append(
            f"no pass@k is defined for {', '.join(without)}, so there is neither coverage nor a "
            f"risk index to hold against those of others: {why}"
        )
    for name in sorted(known, key=lambda each: int(each.removeprefix(prefix))):
        lacking = [
            each
            for each, report in reports.items()
            if name not in report.metrics and each not in without
        ]
        if lacking:
            why = reports[lacking[0]].undefined.get(name, "was not measured")
            notes.append(
                f"pass@{name.removeprefix(prefix)} is undefined for {', '.join(lacking)}, whose "
                f"coverage, and risk index, is read at fewer attempts than that of others: {why}"
            )
    return notes
