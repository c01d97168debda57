"""The loss on held-out expert data along a lineage: which version has the least, who rose above."""

from dataclasses import dataclass

from mlflow_rlrisk.lineage.coverage import Estimate
from mlflow_rlrisk.lineage.table import HELDOUT, TRAIN, FloatArray, LineageTable
from mlflow_rlrisk.statistics.bootstrap import interval


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldoutLoss:
    """The loss of one version, nats per token of the expert's responses.

    Attributes:
        name: The version.
        loss: Its loss.
        above_least: Loss less the lineage's smallest, paired over the examples; exactly 0 for
            the version that has it.
        relative: The same over the smallest loss.
        is_above: True where the interval of the difference lies above 0.
        train_loss: Loss on the examples it was trained on, where some were given.
        overfit_gap: Held-out loss less that.
    """

    name: str
    loss: Estimate
    above_least: Estimate
    relative: Estimate
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
    least = int(measure.values.argmin())
    trained = table.measures.get(TRAIN)
    smallest, floor = float(measure.values[least]), measure.draws[:, least]
    found = []
    for place, name in enumerate(table.names):
        loss, draws = float(measure.values[place]), measure.draws[:, place]
        train = gap = None
        if trained is not None:
            own, own_draws = float(trained.values[place]), trained.draws[:, place]
            train = _estimate(own, own_draws, confidence)
            gap = _estimate(loss - own, draws - own_draws, confidence)
        above = _estimate(loss - smallest, draws - floor, confidence)
        found.append(
            HeldoutLoss(
                name=name,
                loss=_estimate(loss, draws, confidence),
                above_least=above,
                relative=_estimate(loss / smallest - 1.0, draws / floor - 1.0, confidence),
                is_above=above.ci_low > 0.0,
                train_loss=train,
                overfit_gap=gap,
            )
        )
    return tuple(found)


def _estimate(value: float, draws: FloatArray, confidence: float) -> Estimate:
    low, high = interval(draws, confidence)
    return Estimate(value=value, ci_low=min(low, value), ci_high=max(high, value))
