"""Phases of a series of checkpoints from the base on: shift, readapt, overfit.

After CHORD (arXiv:2508.11408): fine-tuning on a foreign style first lowers the success rate
(shift), then recovers it (readapt), then loses diversity or generalisation (overfit). The labels
describe a series; they do not say when to stop. The literature disagrees on that: the entropy
maximum within readapt (lightweight SFT, AESL) against the minimum of the validation loss
or slightly past it (arXiv:2512.11470), so the interval between both marks is what is given.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from mlflow_rlrisk.lineage.measures import FloatArray
from mlflow_rlrisk.lineage.table import (
    DISTINCT,
    ENTROPY,
    HELDOUT,
    PASS_AT_1,
    TRAIN,
    LineageTable,
)
from mlflow_rlrisk.plurals import counted
from mlflow_rlrisk.statistics.ranks import evened

MINIMUM_SERIES = 4
"""Checkpoints, the base included, below which phases are not told."""
ALPHA = 0.05
"""Two-sided level at which a paired difference of two checkpoints counts as resolved."""


class Phase(StrEnum):
    """Where in the series a checkpoint stands."""

    BASE = "base"
    SHIFT = "shift"
    READAPT = "readapt"
    OVERFIT = "overfit"
    UNCLEAR = "unclear"
    """None of the rules is resolved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseLabel:
    """The phase of one checkpoint.

    Attributes:
        name: The checkpoint.
        phase: The label.
        confidence: Share of resamples of the prompts that give the same label.
        reason: Which rule gave it, or why none did.
        series: The run of training, where the lineage holds several.
    """

    name: str
    phase: Phase
    confidence: float
    reason: str
    series: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseReport:
    """Phases of a series and the marks between which a hand-off to RL is discussed.

    Attributes:
        labels: One for each checkpoint, the base first; empty where the series is too short.
        undefined: Why there are none.
        diversity_peak: Checkpoint after the base with the largest entropy (of several, the one
            with most distinct answers).
        validation_loss_minimum: Checkpoint with the least held-out loss, where it was measured.
        recommended: First and last checkpoint of the interval between both marks.
        caution: What the literature disagrees about.
    """

    labels: tuple[PhaseLabel, ...]
    undefined: str | None
    diversity_peak: str | None
    validation_loss_minimum: str | None
    recommended: tuple[str, str] | None
    caution: str = (
        "The literature disagrees: RL gained most from the most diverse checkpoint (lightweight "
        "SFT) or from the one with the least validation loss and slightly past it "
        "(arXiv:2512.11470); the interval holds both."
    )


_REASONS = {
    Phase.BASE: "the start of the series",
    Phase.SHIFT: "pass@1 is below the base's",
    Phase.READAPT: "pass@1 is above that of the checkpoint before",
    Phase.UNCLEAR: "no change of pass@1 or of diversity is resolved by these prompts",
}
_BY_LOSS = "held-out loss is above the least of the series"
_BY_DIVERSITY = (
    "diversity is below the largest of the series, and pass@1 does not rise or rises after that"
)


def label_phases(table: LineageTable) -> PhaseReport:
    """Label a series whose first member is the base and whose order is that of training.

    A checkpoint is in ``overfit`` when its held-out loss is resolved above that of an
    earlier one (paired over the expert examples), or
    when pass@1 does not rise against the checkpoint before (or that one was in ``overfit``
    already) while entropy, distinct answers or
    deep pass@k lie resolved below their largest value among the checkpoints after the base (and
    the training loss, where it was measured, is resolved below that of the checkpoint before); else
    in ``readapt`` when pass@1 is resolved above that of the checkpoint before; else in ``shift``
    when it is resolved below the base's.

    Args:
        table: The lineage.

    Returns:
        Labels with their confidence, or the reason why there are none.
    """
    base = table.measures.get(PASS_AT_1)
    if len(table.members) < MINIMUM_SERIES:
        return no_phases(
            f"{counted(len(table.members), 'checkpoint')}: phases need at least {MINIMUM_SERIES}"
        )
    if base is None:
        return no_phases(f"pass@1 is undefined: {table.undefined.get(PASS_AT_1)}")
    used = {name: table.measures[name] for name in _read_of(table) if name in table.measures}
    margins = {name: measure.margins(ALPHA) for name, measure in used.items()}
    draws = {name: evened(measure.draws) for name, measure in used.items()}
    point = _Scene({name: measure.evened for name, measure in used.items()}, margins)
    found = _labels(point)
    agreeing = np.zeros(len(found))
    for row in range(base.draws.shape[0]):
        replicate = _Scene({name: drawn[row] for name, drawn in draws.items()}, margins)
        agreeing += [a == b for a, b in zip(_labels(replicate), found, strict=True)]
    shares = agreeing / base.draws.shape[0]
    labels = tuple(
        PhaseLabel(
            name=name,
            phase=phase,
            confidence=float(share),
            reason=_reason(phase, is_above=_is_loss_above(point, place)),
        )
        for place, (name, phase, share) in enumerate(zip(table.names, found, shares, strict=True))
    )
    return _report(table, labels)


