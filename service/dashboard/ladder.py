"""The versions of a model as a ladder: what pass@1 would pick, what we would, and why.

Pure. Only versions that were measured alike stand on one ladder: those that can be compared with
the newest assessed one. The others are listed with what differs.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from mlflow_rlrisk.comparison import check_comparable, rank
from mlflow_rlrisk.errors import ComparabilityError
from mlflow_rlrisk.lineage import as_safe_as_the_safest
from mlflow_rlrisk.metrics.catalogue import PREFIX, pass_at_k_name
from mlflow_rlrisk.report import Metric, RiskLevel, RiskReport
from service.registry.records import StoredReport, VersionRecord

PASS_AT_1 = pass_at_k_name(1)
SIGNAL = f"{PREFIX}group_signal_fraction"
ENTROPIES = (f"{PREFIX}token_entropy", f"{PREFIX}token_entropy_estimate")
INDEX = f"{PREFIX}risk_index"
MAX_K = 64
"""pass@64 is the best-replicated predictor of RL's outcome (arXiv:2510.01624)."""
MAX_RUNGS = 40
"""More would not be told apart in a figure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """One version of the table.

    Attributes:
        version: The version.
        stored: Its report, or why there is none.
        on_ladder: Whether it was measured like the newest assessed one.
        apart: What was measured otherwise.
    """

    version: VersionRecord
    stored: StoredReport
    on_ladder: bool = False
    apart: str | None = None

    def metric(self, name: str | None) -> Metric | None:
        """A metric of the report, where it is defined."""
        report = self.stored.report
        return None if report is None or name is None else report.metrics.get(name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ladder:
    """The versions, and the choice among those on the ladder.

    Attributes:
        rungs: All versions, ascending.
        deep: Name of the pass@k with the largest k that all support well, ``2k <= n``; or ``None``.
        entropy: Name of the entropy that all on the ladder have.
        pick: Version to start from; ``None`` where none can be chosen.
        pick_level: Its level.
        best: Version that pass@1 would pick.
        num_equals: Versions whose risk is not told apart from the least.
    """

    rungs: tuple[Rung, ...]
    deep: str | None
    entropy: str | None
    pick: str | None
    pick_level: RiskLevel | None
    best: str | None
    num_equals: int

    @property
    def compared(self) -> tuple[Rung, ...]:
        """The versions on the ladder."""
        return tuple(rung for rung in self.rungs if rung.on_ladder)

    def series(self, names: Mapping[str, str | None]) -> dict[str, list[float]]:
        """Values over the ladder, by label, of the metrics that every version on it has."""
        found: dict[str, list[float]] = {}
        for label, name in names.items():
            metrics = [rung.metric(name) for rung in self.compared]
            if metrics and all(metric is not None for metric in metrics):
                found[label] = [metric.value for metric in metrics if metric is not None]
        return found


def build_ladder(
    versions: Sequence[VersionRecord],
    stored: Mapping[str, StoredReport],
    copies: Collection[str] = (),
) -> Ladder:
    """Set the versions side by side.

    Args:
        versions: Ascending.
        stored: What is stored of each, by version.
        copies: Versions that are another one with its logits multiplied: none is picked.
    """
    rungs = [Rung(version=each, stored=stored[each.version]) for each in versions]
    assessed = [rung for rung in rungs if rung.stored.report and not rung.stored.problem]
    placed = {rung.version.version: rung for rung in _placed(assessed)}
    rungs = [placed.get(rung.version.version, rung) for rung in rungs]
    compared = [rung for rung in rungs if rung.on_ladder]
    pick, level, best, num_equals = _choice(compared, copies)
    return Ladder(
        rungs=tuple(rungs),
        deep=_deepest(compared),
        entropy=next((name for name in ENTROPIES if _all_have(compared, name)), None),
        pick=pick,
        pick_level=level,
        best=best,
        num_equals=num_equals,
    )


def _placed(assessed: Sequence[Rung]) -> list[Rung]:
    """Mark what can be compared with the newest, at most `MAX_RUNGS`."""
    if not assessed:
        return []
    newest = _report(assessed[-1])
    placed: list[Rung] = []
    for rung in reversed(assessed):
        try:
            check_comparable([newest, _report(rung)])
        except ComparabilityError as error:
            placed.append(replace(rung, apart=str(error)))
            continue
        if sum(each.on_ladder for each in placed) == MAX_RUNGS:
            apart = f"the ladder shows the newest {MAX_RUNGS} versions"
            placed.append(replace(rung, apart=apart))
        else:
            placed.append(replace(rung, on_ladder=True))
    return placed


def _report(rung: Rung) -> RiskReport:
    if rung.stored.report is None:
        raise ValueError("a version without a report has no place on the ladder")
    return rung.stored.report


def _choice(
    compared: Sequence[Rung], copies: Collection[str]
) -> tuple[str | None, RiskLevel | None, str | None, int]:
    """The pick, its level, the best pass@1, and how many versions are as safe as the pick."""
    if not compared:
        return None, None, None, 0
    ranking = rank([_named(rung) for rung in compared])
    first = min(ranking.entries, key=lambda entry: entry.pass_at_1_rank)
    best = None if first.pass_at_1 is None else first.model
    own = [entry for entry in ranking.entries if entry.model not in copies] or ranking.entries
    if own[0].risk_level is RiskLevel.UNKNOWN:
        return None, None, best, 0
    equals = as_safe_as_the_safest(own)
    chosen = min(equals, key=lambda entry: entry.pass_at_1_rank)
    return chosen.model, chosen.risk_level, best, len(equals)


def _named(rung: Rung) -> RiskReport:
    """The report under the version's number: what it was assessed as may be an alias or a file."""
    report = _report(rung)
    source = replace(report.provenance, model_reference=rung.version.version)
    return replace(report, provenance=source)


def _all_have(compared: Sequence[Rung], name: str) -> bool:
    return bool(compared) and all(rung.metric(name) is not None for rung in compared)


def _deepest(compared: Sequence[Rung]) -> str | None:
    scored = [count for rung in compared for _, count, _ in _report(rung).solve_counts]
    fewest = min(scored, default=0)
    most = min(MAX_K, fewest // 2)
    names = [pass_at_k_name(1 << power) for power in range(most.bit_length() - 1, 0, -1)]
    return next((name for name in names if _all_have(compared, name)), None)
