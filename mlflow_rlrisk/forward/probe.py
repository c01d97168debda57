"""A few tokens through a model before it is trusted: does it run, and is it causal?

It is asked of every model that is sampled or scored, so it must stay a handful of short passes,
and rounding must never refuse a healthy one.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mlflow_rlrisk.errors import CheckpointError, RLRiskError, SamplerError

if TYPE_CHECKING:
    import torch

PROBE_TOKENS = 8
"""Tokens of a probe; a model of fewer positions is probed with as many as it has."""

LARGEST_DISTANCE = 0.1
"""Mean difference of log-probabilities (nats) of a model in float32; the faults are above 1."""
LARGEST_ROUNDED_DISTANCE = 0.5
"""The same where weights are rounded or quantized: batches round otherwise, experts may flip."""


@contextmanager
def refusing(name: str, fault: str) -> Iterator[None]:
    """Name the model where it fails on a probe, whatever it raises.

    Args:
        name: The model, for messages.
        fault: What follows from a failure, such as ``cannot be sampled``.

    Raises:
        CheckpointError: The model failed.
        SamplerError: Memory ran out.
    """
    import torch

    try:
        yield
    except RLRiskError:
        raise
    except torch.OutOfMemoryError as error:
        raise SamplerError(f"{name}: no memory for a probe of {PROBE_TOKENS} tokens") from error
    except Exception as error:
        shown = f"{type(error).__name__}: {error}"
        raise CheckpointError(f"{name}: {fault}: {shown}") from error


def probe_ids(model: Any) -> "torch.Tensor":
    """Tokens from all over the vocabulary, ``[T]``, no more than the model has positions."""
    import torch

    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    size = min(PROBE_TOKENS, limit) if isinstance(limit, int) and limit > 0 else PROBE_TOKENS
    places = 2 * torch.arange(size, device=model.device) + 1
    return places * _num_words(model) // (2 * size)


def largest_distance(model: Any) -> float:
    """The `distance` that rounding explains in this model."""
    import torch

    is_rounded = any(each.dtype != torch.float32 for each in model.parameters())
    return LARGEST_ROUNDED_DISTANCE if is_rounded else LARGEST_DISTANCE


def distance(logits: "torch.Tensor", others: "torch.Tensor") -> float:
    """Mean absolute difference of log-probabilities (nats); words that are never drawn left out.

    NaN where nothing can be compared.
    """
    import torch

    apart = torch.log_softmax(logits.float(), dim=-1) - torch.log_softmax(others.float(), dim=-1)
    return float(apart[apart.isfinite()].abs().mean())


def rotary_switch(config: Any) -> int | None:
    """Tokens beyond which a model of LongRoPE (Phi-3 and its kin) turns all positions otherwise.

    The longest row of a forward pass decides for all of them, and keys that were kept stay as they
    were: only rows on one side of it may share a pass, and none may cross it while it is decoded.
    """
    given = getattr(config.get_text_config(), "rope_parameters", None) or {}
    kinds = [each for each in (given, *given.values()) if isinstance(each, dict)]
    switches = [
        each["original_max_position_embeddings"]
        for each in kinds
        if each.get("rope_type") == "longrope"
    ]
    return min(switches, default=None)


def refuse_acausal(model: Any, name: str) -> None:
    """Check that what comes later in a text does not change what was predicted before.

    A head that computes the last position only leaves nothing to compare, and nothing is.

    Raises:
        CheckpointError: The model attends to what follows, as encoders do.
    """
    import torch

    ids = probe_ids(model)
    kept = len(ids) // 2
    other = torch.cat([ids[:kept], (ids[kept:] + _num_words(model) // 2) % _num_words(model)])
    with torch.inference_mode():
        logits = model(input_ids=torch.stack([ids, other]), use_cache=False).logits
    if logits.shape[1] != len(ids):
        return
    moved = distance(logits[0, :kept], logits[1, :kept])
    if moved > largest_distance(model):
        raise CheckpointError(
            f"{name}: its predictions depend on the tokens that follow (log-probabilities move by "
            f"{moved:.2g} nats): it is no causal language model and cannot be sampled or scored"
        )


def _num_words(model: Any) -> int:
    return int(model.get_input_embeddings().weight.shape[0])
