"""Is one version another one at a different temperature? Told from the rollouts of both.

Dividing all logits by a temperature (a scaled head, a scaled last norm) raises or lowers entropy
and pass@1 without teaching anything: the same samples are had from the original by sampling it at
that temperature. No summary tells such a copy from a trained checkpoint. Log probabilities do: in
one context, ``log p(y) - log p(z) = factor * (log q(y) - log q(z))`` for every pair of tokens, to
the precision of the arithmetic. Contexts that both versions went through are the prompts and the
first tokens of equal answers, so nothing is sampled or scored for this.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
import numpy.typing as npt

from mlflow_rlrisk.lineage.measures import FloatArray

Context = tuple[str, tuple[int, ...]]
"""A prompt's id and the tokens that follow it."""
TokenLogprobs = Mapping[Context, Mapping[int, float]]
"""Log probability of every token that was sampled in a context."""

MIN_CONTEXTS = 20
"""Contexts with several common tokens below which nothing is claimed: ours."""
MIN_SPREAD = 0.1
"""Spread of the log probabilities within contexts (nats) below which there is nothing to fit."""
MAX_UNEXPLAINED = 1e-3
"""Share of that spread that arithmetic may leave over: ours; float32 leaves 1e-11 of it."""
SAME = 1.05
"""Factors between its inverse and itself are no scaling."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rescaling:
    """A version that is another one with its logits multiplied.

    Attributes:
        name: The version.
        original: The version it copies.
        factor: What its logits are multiplied by; above 1 it is sharpened, below 1 flattened.
        num_tokens: Tokens that both sampled in the same contexts.
        num_contexts: These contexts.
        error: Root mean square of what the factor leaves over, nats.
    """

    name: str
    original: str
    factor: float
    num_tokens: int
    num_contexts: int
    error: float

    @property
    def temperature(self) -> float:
        """Sampling the original at this multiple of the temperature gives the same."""
        return 1.0 / self.factor

    @property
    def is_sharpened(self) -> bool:
        """True where the copy is surer than its original."""
        return self.factor > 1.0


def find_rescalings(
    sampled: Mapping[str, TokenLogprobs], parents: Mapping[str, str | None] | None = None
) -> tuple[Rescaling, ...]:
    """Find versions that are copies of others but for a factor on their logits.

    Args:
        sampled: What each version sampled, in the order of the lineage, the base first; of a
            pair the later one is the copy, unless it is the earlier one's parent.
        parents: What a version was made from, where that is known.

    Returns:
        One for each copy, with the first original that it copies.
    """
    coded = dict(zip(sampled, _coded(list(sampled.values())), strict=True))
    known = parents or {}
    found: dict[str, Rescaling] = {}
    names = list(sampled)
    for place, later in enumerate(names):
        for earlier in names[:place]:
            pair = (earlier, later) if known.get(earlier) != later else (later, earlier)
            if found.keys() & {earlier, later}:
                continue
            if (each := _fit(*pair, coded[pair[0]], coded[pair[1]])) is not None:
                found[each.name] = each
    return tuple(found.values())


@dataclass(frozen=True, slots=True, eq=False)
class _Tokens:
    """Sampled tokens by number, ascending: a number, that of its context, the log probability."""

    numbers: npt.NDArray[np.int64]
    contexts: npt.NDArray[np.int64]
    logprobs: FloatArray


def _coded(sampled: Sequence[TokenLogprobs]) -> Iterator[_Tokens]:
    """Number contexts and tokens alike for all versions."""
    contexts: dict[Context, int] = {}
    tokens: dict[tuple[int, int], int] = {}
    fresh, fresh_token = count(), count()
    for table in sampled:
        rows = []
        for context, logprobs in table.items():
            place = contexts.setdefault(context, next(fresh))
            rows += [
                (tokens.setdefault((place, token), next(fresh_token)), place, value)
                for token, value in logprobs.items()
            ]
        rows.sort()
        columns = np.array(rows, dtype=float).reshape(-1, 3)
        yield _Tokens(columns[:, 0].astype(np.int64), columns[:, 1].astype(np.int64), columns[:, 2])


def _fit(original: str, name: str, first: _Tokens, second: _Tokens) -> Rescaling | None:
    """Least squares through the origin of differences within contexts."""
    _, left, right = np.intersect1d(
        first.numbers, second.numbers, assume_unique=True, return_indices=True
    )
    _, groups, sizes = np.unique(first.contexts[left], return_inverse=True, return_counts=True)
    is_several = sizes[groups] >= 2
    num_contexts = int((sizes >= 2).sum())
    if num_contexts < MIN_CONTEXTS:
        return None
    groups = groups[is_several]

    def centred(values: FloatArray) -> FloatArray:
        means = np.bincount(groups, values, sizes.size) / np.maximum(sizes, 1)
        return np.asarray(values - means[groups])

    x = centred(first.logprobs[left][is_several])
    y = centred(second.logprobs[right][is_several])
    spread = min(float(x @ x), float(y @ y)) / x.size
    if spread < MIN_SPREAD**2:
        return None
    factor = float(x @ y) / float(x @ x)
    rest = y - factor * x
    if float(rest @ rest) > MAX_UNEXPLAINED * float(y @ y) or factor <= 0.0:
        return None
    if abs(math.log(factor)) < math.log(SAME):
        return None
    return Rescaling(
        name=name,
        original=original,
        factor=factor,
        num_tokens=int(x.size),
        num_contexts=num_contexts,
        error=float(np.sqrt(rest @ rest / x.size)),
    )
