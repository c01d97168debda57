"""Phases of every run of training in a lineage; a mixed list is no series.

A lineage may hold several ladders from one base: narrow and diverse data, several seeds. "Below
the checkpoint before" means nothing across them, so each is labelled by itself, from the base on.
A member that no run of training made, such as a copy with scaled logits, is in none.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace

from mlflow_rlrisk.lineage.phases import PhaseLabel, PhaseReport, label_phases, no_phases
from mlflow_rlrisk.lineage.table import LineageTable


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesPhases:
    """Phases of one run of training.

    Attributes:
        series: Its name.
        phases: Its phases, the base first.
    """

    series: str
    phases: PhaseReport


def phases_by_series(
    table: LineageTable, base: str | None, copies: Collection[str] = ()
) -> tuple[PhaseReport, tuple[SeriesPhases, ...]]:
    """Label the lineage's runs of training.

    Where no member names its series, the whole list is one, in the order given. Where some do,
    the others (but for the base) are in none.

    Args:
        table: The lineage, the base first where there is one.
        base: Name of the base.
        copies: Members that are copies of others, made by no training.

    Returns:
        The labels of all in one report, and one report for each series where there are several.
    """
    if base is None:
        return no_phases("no base was named"), ()
    trained = [each for each in table.members if each.name not in copies]
    names = dict.fromkeys(each.series for each in trained if each.series and each.name != base)
    if len(names) < 2:
        only = next(iter(names), None)
        rungs = [each.name for each in trained if each.series == only or each.name == base]
        return label_phases(table.part(rungs)), ()
    found = []
    for series in names:
        rungs = [each.name for each in trained if each.series == series and each.name != base]
        found.append(SeriesPhases(series=series, phases=label_phases(table.part([base, *rungs]))))
    return _joined(found), tuple(found)


def _joined(found: list[SeriesPhases]) -> PhaseReport:
    labels: dict[str, PhaseLabel] = {}
    for each in found:
        for label in each.phases.labels:
            labels.setdefault(label.name, replace(label, series=each.series))
    if not labels:
        return no_phases("; ".join(f"{each.series}: {each.phases.undefined}" for each in found))
    first = next(iter(labels.values()))
    labels[first.name] = replace(first, series=None)  # the base belongs to every series
    return PhaseReport(
        labels=tuple(labels.values()),
        undefined=None,
        diversity_peak=None,
        validation_loss_minimum=None,
        recommended=None,
    )
