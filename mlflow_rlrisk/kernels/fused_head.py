"""Exact logprobs and entropies straight from hidden states, in memory that is flat in T and V."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlflow_rlrisk.errors import ConfigError, SamplerError
from mlflow_rlrisk.kernels.fold import EagerFold, Fold, compiled_fold, finish
from mlflow_rlrisk.kernels.logit_shape import LogitShape
from mlflow_rlrisk.kernels.products import TileProduct, choose_route, float32_products
from mlflow_rlrisk.kernels.triton_route import triton_statistics, triton_works

if TYPE_CHECKING:
    import torch

TOKENS_PER_TILE = 1024
"""Fewer tokens read the weights too often, more gain nothing."""

WORDS_PER_TILE = 2048
"""Of few tokens; of many, as many words as fit into `LOGITS_PER_TILE`."""

LOGITS_PER_TILE = 2**20
"""Float32 logits that exist at a time, 4 MB."""

LARGEST_COPY = 2**22
"""Float32 weights copied at a time, 16 MB: wide models get narrower tiles."""

COMPILE_ABOVE = 2_000_000_000
"""Logits from which compiling, 2-4 s once, is cheaper than the 1.5 ns each that it saves."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TokenStatistics:
    """Float32 ``[T]``, nats; entropies are at least 0 and at most ``log V`` up to rounding.

    Attributes:
        logprobs: Log probability of each target; -inf for a target that is masked.
        entropies: Entropy of each next-token distribution.
    """

    logprobs: "torch.Tensor"
    entropies: "torch.Tensor"


def token_statistics(
    hidden: "torch.Tensor",
    weight: "torch.Tensor",
    targets: "torch.Tensor",
    *,
    bias: "torch.Tensor | None" = None,
    temperature: float = 1.0,
    softcap: float | None = None,
    scale: float = 1.0,
    vocab_size: int | None = None,
    is_compiled: bool | None = None,
    total_tokens: int | None = None,
) -> TokenStatistics:
    """Log probability of each target and entropy of its distribution, without a gradient.

    The logits are ``softcap * tanh(scale * (hidden @ weight.T + bias) / softcap) / temperature``.

    Args:
        hidden: Final hidden states, float32, bfloat16 or float16, shape ``[T, H]``.
        weight: Weights of the output head, one of these dtypes, shape ``[V, H]``.
        targets: Token ids, integers, shape ``[T]``.
        bias: Added to the logits, shape ``[V]``; -inf masks a word (not under a softcap).
        temperature: Divides the logits.
        softcap: Bound of the logits before the temperature, where the architecture has one.
        scale: Factor of the logits, where the architecture has one.
        vocab_size: Words that exist: rows of ``weight`` beyond are padding and get no mass.
        is_compiled: Whether PyTorch's reduction runs compiled. Left out, the Triton kernel runs
            where there is one, and PyTorch's elsewhere, compiled if there is enough to do.
        total_tokens: Tokens of all calls with this head, where this is one of several.

    Raises:
        SamplerError: A hidden state of a token is not finite, a logit is NaN or +inf, or all its
            words are masked. The first such token is named.
        ConfigError: A shape, dtype, device, target or setting does not fit.
    """
    import torch

    num_words = len(weight) if vocab_size is None else vocab_size
    _check_operands(hidden, weight, targets, bias, num_words)
    _check_settings(temperature, softcap, scale)
    if softcap is not None and bias is not None and bool((bias == -torch.inf).any()):
        raise ConfigError("softcap", softcap, "needs a bias without -inf: it would unmask the word")
    shape = LogitShape(
        bias=None if bias is None else bias.float(),
        scale=scale,
        softcap=softcap,
        temperature=temperature,
    )
    with torch.no_grad():
        if is_compiled is None and len(hidden) and triton_works(hidden, weight):
            found = triton_statistics(hidden, weight, targets, shape, num_words)
        else:
            is_large = max(len(hidden), total_tokens or 0) * num_words >= COMPILE_ABOVE
            wants = (is_large if is_compiled is None else is_compiled) and len(hidden) > 0
            fold = compiled_fold(hidden.device.type) if wants else None
            # Only a bias masks words; without one -inf is an overflow, and must not pass for one.
            fold = fold or EagerFold(is_masked=bias is not None)
            found = _tiled_statistics(hidden, weight, targets, shape, fold, num_words)
    logprobs, entropies = found
    # An infinite hidden state can give nothing but -inf, which would pass for a mask.
    for start in range(0, len(hidden), TOKENS_PER_TILE):
        block = slice(start, start + TOKENS_PER_TILE)
        entropies[block].masked_fill_(~torch.isfinite(hidden[block]).all(dim=1), torch.nan)
    _require_finite(entropies, logprobs)
    return TokenStatistics(logprobs=logprobs, entropies=entropies)


