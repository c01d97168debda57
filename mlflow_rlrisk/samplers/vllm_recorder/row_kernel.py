"""Entropy and log normaliser of rows of logits in one Triton kernel, for CUDA.

A program reads its row once. Each of its lanes keeps the largest logit ``m`` that it saw,
``s = sum 2^(z - m)`` and ``t = sum 2^(z - m) (z - m)`` in bits at the temperature; lanes meet only
at the end of the row, so that loads need not wait for each other.
"""

from typing import Any

import torch
import triton
import triton.language as tl

from mlflow_rlrisk.kernels.powers_of_two import BITS, LOWEST

LANES = 4096
"""Logits of a row that are read together."""
NUM_WARPS = 8

_LOWEST = tl.constexpr(LOWEST)
_NATS = tl.constexpr(1.0 / BITS)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _row_kernel(  # type: ignore[no-untyped-def]
    logits,
    scales,
    log_normalisers,
    entropies,
    num_words,
    stride,
    scale,
    HAS_SCALES: tl.constexpr,  # noqa: N803
    LANES: tl.constexpr,  # noqa: N803
):
    """One row; ``scale`` is bits a unit of the logits, or ``scales`` has one a row."""
    row = tl.program_id(0)
    if HAS_SCALES:
        scale = tl.load(scales + row)
    words = logits + row.to(tl.int64) * stride
    lane = tl.arange(0, LANES)
    m = tl.full([LANES], float("-inf"), tl.float32)
    s = tl.zeros([LANES], tl.float32)
    t = tl.zeros([LANES], tl.float32)
    for start in range(0, num_words, LANES):
        word = start + lane
        found = tl.load(words + word, mask=word < num_words, other=float("-inf")).to(tl.float32)
        # A comparison with NaN is false, so that it stays in the distance and spoils the sums.
        largest = tl.where(found > m, found, m)
        shift = tl.where(largest == float("-inf"), 0.0, largest)
        gap = tl.where(m == float("-inf"), _LOWEST, (m - shift) * scale)
        distance = tl.where(found == float("-inf"), _LOWEST, (found - shift) * scale)
        decay = tl.exp2(gap)
        weight = tl.exp2(distance)
        t = decay * (t + gap * s) + weight * distance
        s = decay * s + weight
        m = largest
    whole = tl.max(m, 0)
    shift = tl.where(whole == float("-inf"), 0.0, whole)
    gap = tl.where(m == float("-inf"), _LOWEST, (m - shift) * scale)
    decay = tl.exp2(gap)
    total_t = tl.sum(decay * (t + gap * s), 0)
    total = tl.sum(decay * s, 0)
    bits = tl.log2(total)
    tl.store(log_normalisers + row, (bits + whole * scale) * _NATS)
    entropy = (bits - total_t / total) * _NATS
    tl.store(entropies + row, tl.where(entropy < 0.0, 0.0, entropy))


def row_values(
    logits: torch.Tensor, temperature: "float | torch.Tensor | None"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log normalisers and entropies, float32 ``[R]``, nats; NaN where a logit is NaN or +inf.

    Args:
        logits: ``[R, V]``.
        temperature: Divides the logits; a number, or one a row ``[R]``.
    """
    logits = logits if logits.stride(1) == 1 else logits.contiguous()
    found = torch.empty((2, len(logits)), dtype=torch.float32, device=logits.device)
    scale: Any = BITS / (1.0 if temperature is None else temperature)
    has_scales = isinstance(scale, torch.Tensor)
    _row_kernel[(len(logits),)](
        logits,
        scale if has_scales else found,
        found[0],
        found[1],
        logits.shape[1],
        logits.stride(0),
        1.0 if has_scales else scale,
        HAS_SCALES=has_scales,
        LANES=LANES,
        num_warps=NUM_WARPS,
    )
    return found[0], found[1]
