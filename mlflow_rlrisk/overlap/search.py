"""Finds the RL prompts that stand in the SFT data, in one pass over it.

Held in memory: the RL prompts, their hashes and MinHash keys (about 250 bytes a prompt). The SFT
prompts pass by in batches. A prompt is found exactly where its normalised text is equal, nearly
where the Jaccard similarity of its word shingles is at least `NEAR`, computed exactly for every
candidate. Shingles that many prompts share (a template around the task) say nothing of two
prompts being the same task and are left out of the similarity. Where tasks are put together from
few parts, many of a prompt's own shingles are such too, so all but those of real templates have to
be as similar: what very many prompts share, or many of one side and none of the other.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any

import numpy as np
import numpy.typing as npt

from mlflow_rlrisk.errors import PromptSetError
from mlflow_rlrisk.overlap.minhash import NUM_BANDS, BandIndex, band_keys
from mlflow_rlrisk.overlap.shingles import (
    Hashes,
    normalised,
    shingle_hashes,
    text_hashes,
)

NEAR = 0.8
"""Jaccard similarity from which two prompts count as near duplicates."""
BATCH_CHARS = 1 << 20
"""Characters that are hashed together; bounds the memory beside that of the RL prompts."""
SAMPLE = 20_000
"""Prompts in which templates are looked for."""
PAIRS = 2048
"""Candidate pairs that are compared together."""
BOILERPLATE_SHARE, BOILERPLATE_COUNT = 0.01, 20
"""A shingle in more than this share of the prompts, and in more than this many, is no evidence that
two prompts which have it are the same task."""
TEMPLATE_SHARE = 0.1
"""In more than this share it is a template, whose absence is no evidence that they differ: ours. So
it is in fewer where the other side does not have it, as with data under many templates."""
NUM_EXAMPLES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """An RL prompt and the SFT prompt that it repeats.

    Attributes:
        rl_prompt: The RL prompt.
        sft_prompt: The SFT prompt.
        similarity: Jaccard similarity of the shingles; 1 for equal texts.
    """

    rl_prompt: str
    sft_prompt: str
    similarity: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """What was found.

    Attributes:
        num_rl: RL prompts.
        num_sft: SFT prompts that were read.
        num_exact: RL prompts that stand in the SFT data.
        num_near: Further RL prompts that have a near duplicate there.
        examples: The first matches, near ones preferred.
    """

    num_rl: int
    num_sft: int
    num_exact: int
    num_near: int
    examples: tuple[Match, ...]

    @property
    def share(self) -> float:
        """Share of the RL prompts that stand in the SFT data, exactly or nearly."""
        return (self.num_exact + self.num_near) / self.num_rl

    @property
    def sentence(self) -> str:
        """What was found, for people."""
        return (
            f"{self.share:.1%} of {self.num_rl} RL prompts stand among {self.num_sft} SFT prompts "
            f"({self.num_exact} exactly, {self.num_near} nearly)"
        )

    def to_dict(self) -> dict[str, Any]:
        """The overlap as JSON values."""
        return {
            "rlrisk/sft_rl_overlap": self.share,
            "exact_share": self.num_exact / self.num_rl,
            "near_share": self.num_near / self.num_rl,
            "num_rl": self.num_rl,
            "num_sft": self.num_sft,
            "num_exact": self.num_exact,
            "num_near": self.num_near,
            "near_from": NEAR,
            "examples": [
                {"rl_prompt": e.rl_prompt, "sft_prompt": e.sft_prompt, "similarity": e.similarity}
                for e in self.examples
            ],
        }


def find_overlap(rl_prompts: Sequence[str], sft_prompts: Iterable[str]) -> Overlap:
    """Search every RL prompt in the SFT prompts.

    Args:
        rl_prompts: Texts; at least one.
        sft_prompts: Texts, read once; empty ones are none.

    Raises:
        PromptSetError: There are no RL prompts or no SFT prompts.
    """
    if not rl_prompts:
        raise PromptSetError("the RL prompt set is empty")
    stream = filter(None, map(normalised, sft_prompts))
    sample = list(islice(stream, SAMPLE))
    if not sample:
        raise PromptSetError("the SFT data have no prompts")
    search = _Search.over(list(map(normalised, rl_prompts)), sample)
    for batch in _batches(chain(sample, stream)):
        search.add(batch)
    return search.result(rl_prompts)


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """Lists of about `BATCH_CHARS` characters."""
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= BATCH_CHARS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


@dataclass(frozen=True, slots=True)
class _Shingles:
    """Shingles of (a sample of) one side's distinct texts, sorted: all, common ones, templates."""

    found: Hashes
    common: Hashes
    templates: Hashes

    @classmethod
    def of(cls, texts: list[str]) -> "_Shingles":
        step = max(1, len(texts) // SAMPLE)
        sample = list(dict.fromkeys(texts[::step]))
        shingles = [shingle_hashes(batch)[0] for batch in _batches(sample)]
        values, counts = np.unique(np.concatenate(shingles), return_counts=True)
        common, templates = (
            np.asarray(values[counts > max(BOILERPLATE_COUNT, share * len(sample))])
            for share in (BOILERPLATE_SHARE, TEMPLATE_SHARE)
        )
        return cls(values, common, templates)

    def missing_in(self, other: "_Shingles") -> Hashes:
        """What many texts here have and none there."""
        return np.setdiff1d(self.common, other.found)


@dataclass(slots=True)
class _Search:
    texts: list[str]
    sorted_hashes: Hashes
    by_hash: npt.NDArray[np.int64]
    boilerplate: Hashes
    templates: Hashes
    rows: npt.NDArray[np.int64]
    index: BandIndex
    is_exact: npt.NDArray[np.bool_]
    is_near: npt.NDArray[np.bool_]
    num_sft: int = 0
    exact: list[tuple[int, str, float]] = field(default_factory=list)
    near: list[tuple[int, str, float]] = field(default_factory=list)

    @classmethod
    def over(cls, texts: list[str], sample: list[str]) -> "_Search":
        ours, theirs = _Shingles.of(texts), _Shingles.of(sample)
        one_sided = np.union1d(ours.missing_in(theirs), theirs.missing_in(ours))
        boilerplate = np.union1d(ours.common, theirs.common)
        keys, rows, parts = [np.empty((NUM_BANDS, 0), dtype=np.uint64)], [], []
        start = 0
        for batch in _batches(texts):
            parts.append(text_hashes(batch))
            shingles, lengths = _telling(batch, boilerplate)
            telling = np.flatnonzero(lengths)
            rows.append(telling + start)
            keys.append(band_keys(shingles, lengths[telling]))
            start += len(batch)
        hashes = np.concatenate(parts)
        order = np.argsort(hashes)
        return cls(
            texts=texts,
            sorted_hashes=hashes[order],
            by_hash=order,
            boilerplate=boilerplate,
            templates=np.union1d(one_sided, np.union1d(ours.templates, theirs.templates)),
            rows=np.concatenate(rows),
            index=BandIndex(np.concatenate(keys, axis=1)),
            is_exact=np.zeros(len(texts), dtype=bool),
            is_near=np.zeros(len(texts), dtype=bool),
        )

    def add(self, batch: list[str]) -> None:
        """Search one batch of SFT prompts."""
        self.num_sft += len(batch)
        self._find_exact(batch)
        shingles, lengths = _telling(batch, self.boilerplate)
        asked = np.flatnonzero(lengths)
        if not asked.size:
            return
        indexed, query = self.index.candidates(band_keys(shingles, lengths[asked]))
        rl, sft = self.rows[indexed], asked[query]
        is_open = ~(self.is_exact[rl] | self.is_near[rl])
        self._compare(batch, rl[is_open], sft[is_open])

    def _find_exact(self, batch: list[str]) -> None:
        hashes = text_hashes(batch)
        low = np.searchsorted(self.sorted_hashes, hashes, "left")
        high = np.searchsorted(self.sorted_hashes, hashes, "right")
        for sft in np.flatnonzero(high > low):
            for rl in self.by_hash[low[sft] : high[sft]]:
                if not self.is_exact[rl] and self.texts[rl] == batch[sft]:
                    self.is_exact[rl] = True
                    if len(self.exact) < NUM_EXAMPLES:
                        self.exact.append((int(rl), batch[sft], 1.0))

    def _compare(
        self, batch: list[str], rl: npt.NDArray[np.int64], sft: npt.NDArray[np.int64]
    ) -> None:
        """Mark the pairs whose similarity, computed exactly, is near enough."""
        for start in range(0, rl.size, PAIRS):
            left, right = rl[start : start + PAIRS], sft[start : start + PAIRS]
            similarity = self._similarities(
                [self.texts[i] for i in left], [batch[i] for i in right]
            )
            for place in np.flatnonzero(similarity >= NEAR):
                if self.is_near[left[place]]:
                    continue
                self.is_near[left[place]] = True
                if len(self.near) < NUM_EXAMPLES:
                    found = float(similarity[place])
                    self.near.append((int(left[place]), batch[right[place]], found))

    def _similarities(self, left: list[str], right: list[str]) -> npt.NDArray[np.float64]:
        """The least that is alike of each pair: of what tells, and of all but templates."""
        found = _similarities(left, right, self.boilerplate)
        places = np.flatnonzero(found >= NEAR)
        if places.size:
            again = [left[i] for i in places], [right[i] for i in places]
            found[places] = np.minimum(found[places], _similarities(*again, self.templates))
        return found

    def result(self, rl_prompts: Sequence[str]) -> Overlap:
        near = [each for each in self.near if not self.is_exact[each[0]]]
        return Overlap(
            num_rl=len(self.texts),
            num_sft=self.num_sft,
            num_exact=int(self.is_exact.sum()),
            num_near=int((self.is_near & ~self.is_exact).sum()),
            examples=tuple(
                Match(rl_prompt=rl_prompts[rl], sft_prompt=_printable(sft), similarity=similarity)
                for rl, sft, similarity in [*near, *self.exact][:NUM_EXAMPLES]
            ),
        )


def _printable(text: str) -> str:
    """Without lone surrogates, which JSON can hold and no output can."""
    return text.encode(errors="replace").decode()


def _telling(texts: list[str], boilerplate: Hashes) -> tuple[Hashes, npt.NDArray[np.int64]]:
    """Shingles that are no boilerplate, and their number per text."""
    shingles, lengths = shingle_hashes(texts)
    if not boilerplate.size:
        return shingles, lengths
    place = np.minimum(np.searchsorted(boilerplate, shingles), boilerplate.size - 1)
    is_telling = boilerplate[place] != shingles
    row = np.repeat(np.arange(lengths.size), lengths)[is_telling]
    return shingles[is_telling], np.bincount(row, minlength=lengths.size).astype(np.int64)


def _similarities(
    left: list[str], right: list[str], boilerplate: Hashes
) -> npt.NDArray[np.float64]:
    """Exact Jaccard similarity of each pair, shape ``[N]``; both sides have shingles."""
    one, sizes_one = _telling(left, boilerplate)
    two, sizes_two = _telling(right, boilerplate)
    pairs = np.arange(len(left))
    rows = np.concatenate([np.repeat(pairs, sizes_one), np.repeat(pairs, sizes_two)])
    values = np.concatenate([one, two])
    order = np.lexsort((values, rows))
    values, rows = values[order], rows[order]
    is_shared = (values[1:] == values[:-1]) & (rows[1:] == rows[:-1])
    shared = np.bincount(rows[1:][is_shared], minlength=len(left))
    return np.asarray(shared / (sizes_one + sizes_two - shared))
