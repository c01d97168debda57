"""Which version to start RL from, and why not the one with the best pass@1."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mlflow_rlrisk.comparison import Comparison, RankedReport
from mlflow_rlrisk.lineage.measures import Measure
from mlflow_rlrisk.lineage.pairs import Pair, PairOrder
from mlflow_rlrisk.lineage.scaling import Rescaling
from mlflow_rlrisk.lineage.table import ENTROPY, HELDOUT, PASS_AT_1, SIGNAL, LineageTable
from mlflow_rlrisk.metrics.catalogue import PREFIX
from mlflow_rlrisk.report import RiskLevel
from mlflow_rlrisk.report.advice import LEAST_LOSS, MOST_SOLVED

MAX_STEPS = 3
"""Steps that are told of the best pass@1, where another version is to start from."""
_WORDS = {SIGNAL: "groups that carry a reward difference", ENTROPY: "token entropy (nats)"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The version to start from, beside the one that pass@1 would pick.

    Attributes:
        start_from: Name of the version; ``None`` where every level is ``unknown``.
        best_pass_at_1: Name of the version with the highest pass@1.
        is_advised: True when the level of ``start_from`` is ``low``.
        reasons: Figures that set the two apart; empty where they are one version.
        next_steps: What to do, naming versions.
    """

    start_from: str | None
    best_pass_at_1: str | None
    is_advised: bool
    reasons: tuple[str, ...]
    next_steps: tuple[str, ...]


def choose(
    table: LineageTable,
    ranking: Comparison,
    pairs: Sequence[Pair],
    rescalings: Sequence[Rescaling] = (),
    alpha: float = 0.05,
) -> Choice:
    """Name the version to start from and say what speaks against the best pass@1.

    Of the versions whose risk is not told apart from the least (the same level, an index whose
    interval reaches that of the safest), the one with the highest pass@1 is taken. A copy of
    another version with scaled logits is not taken: what it has, its original has at another
    temperature.

    Args:
        table: The lineage.
        ranking: Its members from the safest to the riskiest.
        pairs: What the prompts resolve of each pair.
        rescalings: Versions that are copies of others but for a factor on their logits.
        alpha: Level at which the differences of the pairs count as resolved.

    Returns:
        The choice.
    """
    copies = {each.name: each for each in rescalings}
    own = [entry for entry in ranking.entries if entry.model not in copies]
    safest = own[0]
    ranked = min(ranking.entries, key=lambda entry: entry.pass_at_1_rank)
    best = None if ranked.pass_at_1 is None else ranked.model
    if safest.risk_level is RiskLevel.UNKNOWN:
        return Choice(
            start_from=None,
            best_pass_at_1=best,
            is_advised=False,
            reasons=(),
            next_steps=(
                "no version can be chosen: the level of every one is unknown",
                *_what_is_missing(table),
            ),
        )
    equals = as_safe_as_the_safest(own)
    chosen = min(equals, key=lambda entry: entry.pass_at_1_rank).model
    # A copy's pass@1 is its original's at another temperature: the rival is the best that is none.
    rival = best if best not in copies else min(own, key=lambda entry: entry.pass_at_1_rank).model
    reasons = [_copied(copies[best])] if best in copies else []
    if rival is not None and rival != chosen:
        reasons += _reasons(table, pairs, rival, chosen, alpha)
    steps = _next_steps(table, chosen, rival, safest.risk_level, len(equals))
    if best is not None and best in copies:
        steps.insert(1, f"do not start from {best}: what it has, {copies[best].original} has too")
    return Choice(
        start_from=chosen,
        best_pass_at_1=best,
        is_advised=safest.risk_level is RiskLevel.LOW,
        reasons=tuple(reasons),
        next_steps=tuple(steps),
    )


def with_drift(choice: Choice, base: str | None) -> Choice:
    """The choice with the command for what stored rollouts cannot tell: how far it moved."""
    moved = [
        each for each in (choice.start_from, choice.best_pass_at_1) if each not in (None, base)
    ]
    if base is None or not moved:
        return choice
    step = (
        f"rlrisk drift {base} {moved[0]} tells how far it moved from the base, with both models "
        "loaded: KL both ways, weights, and whether the reward moved no further than they allow"
    )
    return replace(choice, next_steps=(*choice.next_steps, step))


def _what_is_missing(table: LineageTable) -> list[str]:
    steps = dict.fromkeys(step for each in table.members for step in each.report.next_steps)
    return list(steps)[:MAX_STEPS]


