"""The output head and the online softmax in one Triton kernel, for CUDA.

Logits live in registers, never in memory: a program multiplies a tile of tokens with one tile of
words after another, folds each into ``(m, s, t)`` of its tokens (see `fold`), and leaves these
for a share of the vocabulary. The shares are merged afterwards. Words beyond the vocabulary are
masked, not multiplied as zeros.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from mlflow_rlrisk.kernels.fold import LOWEST

_LOWEST = tl.constexpr(LOWEST)


@dataclass(frozen=True, slots=True, kw_only=True)
class TileShape:
    """How the kernel cuts its work; every side is a power of two of at least 16."""

    tokens: int = 128
    words: int = 128
    width: int = 64
    """Columns of the hidden state that are multiplied at a time."""
    num_warps: int = 8
    num_stages: int = 3

    @classmethod
    def of(cls, dtype: torch.dtype) -> "TileShape":
        """The shape for operands of this dtype: float32 ones take twice the shared memory."""
        return cls(words=64, width=32) if dtype == torch.float32 else cls()


PROGRAMS_PER_PROCESSOR = 4
"""Programs for each multiprocessor, so that an uneven end costs little."""


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _head_kernel(  # type: ignore[no-untyped-def]
    hidden,
    weight,
    bias,
    targets,
    partial,
    num_tokens,
    num_words,
    width,
    hidden_stride,
    weight_stride,
    words_per_share,
    scale,
    softcap,
    over_temperature,
    HAS_BIAS: tl.constexpr,  # noqa: N803
    HAS_SOFTCAP: tl.constexpr,  # noqa: N803
    WIDENS: tl.constexpr,  # noqa: N803
    TOKENS: tl.constexpr,  # noqa: N803
    WORDS: tl.constexpr,  # noqa: N803
    WIDTH: tl.constexpr,  # noqa: N803
):
    """``(m, s, t, chosen)`` of a tile of tokens over one share of the vocabulary.

    Programs that follow each other read the same weights, which the cache then holds.
    """
    share = tl.program_id(1)
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    is_token = token < num_tokens
    target = tl.load(targets + token, mask=is_token, other=-1)
    column = tl.arange(0, WIDTH)
    m = tl.full([TOKENS], float("-inf"), tl.float32)
    s = tl.zeros([TOKENS], tl.float32)
    t = tl.zeros([TOKENS], tl.float32)
    chosen = tl.full([TOKENS], float("-inf"), tl.float32)
    first = share * words_per_share
    last = tl.minimum(first + words_per_share, num_words)
    hidden_row = hidden + token.to(tl.int64)[:, None] * hidden_stride
    for start in range(first, last, WORDS):
        word = start + tl.arange(0, WORDS)
        is_word = word < last
        weight_row = weight + word.to(tl.int64)[None, :] * weight_stride
        logits = tl.zeros([TOKENS, WORDS], tl.float32)
        for begin in range(0, width, WIDTH):
            is_column = begin + column < width
            left = tl.load(
                hidden_row + (begin + column)[None, :],
                mask=is_token[:, None] & is_column[None, :],
                other=0.0,
            )
            right = tl.load(
                weight_row + (begin + column)[:, None],
                mask=is_column[:, None] & is_word[None, :],
                other=0.0,
            )
            if WIDENS:  # Triton's interpreter multiplies the bits of bfloat16 as integers
                left, right = left.to(tl.float32), right.to(tl.float32)
            logits = tl.dot(left, right, logits, input_precision="ieee")
        if HAS_BIAS:
            logits += tl.load(bias + word, mask=is_word, other=0.0)[None, :]
        logits *= scale
        if HAS_SOFTCAP:  # tanh, in a form that neither overflows nor needs a library
            logits = softcap * (1.0 - 2.0 / (tl.exp(2.0 * logits / softcap) + 1.0))
        logits *= over_temperature
        logits = tl.where(is_word[None, :], logits, float("-inf"))
        is_target = word[None, :] == target[:, None]
        here = tl.sum(tl.where(is_target, logits, 0.0), 1)
        chosen = tl.where((target >= start) & (target < start + WORDS), here, chosen)
        largest = tl.maximum(m, tl.max(logits, 1))
        shift = tl.where(largest == float("-inf"), 0.0, largest)
        gap = tl.where(m == float("-inf"), _LOWEST, m - shift)
        distance = tl.where(logits == float("-inf"), _LOWEST, logits - shift[:, None])
        weights = tl.exp(distance)
        decay = tl.exp(gap)
        t = decay * (t + gap * s) + tl.sum(weights * distance, 1)
        s = decay * s + tl.sum(weights, 1)
        m = largest
    row = partial + share * 4 * num_tokens + token
    tl.store(row, m, mask=is_token)
    tl.store(row + num_tokens, s, mask=is_token)
    tl.store(row + 2 * num_tokens, t, mask=is_token)
    tl.store(row + 3 * num_tokens, chosen, mask=is_token)


def head_partials(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    *,
    num_words: int,
    bias: torch.Tensor | None,
    scale: float,
    softcap: float | None,
    temperature: float,
    shape: TileShape | None = None,
    num_shares: int | None = None,
) -> torch.Tensor:
    """``(m, s, t, chosen)`` of each token over each share of the vocabulary.

    Args:
        hidden: ``[T, H]`` in 16 or 32 bits.
        weight: ``[V, H]`` of the same dtype.
        targets: Token ids ``[T]``.
        num_words: Rows of ``weight`` that are words.
        bias: Float32 ``[V]``.
        scale: Factor of the logits.
        softcap: Their bound, if there is one.
        temperature: Divides them.
        shape: Tiles; left out, those of the dtype.
        num_shares: Shares of the vocabulary; left out, as many as keep the device busy.

    Returns:
        Float32 ``[S, 4, T]``; not finite where an operand is not.
    """
    hidden, weight = _rows(hidden), _rows(weight)
    num_tokens, width = hidden.shape
    shape = shape or TileShape.of(weight.dtype)
    blocks = triton.cdiv(num_tokens, shape.tokens)
    tiles = triton.cdiv(num_words, shape.words)
    shares: int = num_shares or triton.cdiv(_processors(weight) * PROGRAMS_PER_PROCESSOR, blocks)
    words_per_share = triton.cdiv(tiles, min(shares, tiles)) * shape.words
    shares = triton.cdiv(num_words, words_per_share)
    partial = torch.empty((shares, 4, num_tokens), dtype=torch.float32, device=weight.device)
    _head_kernel[(blocks, shares)](
        hidden,
        weight,
        weight if bias is None else bias.contiguous(),
        targets.contiguous(),
        partial,
        num_tokens,
        num_words,
        width,
        hidden.stride(0),
        weight.stride(0),
        words_per_share,
        scale,
        1.0 if softcap is None else softcap,
        1.0 / temperature,
        HAS_BIAS=bias is not None,
        HAS_SOFTCAP=softcap is not None,
        WIDENS=not weight.is_cuda,
        TOKENS=shape.tokens,
        WORDS=shape.words,
        WIDTH=shape.width,
        num_warps=shape.num_warps,
        num_stages=shape.num_stages,
    )
    return partial


def _rows(matrix: torch.Tensor) -> torch.Tensor:
    """The matrix with the values of a row side by side."""
    return matrix if matrix.stride(1) == 1 else matrix.contiguous()


def _processors(weight: torch.Tensor) -> int:
    if not weight.is_cuda:  # Triton's interpreter
        return 1
    return int(torch.cuda.get_device_properties(weight.device).multi_processor_count)
