"""Members of a lineage -> one table of measures with draws that are paired over prompts.

Every member was assessed on the same prompts. One set of resamples of these prompts serves all
members, so that the draws of two members may be subtracted replicate by replicate; two marginal
intervals are never compared.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from mlflow_rlrisk.columns import PromptColumns
from mlflow_rlrisk.comparison import check_comparable
from mlflow_rlrisk.errors import ComparabilityError
from mlflow_rlrisk.expert_profile import ExpertProfile, check_same_experts
from mlflow_rlrisk.metrics_catalogue import PREFIX, pass_at_k_name
from mlflow_rlrisk.records import PromptStatistics
from mlflow_rlrisk.report import RiskReport
from mlflow_rlrisk.sampling_columns import add_sampling_columns
from mlflow_rlrisk.statistics.bootstrap import PromptBootstrap
from mlflow_rlrisk.success_columns import add_success_columns

FloatArray = npt.NDArray[np.float64]

PASS_AT_1 = pass_at_k_name(1)
ENTROPY = PREFIX + "token_entropy"
SIGNAL = PREFIX + "group_signal_fraction"
DISTINCT = PREFIX + "answer_distinct"
LENGTH = PREFIX + "completion_tokens"
HELDOUT = PREFIX + "heldout_nll"
TRAIN = PREFIX + "train_nll"
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
    """

    name: str
    report: RiskReport
    statistics: tuple[PromptStatistics, ...]
    parent: str | None = None
    expert: ExpertProfile | None = None
    train: ExpertProfile | None = None
    series: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Measure:
    """One metric of all members ``C``.

    Attributes:
        name: Full metric name.
        values: Estimates, shape ``[C]``.
        draws: Joint bootstrap draws, shape ``[B, C]``.
    """

    name: str
    values: FloatArray
    draws: FloatArray

    def difference_error(self) -> FloatArray:
        """Bootstrap standard error of every paired difference, shape ``[C, C]``."""
        centred = self.draws - self.draws.mean(axis=0)
        covariance = centred.T @ centred / max(self.draws.shape[0] - 1, 1)
        spread = np.diag(covariance)
        variance = spread[:, None] + spread[None, :] - 2.0 * covariance
        return np.asarray(np.sqrt(np.maximum(variance, 0.0)))


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
            measures={
                name: Measure(name=name, values=m.values[places], draws=m.draws[:, places])
                for name, m in self.measures.items()
            },
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
    measures = _measures(tables, [name for name in wanted if name not in undefined], bootstrap)
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
    first = {each.prompt_id for each in members[0].statistics}
    for member in members[1:]:
        if other := first ^ {each.prompt_id for each in member.statistics}:
            raise ComparabilityError(
                f"{member.name} and {members[0].name} were assessed on other prompts: "
                f"{len(other)} belong to one of them only (first: {min(other)})"
            )


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
    )


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
    tables: Sequence[PromptColumns], names: Sequence[str], bootstrap: PromptBootstrap
) -> dict[str, Measure]:
    """Resample the columns of all members in one product."""
    keys = [
        (place, column)
        for place, table in enumerate(tables)
        for column in dict.fromkeys(c for name in names for c in table.formulas[name].columns)
    ]
    if not keys:
        return {}
    matrix = np.stack([tables[place].columns[column] for place, column in keys], axis=1)
    point = dict(zip(keys, matrix.mean(axis=0), strict=True))
    resampled = dict(zip(keys, bootstrap.means(matrix).T, strict=True))
    found = {}
    for name in names:
        formulas = [table.formulas[name] for table in tables]
        values, draws = (
            [
                formula.evaluate(*(means[place, column] for column in formula.columns))
                for place, formula in enumerate(formulas)
            ]
            for means in (point, resampled)
        )
        found[name] = Measure(
            name=name, values=np.array(values, dtype=float), draws=np.stack(draws, axis=1)
        )
    return found
