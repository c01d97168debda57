"""One sequence of numbers for each prompt, laid flat, so that no loop runs over prompts."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from mlflow_rlrisk.errors import InsufficientRolloutsError, StatisticsError
from mlflow_rlrisk.plurals import counted
from mlflow_rlrisk.statistics.counts import FloatVector, IntVector


@dataclass(frozen=True, slots=True, eq=False)
class Ragged:
    """``P`` sequences of numbers in one flat array.

    Attributes:
        flat: All numbers in order, shape ``[sum of lengths]``.
        lengths: Length of each sequence, shape ``[P]``.
        row: Sequence each number belongs to, the shape of ``flat``.
    """

    flat: FloatVector
    lengths: IntVector
    row: npt.NDArray[np.intp]

    @classmethod
    def of(cls, name: str, sequences: Sequence[Any]) -> Self:
        """Lay ``sequences`` flat; numbers must be finite, sequences may be empty.

        Raises:
            StatisticsError: There is no sequence, one is no sequence of numbers, or a number
                is not finite.

        >>> Ragged.of("rewards", [[1.0], [2.0, 3.0]]).lengths
        array([1, 2])
        """
        if len(sequences) == 0:
            raise StatisticsError(f"{name} is empty: one sequence for each prompt is needed")
        if any(isinstance(sequence, str | bytes) for sequence in sequences):
            raise StatisticsError(f"{name} holds text: a sequence of numbers is needed")
        try:
            lengths = np.array([len(sequence) for sequence in sequences], dtype=np.int64)
            flat = np.fromiter(
                chain.from_iterable(sequences), dtype=np.float64, count=int(lengths.sum())
            )
        except (TypeError, ValueError, OverflowError) as error:
            raise StatisticsError(
                f"{name} must hold one flat sequence of numbers for each prompt: {error}"
            ) from error
        row = np.repeat(np.arange(lengths.size), lengths)
        if not np.isfinite(flat).all():
            first = int(np.flatnonzero(~np.isfinite(flat))[0])
            raise StatisticsError(f"{name} of prompt {row[first]} holds {flat[first]}: not finite")
        return cls(flat, lengths, row)

    @property
    def num_rows(self) -> int:
        """Number of sequences, ``P``."""
        return int(self.lengths.size)

    @property
    def starts(self) -> IntVector:
        """Where each sequence begins in ``flat``, shape ``[P]``."""
        return np.asarray(np.cumsum(self.lengths) - self.lengths)

    def sums(self, values: FloatVector) -> FloatVector:
        """Sum ``values``, the shape of ``flat``, within each sequence: shape ``[P]``."""
        totals = np.bincount(self.row, weights=values, minlength=self.num_rows)
        return totals.astype(np.float64, copy=False)  # without rows NumPy returns integers


def require_lengths(lengths: IntVector, needed: int, purpose: str) -> None:
    """Refuse sequences shorter than ``needed``.

    Raises:
        InsufficientRolloutsError: Names the first such prompt and its count.
    """
    short = np.flatnonzero(lengths < needed)
    if short.size:
        raise InsufficientRolloutsError(
            f"{purpose} needs {counted(needed, 'scored rollout')} per prompt; "
            f"{short.size} of {lengths.size} prompts have fewer "
            f"(first: prompt {short[0]} with {lengths[short[0]]})"
        )
