"""The online softmax: what is kept of each token while tiles of its logits go by.

Of the logits seen so far a token keeps the largest ``m``, ``s = sum exp(z - m)`` and
``t = sum exp(z - m) (z - m)``; then ``logprob = z_y - m - log s`` and ``H = log s - t / s``.
Keeping ``t`` relative to ``m`` loses no digits where logits are large (Milakov and Gimelshein
2018, arXiv:1805.02867, extended to the entropy).
"""

import functools
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from mlflow_rlrisk.kernels.powers_of_two import BITS

if TYPE_CHECKING:
    import torch

Fold = Callable[
    ["torch.Tensor", "torch.Tensor", "torch.Tensor", "torch.Tensor"],
    tuple["torch.Tensor", "torch.Tensor", "torch.Tensor"],
]

LOWEST = -1e4
"""Distance to the maximum, nats, that stands for a masked logit: ``exp`` of it is exactly 0."""

logger = logging.getLogger(__name__)


class EagerFold:
    """The fold as torch operations; overwrites the tile and keeps one buffer of its size."""

    def __init__(self, *, is_masked: bool) -> None:
        """Make the fold.

        Args:
            is_masked: Whether a logit may be -inf. Where none may, a pass over the tile is saved,
                and -inf, an overflow then, ends up as NaN.
        """
        self._is_masked = is_masked
        self._weights: torch.Tensor | None = None

    def __call__(
        self, logits: "torch.Tensor", m: "torch.Tensor", s: "torch.Tensor", t: "torch.Tensor"
    ) -> tuple["torch.Tensor", "torch.Tensor", "torch.Tensor"]:
        """``(m, s, t)`` of ``[T]`` tokens after a tile of logits ``[T, W]``.

        Start with ``m = -inf`` and ``s = t = 0``. NaN and +inf end up as NaN in ``s`` or ``t``.
        """
        import torch

        if self._weights is None or self._weights.numel() < logits.numel():
            self._weights = torch.empty_like(logits).view(-1)
        largest = torch.maximum(m, logits.amax(dim=1))
        shift = largest
        if self._is_masked:  # all masked: -inf minus -inf is NaN
            shift = largest.masked_fill(largest == -torch.inf, 0.0)
        distance = logits.sub_(shift[:, None]).mul_(BITS)
        if self._is_masked:
            distance.clamp_(min=LOWEST)
        gap = (m - shift).clamp(min=LOWEST)
        decay = gap.exp()
        weights = torch.exp2(distance, out=self._weights[: logits.numel()].view(logits.shape))
        new_t = decay * (t + gap * s) + distance.mul_(weights).sum(dim=1) / BITS
        new_s = decay * s + weights.sum(dim=1)
        return largest, new_s, new_t


def _pure_fold_tile(
    logits: "torch.Tensor", m: "torch.Tensor", s: "torch.Tensor", t: "torch.Tensor"
) -> tuple["torch.Tensor", "torch.Tensor", "torch.Tensor"]:
    """`EagerFold` that writes nothing back: compiled, it reads the tile twice and stores sums."""
    import torch

    largest = torch.maximum(m, logits.amax(dim=1))
    shift = torch.where(largest == -torch.inf, 0.0, largest)
    gap = (m - shift).clamp(min=LOWEST)
    decay = gap.exp()
    distance = (logits - shift[:, None]).clamp(min=LOWEST)
    weights = (distance * BITS).exp2()
    new_t = decay * (t + gap * s) + (weights * distance).sum(dim=1)
    new_s = decay * s + weights.sum(dim=1)
    return largest, new_s, new_t


def merge(
    m: "torch.Tensor", s: "torch.Tensor", t: "torch.Tensor"
) -> tuple["torch.Tensor", "torch.Tensor", "torch.Tensor"]:
    """``(m, s, t)`` of ``[T]`` tokens from those of shares of the vocabulary, each ``[S, T]``."""
    import torch

    largest = m.amax(dim=0)
    shift = torch.where(largest == -torch.inf, 0.0, largest)
    gap = (m - shift).clamp(min=LOWEST)
    decay = gap.exp()
    return largest, (decay * s).sum(dim=0), (decay * (t + gap * s)).sum(dim=0)


def finish(
    m: "torch.Tensor", s: "torch.Tensor", t: "torch.Tensor", chosen: "torch.Tensor"
) -> tuple["torch.Tensor", "torch.Tensor"]:
    """Log probabilities of the ``chosen`` logits, and entropies, each ``[T]``, nats."""
    log_s = s.log()
    return chosen - m - log_s, (log_s - t / s).clamp_(min=0.0)


@functools.cache
def compiled_fold(device_type: str) -> Fold | None:
    """The fold as one compiled loop; `None` where there is no compiler for the device.

    The first call of a process takes seconds.
    """
    import torch

    compiled: Fold = torch.compile(_pure_fold_tile, dynamic=True)
    try:
        # Two shapes, neither of size 1, so that sizes stay symbols.
        for num_tokens, width in ((3, 5), (6, 11)):
            start = torch.zeros(num_tokens, device=device_type)
            compiled(torch.zeros(num_tokens, width, device=device_type), start, start, start)
    except (RuntimeError, OSError, ImportError) as error:
        logger.info("the fold of logits runs uncompiled: %s", type(error).__name__)
        return None
    return compiled