def _read_of(table: LineageTable) -> tuple[str, ...]:
    return PASS_AT_1, ENTROPY, DISTINCT, table.coverage_name, HELDOUT, TRAIN


@dataclass(frozen=True, slots=True)
class _Scene:
    """Values of one resample, by measure, with the margins that resolve paired differences."""

    values: Mapping[str, FloatArray]
    margins: Mapping[str, FloatArray]

    def is_above(self, name: str, left: int, right: int) -> bool:
        values = self.values[name]
        return bool(values[left] - values[right] > self.margins[name][left, right])

    @property
    def diversity(self) -> list[str]:
        return [name for name in self.values if name not in (PASS_AT_1, HELDOUT, TRAIN)]


def _labels(scene: _Scene) -> list[Phase]:
    phases = [Phase.BASE]
    for place in range(1, scene.values[PASS_AT_1].size):
        rises = scene.is_above(PASS_AT_1, place, place - 1)
        # A series leaves overfit by gaining diversity back, not by a higher pass@1 alone.
        may_be = not rises or phases[-1] is Phase.OVERFIT
        learns_by_heart = may_be and _has_lost_diversity(scene, place)
        if _is_loss_above(scene, place) or (learns_by_heart and _still_learns(scene, place)):
            phases.append(Phase.OVERFIT)
        elif rises:
            phases.append(Phase.READAPT)
        elif scene.is_above(PASS_AT_1, 0, place):
            phases.append(Phase.SHIFT)
        else:
            phases.append(Phase.UNCLEAR)
    return phases


def _has_lost_diversity(scene: _Scene, place: int) -> bool:
    """Below the largest value that an earlier checkpoint after the base had."""
    return place > 1 and any(
        scene.is_above(name, 1 + int(scene.values[name][1:place].argmax()), place)
        for name in scene.diversity
    )


def _still_learns(scene: _Scene, place: int) -> bool:
    """The training loss falls against the checkpoint before; not asked where it is unknown."""
    return TRAIN not in scene.values or scene.is_above(TRAIN, place - 1, place)


def _is_loss_above(scene: _Scene, place: int) -> bool:
    """Above the smallest held-out loss that an earlier checkpoint had."""
    if HELDOUT not in scene.values or place == 0:
        return False
    return scene.is_above(HELDOUT, place, int(scene.values[HELDOUT][:place].argmin()))


def _reason(phase: Phase, *, is_above: bool) -> str:
    if phase is Phase.OVERFIT:
        return _BY_LOSS if is_above else _BY_DIVERSITY
    return _REASONS[phase]


def _report(table: LineageTable, labels: tuple[PhaseLabel, ...]) -> PhaseReport:
    peak, loss = _diversity_peak(table), table.measures.get(HELDOUT)
    least = None if loss is None else int(loss.evened.argmin())
    ends = [place for place in (peak, least) if place is not None]
    names = table.names
    return PhaseReport(
        labels=labels,
        undefined=None,
        diversity_peak=None if peak is None else names[peak],
        validation_loss_minimum=None if least is None else names[least],
        recommended=(names[min(ends)], names[max(ends)]) if ends else None,
    )


def _diversity_peak(table: LineageTable) -> int | None:
    measures = [table.measures[n].evened[1:] for n in (ENTROPY, DISTINCT) if n in table.measures]
    if not measures:
        return None
    return 1 + max(range(measures[0].size), key=lambda place: tuple(m[place] for m in measures))


def no_phases(reason: str) -> PhaseReport:
    """A report without labels, with the reason."""
    return PhaseReport(
        labels=(),
        undefined=reason,
        diversity_peak=None,
        validation_loss_minimum=None,
        recommended=None,
    )
