"""From the logits of one step to a token, its logprob and the entropy, in one exponential pass.

With ``d = z/T - max`` and ``e = exp(d)`` everything follows from three sums: the partition
``s = sum e``, the entropy ``log s - sum(e d)/s`` and the inverse CDF over blocks of ``e``. The
centred form keeps float32 within 1e-5 nats at 152k words, where ``logsumexp - sum(p z)`` is off
by 1e-4. A repetition penalty makes a second softmax to draw from; the entropy is of the first.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlflow_rlrisk.config import SamplingConfig
from mlflow_rlrisk.samplers.repetition_penalty import penalised

if TYPE_CHECKING:
    import torch

_BELOW_ONE = 1.0 - 2.0**-52


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenChoice:
    """One sampled token for each of ``B`` rows.

    Attributes:
        tokens: Sampled ids, int64 ``[B]``.
        logprobs: Log probability under the sampling distribution, penalty and truncation included
            (nats), float32 ``[B]``.
        entropies: Entropy of the full softmax at the temperature, without a penalty (nats), float32
            ``[B]``. Not finite exactly where a logit of the row is not finite.
    """

    tokens: "torch.Tensor"
    logprobs: "torch.Tensor"
    entropies: "torch.Tensor"


@dataclass(frozen=True, slots=True)
class _Softmax:
    """The sums of ``B`` rows: ``d`` and ``e`` ``[B, V]``, ``e`` in blocks ``[B, N, W]``, ``s``."""

    centred: "torch.Tensor"
    weights: "torch.Tensor"
    blocks: "torch.Tensor"
    block_sums: "torch.Tensor"
    total: "torch.Tensor"

    def entropies(self) -> "torch.Tensor":
        """In nats, ``[B]``."""
        import torch

        mean: torch.Tensor = torch.linalg.vecdot(self.weights, self.centred) / self.total
        # Rounding may leave -1e-8 where one token has all the mass; an entropy is never negative.
        return (self.total.log() - mean).clamp_(min=0.0)


class TokenChooser:
    """Samples by inverse CDF: one uniform per row decides, so the batch has no say."""

    def __init__(self, vocab_size: int, sampling: SamplingConfig) -> None:
        self._temperature = sampling.temperature
        self._top_p = sampling.top_p
        self._top_k = sampling.top_k if sampling.top_k < vocab_size else 0
        self._min_p = sampling.min_p
        self._penalty = sampling.repetition_penalty
        self._vocab_size = vocab_size
        # Near sqrt(V) both levels of the search are short; 16-word steps keep rows aligned.
        self._width = max(16, 16 * round(math.sqrt(vocab_size) / 16))
        self._num_blocks = -(-vocab_size // self._width)
        self._scratch: torch.Tensor | None = None

    @property
    def penalises(self) -> bool:
        """Whether what was seen makes a difference."""
        return self._penalty != 1.0

    def choose(
        self,
        logits: "torch.Tensor",
        uniforms: "torch.Tensor",
        seen: "torch.Tensor | None" = None,
    ) -> TokenChoice:
        """Draw one token per row.

        Args:
            logits: float32 ``[B, V]``; overwritten.
            uniforms: float64 ``[B]`` in ``[0, 1)``.
            seen: Words of prompt and completion, int64 ``[B, T]``, where they are penalised.
        """
        drawn_from = None if seen is None else penalised(logits, seen, self._penalty)
        softmax = self._softmax(logits)
        entropies = softmax.entropies()
        if drawn_from is not None:
            softmax = self._softmax(drawn_from)
        if self._top_k or self._top_p < 1.0 or self._min_p:
            tokens, log_total = self._choose_truncated(softmax.weights, uniforms)
        else:
            tokens = _two_level_search(softmax.blocks, softmax.block_sums, uniforms)
            tokens.clamp_(max=self._vocab_size - 1)
            log_total = softmax.total.log()
        logprobs = softmax.centred.gather(1, tokens[:, None])[:, 0] - log_total
        return TokenChoice(tokens=tokens, logprobs=logprobs.clamp_(max=0.0), entropies=entropies)

    def _softmax(self, logits: "torch.Tensor") -> _Softmax:
        """Overwrites the logits, and what the last one held."""
        import torch

        if self._temperature != 1.0:
            logits.div_(self._temperature)
        centred = logits.sub_(logits.amax(dim=-1, keepdim=True))
        padded = self._padded_like(centred)
        weights = padded[:, : self._vocab_size]
        torch.exp(centred, out=weights)
        blocks = padded.view(len(padded), self._num_blocks, self._width)
        block_sums = blocks.sum(dim=-1)
        return _Softmax(centred, weights, blocks, block_sums, block_sums.sum(dim=-1))

    def _padded_like(self, logits: "torch.Tensor") -> "torch.Tensor":
        rows, columns = len(logits), self._num_blocks * self._width
        if self._scratch is None or len(self._scratch) < rows:
            self._scratch = logits.new_zeros((rows, columns))
        return self._scratch[:rows]

    def _choose_truncated(
        self, weights: "torch.Tensor", uniforms: "torch.Tensor"
    ) -> tuple["torch.Tensor", "torch.Tensor"]:
        """Of the k likeliest words the smallest nucleus of mass top_p, of it what min_p leaves.

        The likeliest word has weight 1, so that weights are shares of its probability.
        """
        ordered, words = weights.sort(dim=-1, descending=True, stable=True)
        if self._top_k:
            ordered, words = ordered[:, : self._top_k], words[:, : self._top_k]
        cumulative = ordered.double().cumsum(dim=-1)
        before = cumulative - ordered
        kept = (before < self._top_p * cumulative[:, -1:]) & (ordered >= self._min_p)
        kept[:, 0] = True
        mass = (ordered * kept).double().cumsum(dim=-1)
        index = _search(mass, uniforms * mass[:, -1])
        return words.gather(1, index[:, None])[:, 0], mass[:, -1].log().to(weights.dtype)


def _two_level_search(
    blocks: "torch.Tensor", block_sums: "torch.Tensor", uniforms: "torch.Tensor"
) -> "torch.Tensor":
    """Inverse CDF over ``[B, N, W]`` weights: first the block, then the word in it."""
    upper = block_sums.double().cumsum(dim=-1)
    target = uniforms * upper[:, -1]
    block = _search(upper, target)
    chosen = block[:, None]
    size = block_sums.gather(1, chosen)[:, 0].double()
    start = upper.gather(1, chosen)[:, 0] - size
    width = blocks.shape[-1]
    inside = blocks.gather(1, chosen[:, :, None].expand(-1, 1, width))[:, 0]
    cumulative = inside.double().cumsum(dim=-1)
    # A block's float32 sum and its float64 cumulation differ in the last digits: the place in
    # the block is kept as a share, so that no word gains or loses by it.
    share = ((target - start) / size).clamp_(0.0, _BELOW_ONE)
    word = _search(cumulative, share * cumulative[:, -1])
    return block * width + word


def _search(cumulative: "torch.Tensor", target: "torch.Tensor") -> "torch.Tensor":
    """First index whose cumulative weight exceeds the target; its own weight is never zero."""
    import torch

    target = torch.minimum(target, cumulative[:, -1] * _BELOW_ONE)
    index = torch.searchsorted(cumulative, target[:, None], right=True)[:, 0]
    return index.clamp_(max=cumulative.shape[-1] - 1)