def _tiled_statistics(
    hidden: "torch.Tensor",
    weight: "torch.Tensor",
    targets: "torch.Tensor",
    shape: LogitShape,
    fold: Fold,
    num_words: int,
) -> tuple["torch.Tensor", "torch.Tensor"]:
    import torch

    logprobs = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
    entropies = torch.empty_like(logprobs)
    route = choose_route(hidden, weight)
    tokens = min(TOKENS_PER_TILE, len(hidden))
    fitting = min(WORDS_PER_TILE, LOGITS_PER_TILE // max(tokens, 1), num_words)
    words = min(fitting, max(256, LARGEST_COPY // weight.shape[1]))
    with float32_products(route):
        product = TileProduct(weight, route, tokens, words)
        for start in range(0, len(hidden), TOKENS_PER_TILE):
            block = slice(start, start + TOKENS_PER_TILE)
            operand = product.operand(hidden[block])
            logprobs[block], entropies[block] = _block_statistics(
                product, operand, targets[block], shape, fold, range(0, num_words, words), num_words
            )
    return logprobs, entropies


def _block_statistics(
    product: TileProduct,
    operand: "torch.Tensor",
    targets: "torch.Tensor",
    shape: LogitShape,
    fold: Fold,
    starts: range,
    num_words: int,
) -> tuple["torch.Tensor", "torch.Tensor"]:
    import torch

    s = torch.zeros(len(operand), dtype=torch.float32, device=operand.device)
    m, t = torch.full_like(s, -torch.inf), torch.zeros_like(s)
    chosen = torch.full_like(s, -torch.inf)
    for start in starts:
        stop = min(start + starts.step, num_words)
        logits = shape.apply(product(operand, start, stop), start, stop)
        is_here = (targets >= start) & (targets < stop)
        local = (targets - start).clamp(0, stop - start - 1)
        here = logits.gather(1, local[:, None])[:, 0]
        chosen = torch.where(is_here, here, chosen)
        m, s, t = fold(logits, m, s, t)
    return finish(m, s, t, chosen)


def _check_operands(
    hidden: "torch.Tensor",
    weight: "torch.Tensor",
    targets: "torch.Tensor",
    bias: "torch.Tensor | None",
    num_words: int,
) -> None:
    import torch

    narrow = (torch.float32, torch.bfloat16, torch.float16)
    if weight.ndim != 2 or weight.dtype not in narrow or 0 in weight.shape:
        raise ConfigError("weight", (weight.dtype, *weight.shape), "needs [V, H] in 16 or 32 bits")
    if hidden.ndim != 2 or hidden.dtype not in narrow or hidden.shape[1] != weight.shape[1]:
        need = f"needs [T, {weight.shape[1]}] in 16 or 32 bits"
        raise ConfigError("hidden", (hidden.dtype, *hidden.shape), need)
    if not 1 <= num_words <= len(weight):
        raise ConfigError("vocab_size", num_words, f"must lie in 1..{len(weight)}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ConfigError("bias", tuple(bias.shape), f"needs [{len(weight)}]")
    if targets.shape != hidden.shape[:1] or targets.dtype not in (torch.int64, torch.int32):
        need = f"needs [{len(hidden)}] integers"
        raise ConfigError("targets", (targets.dtype, *targets.shape), need)
    devices = {str(each.device) for each in (hidden, weight, targets, bias) if each is not None}
    if len(devices) > 1:
        raise ConfigError("device", sorted(devices), "all operands must be on one")
    is_word = (targets >= 0) & (targets < num_words)
    if not bool(is_word.all()):
        first = int((~is_word).nonzero()[0])
        need = f"token {first}: must lie in 0..{num_words - 1}"
        raise ConfigError("targets", int(targets[first]), need)


def _check_settings(temperature: float, softcap: float | None, scale: float) -> None:
    settings = {"temperature": temperature, "softcap": softcap, "scale": scale}
    for name, value in settings.items():
        if value is not None and not 0.0 < value < math.inf:
            raise ConfigError(name, value, "must be positive and finite")


def _require_finite(entropies: "torch.Tensor", logprobs: "torch.Tensor") -> None:
    import torch

    is_bad = ~torch.isfinite(entropies) | torch.isnan(logprobs)
    if bool(is_bad.any()):
        first = int(is_bad.nonzero()[0])
        raise SamplerError(
            f"token {first} of {len(entropies)}: hidden states or logits are not finite, "
            "or no word is possible"
        )
