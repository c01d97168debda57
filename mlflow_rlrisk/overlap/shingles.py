"""Texts -> hashes of runs of words, for many texts at once.

A word is what stands between spaces after `normalised`. Its hash is a polynomial in its bytes,
taken from running sums over the whole batch (arithmetic modulo 2**64), so that no Python loop
touches a word. Equal texts have equal hashes in every process.
"""

import unicodedata
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

WORDS_PER_SHINGLE = 3
"""Short enough that one changed word of thirty leaves most of a math problem's shingles."""

Hashes = npt.NDArray[np.uint64]

_BASE = np.uint64(0x9E3779B97F4A7C15)
_BASE_INVERSE = np.uint64(pow(int(_BASE), -1, 2**64))
_MULTIPLIERS = np.array([0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 0xD6E8FEB86659FD93], np.uint64)
_SPACE, _END = 0x20, 0x0A


def normalised(text: str) -> str:
    """Without case, with compatible characters made one (NFKC), and single spaces."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return " ".join(text.casefold().split())


def text_hashes(texts: Sequence[str]) -> Hashes:
    """One hash a text, shape ``[D]``; of normalised texts."""
    hashes, _, lengths = _word_hashes(texts)
    return _combined(hashes, lengths)


def shingle_hashes(texts: Sequence[str]) -> tuple[Hashes, npt.NDArray[np.int64]]:
    """Hashes of all runs of `WORDS_PER_SHINGLE` words of normalised texts.

    Returns:
        The hashes of all texts after each other, each text's sorted and without repeats, and
        their number per text, shape ``[D]``. A text with fewer words is one shingle.
    """
    words, row, lengths = _word_hashes(texts)
    size = WORDS_PER_SHINGLE
    starts = np.flatnonzero(row[: max(words.size - size + 1, 0)] == row[size - 1 :])
    runs = np.zeros(starts.size, dtype=np.uint64)
    for place, multiplier in enumerate(_MULTIPLIERS):
        runs += words[starts + place] * multiplier
    runs = mixed(runs)
    short = np.flatnonzero(lengths < size)
    whole = _combined(words, lengths)[short]
    values = np.concatenate([runs, whole])
    rows = np.concatenate([row[starts], short])
    order = np.lexsort((values, rows))
    values, rows = values[order], rows[order]
    is_first = np.ones(values.size, dtype=bool)
    is_first[1:] = (values[1:] != values[:-1]) | (rows[1:] != rows[:-1])
    values, rows = values[is_first], rows[is_first]
    return values, np.bincount(rows, minlength=len(texts)).astype(np.int64)


def mixed(values: Hashes) -> Hashes:
    """Spread the bits of hashes (the finaliser of SplitMix64)."""
    values = (values ^ (values >> np.uint64(30))) * _MULTIPLIERS[0]
    values = (values ^ (values >> np.uint64(27))) * _MULTIPLIERS[1]
    return np.asarray(values ^ (values >> np.uint64(31)))


def _word_hashes(
    texts: Sequence[str],
) -> tuple[Hashes, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Hash and text index of every word, and the words per text."""
    joined = "\n".join(texts) + "\n"
    raw = np.frombuffer(joined.encode("utf-8", "surrogatepass"), dtype=np.uint8)
    is_end = raw == _END
    breaks = np.flatnonzero(is_end | (raw == _SPACE))
    starts = np.concatenate([[0], breaks[:-1] + 1])
    text_of = np.concatenate([[0], np.cumsum(is_end[breaks])[:-1]])
    filled = breaks > starts  # an empty text has an empty word
    starts, ends, text_of = starts[filled], breaks[filled], text_of[filled]
    powers = np.cumprod(np.full(raw.size, _BASE), dtype=np.uint64)
    sums = np.concatenate([[np.uint64(0)], np.cumsum((raw + np.uint64(1)) * powers)])
    back = np.cumprod(np.full(raw.size, _BASE_INVERSE), dtype=np.uint64)
    hashes = mixed((sums[ends] - sums[starts]) * back[starts])
    lengths = np.bincount(text_of, minlength=len(texts)).astype(np.int64)
    return hashes, text_of.astype(np.int64), lengths


def _combined(words: Hashes, lengths: npt.NDArray[np.int64]) -> Hashes:
    """One hash from the words of each text, which depends on their order."""
    first = np.cumsum(lengths) - lengths
    place = (np.arange(words.size) - np.repeat(first, lengths)).astype(np.uint64)
    placed = mixed(words + mixed(place + np.uint64(1)))
    sums = np.concatenate([[np.uint64(0)], np.cumsum(placed)])
    totals = sums[first + lengths] - sums[first]
    return mixed(totals + lengths.astype(np.uint64) * _MULTIPLIERS[2])
