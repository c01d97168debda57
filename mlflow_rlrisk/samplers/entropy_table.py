"""Joins recorded entropies with the tokens that they belong to, and knows what is missing."""

import math

import numpy as np
import numpy.typing as npt

from mlflow_rlrisk.samplers.vllm_engine import Records

ROUNDING = 1e-3
"""An entropy may lie so far above log V by float32 rounding."""


class EntropyTable:
    """Entropies by request and token, for requests that are not yet complete."""

    def __init__(self, max_tokens: int, num_words: int) -> None:
        self._max_tokens = max_tokens
        self._largest = math.log(num_words) + ROUNDING
        self._rows: dict[int, int] = {}
        self._values = np.full((0, max_tokens), np.nan, dtype=np.float32)
        self._free: list[int] = []

    def expect(self, uid: int) -> None:
        """A request begins."""
        if not self._free:
            size = len(self._values)
            more = np.full((max(64, size), self._max_tokens), np.nan, dtype=np.float32)
            self._values = np.concatenate([self._values, more])
            self._free.extend(range(size, len(self._values)))
        row = self._free.pop()
        self._values[row] = np.nan
        self._rows[uid] = row

    def add(self, records: Records) -> None:
        """Take records in their order: the last one of a token is the one it was sampled from.

        Positions beyond the token limit are surplus rows of an engine that works ahead.
        """
        rows = np.array([self._rows.get(uid, -1) for uid in records.uids.tolist()], dtype=np.int64)
        kept = np.flatnonzero((rows >= 0) & (records.positions < self._max_tokens))
        self._values[rows[kept], records.positions[kept]] = records.entropies[kept]

    def take(self, uid: int, num_tokens: int) -> npt.NDArray[np.float32]:
        """The entropies of a finished request, shape ``[T]``; NaN where one is missing.

        An impossible value (negative, above log V, not finite) counts as missing.
        """
        row = self._rows.pop(uid)
        self._free.append(row)
        values = self._values[row, :num_tokens].copy()
        values[~((values >= 0.0) & (values <= self._largest))] = np.nan
        return values
