"""The `LineageReport`: several versions read as one story, and its JSON form."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from mlflow_rlrisk.comparison import Comparison
from mlflow_rlrisk.lineage.choice import Choice
from mlflow_rlrisk.lineage.coverage import CoverageChange
from mlflow_rlrisk.lineage.heldout import HeldoutLoss
from mlflow_rlrisk.lineage.measures import Estimate
from mlflow_rlrisk.lineage.modes import ModeChange
from mlflow_rlrisk.lineage.outcomes import RankEvidence
from mlflow_rlrisk.lineage.pairs import OrderAgreement, Pair, PairOrder
from mlflow_rlrisk.lineage.phases import PhaseReport
from mlflow_rlrisk.lineage.scaling import Rescaling
from mlflow_rlrisk.lineage.series import SeriesPhases

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class LineageReport:
    """What a series of versions says together.

    Attributes:
        names: The versions in the order given, the base first where there is one.
        base: Name of the base, where one was named.
        num_prompts: Prompts that all were assessed on.
        measures: Estimate of each measure for each version, by full metric name.
        ranks: Rank of each version under each measure, 1 the safest, in the order of ``names``.
        relative_entropy: Entropy of each version over the base's, paired over the prompts, by
            name; empty where no base was named.
        undefined: Why a measure, or ``modes``, is missing, by name.
        ranking: The versions from the safest to the riskiest.
        choice: Which one to start from, and why not the best pass@1.
        pairs: Every pair under every measure.
        agreement: How each measure orders the lineage beside pass@1.
        phases: Phases of the series, where a base was named; of several series all labels.
        series: Phases of each series, where there are several.
        rescaled: Versions that are another one with its logits multiplied.
        coverage: What each version solves beside the base, or beside the best at deep pass@k.
        modes: Answers that each version lost or has new beside the same one, where the verifier
            extracts answers.
        heldout: Loss on held-out expert data, where all versions were scored on one set.
        outcomes: How each measure ranked what RL made of the versions, once that is known.
        notes: What a careful reader should also know.
    """

    names: tuple[str, ...]
    base: str | None
    num_prompts: int
    measures: dict[str, tuple[float, ...]]
    undefined: dict[str, str]
    ranking: Comparison
    choice: Choice
    pairs: tuple[Pair, ...]
    agreement: tuple[OrderAgreement, ...]
    phases: PhaseReport
    coverage: tuple[CoverageChange, ...]
    outcomes: tuple[RankEvidence, ...]
    notes: tuple[str, ...]
    ranks: dict[str, tuple[int, ...]] = field(default_factory=dict)
    relative_entropy: dict[str, Estimate] = field(default_factory=dict)
    modes: tuple[ModeChange, ...] = ()
    heldout: tuple[HeldoutLoss, ...] = ()
    series: tuple[SeriesPhases, ...] = ()
    rescaled: tuple[Rescaling, ...] = ()

    @property
    def inversions(self) -> tuple[Pair, ...]:
        """Pairs that a measure orders against pass@1, resolved by the prompts.

        A copy with scaled logits is in none: its entropy or pass@1 is an artefact of the scaling.
        """
        copies = {each.name for each in self.rescaled}
        return tuple(
            pair
            for pair in self.pairs
            if pair.order is PairOrder.INVERTED and not copies & {pair.first, pair.second}
        )

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        raw = {name: _plain(value) for name, value in asdict(self).items() if name != "ranking"}
        return {
            "schema_version": SCHEMA_VERSION,
            **self.ranking.to_dict(),
            **raw,
            "inversions": [_plain(asdict(pair)) for pair in self.inversions],
        }


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, StrEnum):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} in a lineage report: a value is finite or absent")
    return value
