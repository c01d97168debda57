"""The repetition penalty of transformers and vLLM, on logits before temperature and truncation."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def penalised(
    logits: "torch.Tensor", seen: "torch.Tensor", penalty: "float | torch.Tensor"
) -> "torch.Tensor":
    """New logits, in which those of seen words are divided where positive, else multiplied.

    A logit keeps its sign, so that ``1 / penalty`` takes it back.

    Args:
        logits: ``[B, V]``.
        seen: Words of prompt and completion, int64 ``[B, T]``; how often a word stands there makes
            no difference.
        penalty: Above 0; a number, or one a row ``[B, 1]``.
    """
    import torch

    found = logits.gather(1, seen)
    return logits.scatter(1, seen, torch.where(found > 0, found / penalty, found * penalty))
