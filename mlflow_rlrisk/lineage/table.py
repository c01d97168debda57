"""Members of a lineage -> one table of measures with draws that are paired over prompts.

Every member was assessed on the same prompts. One set of resamples of these prompts serves all
members, so that the draws of two members may be subtracted replicate by replicate; two marginal
intervals are never compared.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from mlflow_rlrisk.comparison import check_comparable
from mlflow_rlrisk.errors import ComparabilityError
from mlflow_rlrisk.experts.profile import ExpertProfile, check_same_experts
from mlflow_rlrisk.lineage.measures import Measure
from mlflow_rlrisk.metrics.catalogue import PREFIX, pass_at_k_name
from mlflow_rlrisk.metrics.columns import PromptColumns
from mlflow_rlrisk.metrics.sampling_columns import add_sampling_columns
from mlflow_rlrisk.metrics.success_columns import add_success_columns
from mlflow_rlrisk.records import PromptStatistics
from mlflow_rlrisk.report import RiskReport
from mlflow_rlrisk.statistics.bootstrap import PromptBootstrap, jackknife_ratios

PASS_AT_1 = pass_at_k_name(1)
ENTROPY = PREFIX + "token_entropy"
SIGNAL = PREFIX + "group_signal_fraction"
DISTINCT = PREFIX + "answer_distinct"
LENGTH = PREFIX + "completion_tokens"
HELDOUT = PREFIX + "heldout_nll"
TRAIN = PREFIX + "train_nll"
Answers = Mapping[str, tuple[int, bool]]
"""Of one prompt: how often each answer was given, and whether it is correct."""
DEEPEST_K = 64
"""pass@64 is the best-replicated predictor of RL's outcome (arXiv:2510.01624)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LineageMember:
    """One checkpoint of a lineage.

    Attributes:
        name: Its reference, unique in the lineage.
        report: Its report.
        statistics: What was counted of each prompt, any order.
        parent: Name of the checkpoint it was trained from, where that is known.
        expert: How it sees the expert data, where some were given.
        train: How it sees the examples that it was trained on, where some were given.
        series: Name of the run of training it is a rung of, where there are several.
        answers: The answers it gave, by prompt id; ``None`` where they were not kept.
    """

    name: str
    report: RiskReport
    statistics: tuple[PromptStatistics, ...]
    parent: str | None = None
    expert: ExpertProfile | None = None
    train: ExpertProfile | None = None
    series: str | None = None
    answers: Mapping[str, Answers] | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LineageTable:
    """All measures of all members.

    Attributes:
        members: In the order given.
        measures: By full metric name.
        undefined: Why a measure is missing, by full metric name.
        num_prompts: Prompts that all members were assessed on.
        coverage_name: The pass@k with the largest k that the rollouts support well, ``2k <= n``.
    """

    members: tuple[LineageMember, ...]
    measures: dict[str, Measure]
    undefined: dict[str, str]
    num_prompts: int
    coverage_name: str

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the members."""
        return tuple(member.name for member in self.members)

    def part(self, names: Sequence[str]) -> "LineageTable":
        """The table of these members alone, in the order given, with the same draws."""
        places = [self.names.index(name) for name in names]
        return replace(
            self,
            members=tuple(self.members[place] for place in places),
            measures={name: measure.of(places) for name, measure in self.measures.items()},
        )


def build_table(
    members: Sequence[LineageMember], *, num_resamples: int = 2000, seed: int = 0
) -> LineageTable:
    """Line the members up prompt by prompt and resample the prompts once for all.

    Args:
        members: At least two, with comparable reports.
        num_resamples: Bootstrap replicates ``B``.
        seed: Seed of the resamples.

    Returns:
        The table.

    Raises:
        ComparabilityError: There are fewer than two members, a name occurs twice, the reports
            measured other things, or the prompts differ.
    """
    _check(members)
    ordered = [sorted(member.statistics, key=lambda each: each.prompt_id) for member in members]
    coverage = pass_at_k_name(_deepest_k(ordered))
    wanted = dict.fromkeys((PASS_AT_1, coverage, ENTROPY, SIGNAL, DISTINCT, LENGTH))
    tables = [
        _columns(statistics, member.report, frozenset(wanted))
        for statistics, member in zip(ordered, members, strict=True)
    ]
    undefined = {
        name: f"{member.name}: {table.undefined.get(name, 'was not measured')}"
        for name in wanted
        for member, table in zip(reversed(members), reversed(tables), strict=True)
        if name not in table.formulas
    }
    bootstrap = PromptBootstrap(len(ordered[0]), num_resamples, seed)
    measures = _measures(members, tables, undefined, list(wanted), bootstrap)
    heldout = [member.expert for member in members]
    trained = [member.train for member in members]
    _add_loss(HELDOUT, heldout, members, measures, undefined, bootstrap)
    _add_loss(TRAIN, trained, members, measures, undefined, bootstrap)
    return LineageTable(
        members=tuple(members),
        measures=measures,
        undefined=undefined,
        num_prompts=len(ordered[0]),
        coverage_name=coverage,
    )


def _check(members: Sequence[LineageMember]) -> None:
    if len(members) < 2:
        raise ComparabilityError(f"{len(members)} checkpoint: a lineage needs at least two")
    names = [member.name for member in members]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ComparabilityError(f"{twice[0]} occurs twice in the lineage")
    check_comparable([member.report for member in members])
    first = _prompt_ids(members[0])
    for member in members[1:]:
        if other := first ^ _prompt_ids(member):
            raise ComparabilityError(
                f"{member.name} and {members[0].name} were assessed on other prompts: "
                f"{len(other)} belong to one of them only (first: {min(other)})"
            )


def _prompt_ids(member: LineageMember) -> set[str]:
    found = {each.prompt_id for each in member.statistics}
    if len(found) < len(member.statistics) or not found:
        twice = Counter(each.prompt_id for each in member.statistics).most_common(1)
        raise ComparabilityError(
            f"{member.name}: prompt {twice[0][0]} stands {twice[0][1]} times"
            if twice
            else f"{member.name}: there is no prompt"
        )
    return found


def _add_loss(
    name: str,
    given: Sequence[ExpertProfile | None],
    members: Sequence[LineageMember],
    measures: dict[str, Measure],
    undefined: dict[str, str],
    bootstrap: PromptBootstrap,
) -> None:
    """A loss on expert data: draws are paired over the examples, as others over the prompts."""
    profiles = [profile for profile in given if profile is not None]
    if not profiles:
        return
    if len(profiles) < len(members):
        first = next(m.name for m, each in zip(members, given, strict=True) if each is None)
        undefined[name] = f"{first}: was not scored on the expert data"
        return
    check_same_experts(profiles)
    # Held-out and training examples are drawn independently of each other.
    seed = bootstrap.seed + (name == TRAIN)
    draws = [each.loss_draws(bootstrap.num_resamples, seed) for each in profiles]
    measures[name] = Measure(
        name=name,
        values=np.array([each.loss for each in profiles]),
        draws=np.stack(draws, axis=1),
        left_out=np.stack([_loss_without_each(each) for each in profiles], axis=1),
    )


def _loss_without_each(profile: ExpertProfile) -> npt.NDArray[np.float64]:
    if profile.tokens.size < 2:
        return np.array([profile.loss])
    return jackknife_ratios(profile.nll, profile.tokens)


def _columns(
    statistics: Sequence[PromptStatistics], report: RiskReport, wanted: frozenset[str]
) -> PromptColumns:
    table = PromptColumns(num_prompts=len(statistics), wanted=wanted)
    group_size = report.config.group_size
    add_success_columns(table, statistics, group_size)
    add_sampling_columns(
        table,
        statistics,
        group_size=group_size,
        max_new_tokens=report.config.sampling.max_new_tokens,
    )
    return table


def _deepest_k(ordered: Sequence[Sequence[PromptStatistics]]) -> int:
    fewest = min(each.num_scored for statistics in ordered for each in statistics)
    most = max(1, min(fewest // 2, DEEPEST_K))
    return 1 << (most.bit_length() - 1)


def _measures(
    members: Sequence[LineageMember],
    tables: Sequence[PromptColumns],
    undefined: dict[str, str],
    wanted: Sequence[str],
    bootstrap: PromptBootstrap,
) -> dict[str, Measure]:
    """Resample the columns of all members in one product; what a resample lacks is undefined."""
    names = [name for name in wanted if name not in undefined]
    keys = [
        (place, column)
        for place, table in enumerate(tables)
        for column in dict.fromkeys(c for name in names for c in table.formulas[name].columns)
    ]
    if not keys:
        return {}
    matrix = np.stack([tables[place].columns[column] for place, column in keys], axis=1)
    _check_finite(matrix, keys, members)
    where = {key: column for column, key in enumerate(keys)}
    mean = matrix.mean(axis=0)
    others = max(bootstrap.num_prompts - 1, 1)
    sides = (mean, bootstrap.means(matrix), (mean * bootstrap.num_prompts - matrix) / others)
    found = {}
    for name in names:
        formulas = [table.formulas[name] for table in tables]
        values, draws, left_out = (
            np.stack(
                [
                    formula.evaluate(*(side[..., where[place, c]] for c in formula.columns))
                    for place, formula in enumerate(formulas)
                ],
                axis=-1,
            )
            for side in sides
        )
        if not (np.isfinite(values).all() and np.isfinite(draws).all()):
            undefined[name] = "too few prompts carry it: a resample has nothing to divide by"
            continue
        is_mean = len(formulas[0].columns) == 1 and not formulas[0].is_far
        found[name] = Measure(
            name=name,
            values=np.asarray(values, dtype=float),
            draws=np.asfortranarray(draws),  # differences read columns
            left_out=np.asfortranarray(left_out),
            bounds=formulas[0].bounds if is_mean else None,
        )
    return found


def _check_finite(
    matrix: npt.NDArray[np.float64],
    keys: Sequence[tuple[int, str]],
    members: Sequence[LineageMember],
) -> None:
    rows, columns = np.nonzero(~np.isfinite(matrix))
    if rows.size:
        place, column = keys[columns[0]]
        ids = sorted(each.prompt_id for each in members[place].statistics)
        raise ComparabilityError(
            f"{members[place].name}: {column} of prompt {ids[rows[0]]} is "
            f"{matrix[rows[0], columns[0]]}, no finite number"
        )
