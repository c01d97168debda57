"""Where the entropy of a checkpoint sits: a histogram over tokens and the mean by position.

Both have a fixed number of bins, so a profile costs the same memory for ten rollouts and for ten
million, profiles of parts can be merged, and the whole goes into the report as it is.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from mlflow_rlrisk.errors import ReportError
from mlflow_rlrisk.plurals import counted
from mlflow_rlrisk.records import Rollout

NUM_POSITIONS = 256
"""Positions kept one by one; all later ones share the last bin."""
LOWEST_EDGE_NATS = 1e-3
"""Entropies below it, a deterministic token's 0 included, share the first bin."""
HIGHEST_EDGE_NATS = 12.5
"""Above the entropy of a uniform choice among 262144 tokens (12.48 nats)."""
NUM_LOG_BINS = 40
"""Bins of equal ratio between the two edges."""

_STEPS_PER_NAT = 2**32
"""Entropies are summed in whole steps of this size: the sum does not depend on the order of the
rollouts, and 10^8 tokens of one position fit."""

_LOG_LOWEST = math.log(LOWEST_EDGE_NATS)
_BINS_PER_LOG = NUM_LOG_BINS / (math.log(HIGHEST_EDGE_NATS) - _LOG_LOWEST)


class EntropyProfile:
    """Accumulates token entropies (nats) over rollouts.

    Attributes:
        histogram: Tokens per bin of `edges`, shape ``[NUM_LOG_BINS + 1]``.
        position_sum: Entropy summed per position, shape ``[NUM_POSITIONS + 1]``; the last entry
            takes all later positions.
        position_count: Tokens per position, same shape.
    """

    def __init__(self) -> None:
        self.histogram: npt.NDArray[np.int64] = np.zeros(NUM_LOG_BINS + 1, dtype=np.int64)
        self._position_steps: npt.NDArray[np.int64] = np.zeros(NUM_POSITIONS + 1, dtype=np.int64)
        self.position_count: npt.NDArray[np.int64] = np.zeros(NUM_POSITIONS + 1, dtype=np.int64)

    @staticmethod
    def edges() -> npt.NDArray[np.float64]:
        """Bin edges in nats, shape ``[NUM_LOG_BINS + 2]``, from 0 to `HIGHEST_EDGE_NATS`."""
        upper = np.geomspace(LOWEST_EDGE_NATS, HIGHEST_EDGE_NATS, NUM_LOG_BINS + 1)
        return np.concatenate([[0.0], upper])

    @property
    def position_sum(self) -> npt.NDArray[np.float64]:
        """Entropy summed per position (nats)."""
        return self._position_steps / _STEPS_PER_NAT

    @property
    def num_tokens(self) -> int:
        """Tokens seen."""
        return int(self.histogram.sum())

    def add(self, rollouts: Iterable[Rollout]) -> None:
        """Count the tokens of ``rollouts``; those without recorded entropies are passed over."""
        parts = [rollout.entropies for rollout in rollouts if rollout.entropies is not None]
        if not parts:
            return
        entropies = np.concatenate(parts).astype(np.float64, copy=False)
        lengths = np.array([part.size for part in parts])
        starts = np.cumsum(lengths) - lengths
        positions = np.minimum(
            np.arange(entropies.size) - np.repeat(starts, lengths), NUM_POSITIONS
        )
        floored = np.maximum(entropies, LOWEST_EDGE_NATS)
        bins = 1 + ((np.log(floored) - _LOG_LOWEST) * _BINS_PER_LOG).astype(np.int64)
        bins[entropies < LOWEST_EDGE_NATS] = 0
        np.minimum(bins, NUM_LOG_BINS, out=bins)
        self.histogram += np.bincount(bins, minlength=NUM_LOG_BINS + 1)
        size = NUM_POSITIONS + 1
        steps = np.rint(entropies * _STEPS_PER_NAT).astype(np.int64)
        np.add.at(self._position_steps, positions, steps)
        self.position_count += np.bincount(positions, minlength=size)

    def merge(self, other: "EntropyProfile") -> None:
        """Add the counts of ``other``."""
        self.histogram += other.histogram
        self._position_steps += other._position_steps
        self.position_count += other.position_count

    def mean_by_position(self) -> list[float | None]:
        """Mean entropy per position (nats), up to the last position that occurs.

        The tail bin is left out, for it is no single position; ``None`` marks a gap.
        """
        counts = self.position_count[:NUM_POSITIONS]
        seen = np.flatnonzero(counts)
        last = int(seen[-1]) + 1 if seen.size else 0
        return [
            float(self.position_sum[position] / counts[position]) if counts[position] else None
            for position in range(last)
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain lists for JSON."""
        return {
            "edges_nats": self.edges().tolist(),
            "histogram": self.histogram.tolist(),
            "position_sum": self.position_sum.tolist(),
            "position_count": self.position_count.tolist(),
        }

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Self:
        """Rebuild from `to_dict`; raises `ReportError` where a field is missing or misshapen."""
        profile = cls()
        for name in ("histogram", "position_sum", "position_count"):
            own = getattr(profile, name)
            try:
                values = np.asarray(raw[name], dtype=own.dtype)
            except (KeyError, TypeError, ValueError) as error:
                raise ReportError(f"profile.{name}: {error}") from error
            if values.shape != own.shape or not np.isfinite(values).all():
                raise ReportError(f"profile.{name}: needs {counted(own.shape[0], 'finite number')}")
            if name == "position_sum":
                profile._position_steps = np.rint(values * _STEPS_PER_NAT).astype(np.int64)
            else:
                setattr(profile, name, values)
        return profile

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, EntropyProfile):
            return NotImplemented
        return (
            np.array_equal(self.histogram, other.histogram)
            and np.array_equal(self.position_sum, other.position_sum)
            and np.array_equal(self.position_count, other.position_count)
        )

    __hash__ = None  # type: ignore[assignment]  # it changes as it accumulates
