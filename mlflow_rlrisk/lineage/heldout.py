"""The loss on held-out expert data along a lineage: which version has the least, who rose above."""

from dataclasses import dataclass

from mlflow_rlrisk.lineage.measures import Estimate, Measure
from mlflow_rlrisk.lineage.table import HELDOUT, TRAIN, LineageTable
from mlflow_rlrisk.statistics.bootstrap import interval
from mlflow_rlrisk.statistics.ranks import ROUNDING


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldoutLoss:
    """The loss of one version, nats per token of the expert's responses.

    Attributes:
        name: The version.
        loss: Its loss.
        above_least: Loss less the lineage's smallest, paired over the examples; exactly 0 for
            the version that has it.
        relative: The same over the smallest loss; ``None`` where that is 0.
        is_above: True where the interval of the difference lies above 0.
        train_loss: Loss on the examples it was trained on, where some were given.
        overfit_gap: Held-out loss less that.
    """

    name: str
    loss: Estimate
    above_least: Estimate
    relative: Estimate | None
    is_above: bool
    train_loss: Estimate | None = None
    overfit_gap: Estimate | None = None


def heldout_losses(table: LineageTable, confidence: float = 0.95) -> tuple[HeldoutLoss, ...]:
    """Losses of all members, empty where not all were scored on one expert set.

    Args:
        table: The lineage.
        confidence: Level of the intervals.
    """
    measure = table.measures.get(HELDOUT)
    if measure is None:
        return ()
    least = int(measure.evened.argmin())
    trained = table.measures.get(TRAIN)
    found = []
    for place, name in enumerate(table.names):
        train = gap = None
        if trained is not None:
            train = trained.estimate(place, confidence)
            gap = _gap(measure, trained, place, confidence)
        above = measure.difference(place, least, confidence)
        rise = measure.ratio(place, least, confidence)
        found.append(
            HeldoutLoss(
                name=name,
                loss=measure.estimate(place, confidence),
                above_least=above,
                relative=None if rise is None else _less_one(rise),
                is_above=above.ci_low > ROUNDING,
                train_loss=train,
                overfit_gap=gap,
            )
        )
    return tuple(found)


def _gap(heldout: Measure, train: Measure, place: int, confidence: float) -> Estimate:
    """Both sets of examples are resampled independently, so no example is left out of both."""
    low, high = interval(heldout.limits(place) - train.limits(place), confidence)
    value = float(heldout.values[place] - train.values[place])
    return Estimate(value=value, ci_low=min(low, value), ci_high=max(high, value))


def _less_one(ratio: Estimate) -> Estimate:
    return Estimate(value=ratio.value - 1.0, ci_low=ratio.ci_low - 1.0, ci_high=ratio.ci_high - 1.0)
