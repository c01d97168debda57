"""MinHash with banding: which texts may share most of their shingles.

Every permutation is ``a x + b`` modulo 2**32 with an odd ``a``. The smallest value of a text
under one of them is equal for two texts with a probability that is their Jaccard similarity J
(Broder 1997); texts that agree in all rows of some band are candidates. With 16 bands of 4 rows a
pair with J = 0.8 is found with probability 0.9998, one with 0.3 with 0.12. Candidates are compared
exactly afterwards, so that the banding costs recall, never precision.
"""

import numpy as np
import numpy.typing as npt

from mlflow_rlrisk.overlap.shingles import Hashes, mixed

NUM_BANDS = 16
ROWS_PER_BAND = 4

CHUNK = 1 << 16
"""Shingles that are permuted together: they and their images stay in the processor's cache."""

_rng = np.random.Generator(np.random.PCG64(20260413))
_FACTORS, _SHIFTS = _rng.integers(0, 2**32, (2, NUM_BANDS * ROWS_PER_BAND), dtype=np.uint32)
_FACTORS |= np.uint32(1)


def band_keys(shingles: Hashes, lengths: npt.NDArray[np.int64]) -> Hashes:
    """One key for each text and band, shape ``[NUM_BANDS, D]``.

    Args:
        shingles: Hashes of all texts after each other.
        lengths: Shingles per text, shape ``[D]``, each at least 1.
    """
    ends = np.cumsum(lengths)
    keys = np.zeros((NUM_BANDS, lengths.size), dtype=np.uint64)
    first = 0
    while first < lengths.size:
        begin = ends[first] - lengths[first]
        last = max(int(np.searchsorted(ends, begin + CHUNK, "right")), first + 1)
        values = (shingles[begin : ends[last - 1]] >> np.uint64(32)).astype(np.uint32)
        starts = ends[first:last] - lengths[first:last] - begin
        for index in range(NUM_BANDS * ROWS_PER_BAND):
            permuted = values * _FACTORS[index] + _SHIFTS[index]
            smallest = np.minimum.reduceat(permuted, starts).astype(np.uint64)
            band = keys[index // ROWS_PER_BAND, first:last]
            band[:] = mixed(band ^ smallest)
        first = last
    return keys


class BandIndex:
    """Looks up which indexed texts share a band with others.

    Args:
        keys: Keys of the indexed texts, shape ``[NUM_BANDS, D]``.
    """

    MAX_BUCKET = 32
    """Texts that are taken from one bucket: more are boilerplate, and would cost their square."""

    def __init__(self, keys: Hashes) -> None:
        self._order = np.argsort(keys, axis=1).astype(np.uint32)
        self._sorted = np.take_along_axis(keys, self._order, axis=1)

    def candidates(self, keys: Hashes) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Distinct pairs ``(indexed, asked)`` that share a band.

        Args:
            keys: Keys of the texts that are asked about, shape ``[NUM_BANDS, Q]``.
        """
        found: list[npt.NDArray[np.uint64]] = []
        for band, asked in enumerate(keys):
            low = np.searchsorted(self._sorted[band], asked, "left")
            high = np.searchsorted(self._sorted[band], asked, "right")
            sizes = np.minimum(high - low, self.MAX_BUCKET)
            if not sizes.any():
                continue
            query = np.repeat(np.arange(asked.size), sizes)
            offset = np.arange(query.size) - np.repeat(np.cumsum(sizes) - sizes, sizes)
            indexed = self._order[band][np.repeat(low, sizes) + offset]
            found.append(indexed.astype(np.uint64) << np.uint64(32) | query.astype(np.uint64))
        if not found:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        pairs = np.unique(np.concatenate(found))
        return (pairs >> np.uint64(32)).astype(np.int64), (pairs & np.uint64(0xFFFFFFFF)).astype(
            np.int64
        )