def as_safe_as_the_safest(entries: Sequence[RankedReport]) -> list[RankedReport]:
    """Members whose risk is not told apart from the least: one level, intervals that meet.

    Args:
        entries: Members from the safest to the riskiest.
    """
    safest = entries[0]
    return [
        entry
        for entry in entries
        if entry is safest
        or (
            entry.risk_level is safest.risk_level
            and entry.risk_index is not None
            and safest.risk_index is not None
            and entry.risk_index.ci_low <= safest.risk_index.ci_high
        )
    ]


def _copied(copy: Rescaling) -> str:
    return (
        f"{copy.name} is {copy.original} with its logits times {copy.factor:.3g}: "
        f"{copy.original} at {copy.temperature:.3g} times the temperature has the same pass@1"
    )


def _reasons(
    table: LineageTable, pairs: Sequence[Pair], best: str, chosen: str, alpha: float
) -> list[str]:
    here, there = table.names.index(chosen), table.names.index(best)
    orders = {pair.measure: pair for pair in pairs if {pair.first, pair.second} == {best, chosen}}
    found = [
        (*_certainty(pair, alpha), measure)
        for measure in table.measures.values()
        if (pair := orders.get(measure.name)) is not None
    ]
    return [
        _sentence(measure, words, chosen, best, here, there, table.coverage_name)
        for _, words, measure in sorted(found, key=lambda each: each[0])
    ]


def _certainty(pair: Pair, alpha: float) -> tuple[int, str]:
    """What is resolved of a pair, in words, after its rank: what speaks against pass@1 is first."""
    is_opposite = pair.difference.value < 0.0
    if pair.order is PairOrder.INVERTED:
        return 0, "resolved against the order by pass@1"
    if pair.order is PairOrder.SAME:
        return 3, "resolved, the same order as pass@1"
    share = f"{pair.probability_inverted:.0%} of the resamples order the two against pass@1"
    if pair.difference.p_value > alpha:
        return 2, f"not resolved by these prompts; {share}"
    if is_opposite:
        return 1, f"resolved; what is not is their difference in pass@1; {share}"
    return 3, "resolved, the same order as pass@1, whose own difference is not resolved"


def _sentence(
    measure: Measure, certainty: str, chosen: str, best: str, here: int, there: int, coverage: str
) -> str:
    word = _WORDS.get(measure.name)
    if word is None:
        k = coverage.rpartition("_")[2]
        word = f"solved within {k} tries" if measure.name == coverage else measure.name
    return (
        f"{word}: {measure.values[here]:.3f} for {chosen}, {measure.values[there]:.3f} for {best} "
        f"({certainty})"
    )


def _figures(table: LineageTable, name: str) -> str:
    place = table.names.index(name)
    k = table.coverage_name.rpartition("_")[2]
    labels = {PASS_AT_1: "pass@1", table.coverage_name: f"pass@{k}", SIGNAL: "signal"}
    return ", ".join(
        f"{label} {table.measures[measure].values[place]:.3f}"
        for measure, label in labels.items()
        if measure in table.measures
    )


def _next_steps(
    table: LineageTable, chosen: str, best: str | None, level: RiskLevel, num_equals: int
) -> list[str]:
    report = next(member.report for member in table.members if member.name == chosen)
    steps = []
    if level is RiskLevel.LOW:
        why = f": the highest pass@1 of {num_equals} versions of equal risk"
        steps.append(
            f"start RL from {chosen}{why if num_equals > 1 else ''} ({_figures(table, chosen)})"
        )
    else:
        steps.append(
            f"{chosen} has the least risk of these, but its level is {level}: mend it before RL"
        )
        steps += [f"{chosen}: {_named(table, chosen, step)}" for step in report.next_steps]
    if best is not None and best != chosen:
        steps.append(f"do not start from {best} because of its pass@1 alone")
        other = next(member.report for member in table.members if member.name == best)
        told = [_named(table, best, step) for step in other.next_steps[:MAX_STEPS]]
        steps += [f"if it has to be {best}: {step}" for step in told]
    if chosen == table.names[0] and len(table.members) > 1 and level is not RiskLevel.LOW:
        steps.append("the earliest version is the safest: train and assess a shallower one")
    return steps


def _named(table: LineageTable, name: str, step: str) -> str:
    """A step that speaks of a sibling, with the sibling's name and the figure that says so."""
    sought = {LEAST_LOSS: (HELDOUT, -1.0), MOST_SOLVED: (table.coverage_name, 1.0)}
    measure, sign = sought.get(step, ("", 1.0))
    found = table.measures.get(measure)
    if found is None:
        return step
    place = int((sign * found.evened).argmax())
    label = "held-out loss" if measure == HELDOUT else measure.removeprefix(PREFIX)
    own = float(found.values[table.names.index(name)])
    return (
        f"weigh it against {table.names[place]}, which has the best {label} of these "
        f"({found.values[place]:.3f}; here {own:.3f})"
    )
