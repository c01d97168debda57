"""Token entropy: exact from logits, bounded or estimated where only top-k logprobs are known.

All in nats at the sampling temperature. The mean ``-logprob`` of sampled tokens is an estimate
of entropy only if they were sampled from the distribution that scored them; it is called
``sampled_nll`` everywhere and never entropy. Smaller entropy is riskier, but entropy alone is
no evidence of usefulness: uniform noise has plenty.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import entr, logsumexp

from mlflow_rlrisk.errors import ConfigError, StatisticsError
from mlflow_rlrisk.plurals import counted
from mlflow_rlrisk.statistics.counts import (
    FloatVector,
    IntVector,
    as_counts,
    check_at_least,
    finite_array,
)
from mlflow_rlrisk.statistics.ragged import Ragged

MASS_TOLERANCE = 1e-5
"""How far float32 probabilities may break a law (sum to 1, tail below the top) before it is
called an error; rounding of 20 float32 logprobs stays an order of magnitude below."""


class Tail(NamedTuple):
    """What lies outside the top-k tokens of each position, each of shape ``[...]``."""

    mass: FloatVector
    """Probability outside the top k."""
    lower: FloatVector
    """Smallest possible sum of ``-q ln q`` over it, in nats."""
    upper: FloatVector
    """Largest possible sum, in nats."""


def entropy_from_logits(
    logits: npt.ArrayLike,
    temperature: float = 1.0,
    *,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
) -> FloatVector:
    """Exact entropy of the softmax over the last axis, in float64.

    With ``top_k``, ``top_p`` or ``min_p`` the entropy of the truncated, renormalised distribution,
    which is the one a truncating sampler explores (in this order, as transformers applies them).

    Args:
        logits: Shape ``[..., V]``; ``-inf`` marks tokens that cannot occur.
        temperature: Divides the logits, above 0.
        top_k: Keep the k most likely tokens; 0 keeps all.
        top_p: Keep the smallest set of most likely tokens with at least this mass.
        min_p: Keep tokens at least this share as likely as the likeliest.

    Returns:
        Entropies in nats, between 0 and ``ln V``, shape ``[...]``.

    Raises:
        StatisticsError: A logit is NaN or ``+inf``, a position has no possible token, or there
            is no vocabulary axis.
        ConfigError: A setting is out of range.

    >>> entropy_from_logits([[0.0, 0.0], [0.0, -np.inf]]).round(4)
    array([0.6931, 0.    ])
    """
    log_probs = _log_softmax(logits, temperature)
    if check_at_least("top_k", top_k, 0) or top_p != 1.0 or min_p != 0.0:
        log_probs = _truncated(log_probs, top_k, top_p, min_p)
    return np.asarray(np.sum(entr(np.exp(log_probs)), axis=-1))


def entropy_temperature_slope(logits: npt.ArrayLike, temperature: float = 1.0) -> FloatVector:
    """Slope of the entropy in the temperature, ``Var(logits) / temperature**3``; never negative.

    Args:
        logits: Shape ``[..., V]``, finite.
        temperature: Where the slope is taken, above 0.

    Returns:
        Nats per unit of temperature, shape ``[...]``.

    Raises:
        StatisticsError: A logit is not finite.
        ConfigError: ``temperature`` is not positive.

    >>> entropy_temperature_slope([1.0, 1.0])
    array(0.)
    """
    log_probs = _log_softmax(finite_array("logits", logits), temperature)
    probs = np.exp(log_probs)
    # Those of `logits / temperature` but for a constant; what has no mass has no part in it.
    scaled = np.where(probs > 0.0, log_probs, 0.0)
    mean = np.sum(probs * scaled, axis=-1, keepdims=True)
    return np.asarray(np.sum(probs * (scaled - mean) ** 2, axis=-1) / temperature)


def token_entropy_bounds(
    top_probs: npt.ArrayLike, vocab_size: int
) -> tuple[FloatVector, FloatVector]:
    """Guaranteed bounds of the entropy when only the top-k probabilities are known.

    The mass outside the top k is spread evenly for the upper bound, and packed into as few
    tokens as may hold it for the lower one, none more likely than the k-th. Both are attained.

    Args:
        top_probs: The k largest probabilities, largest first, shape ``[..., K]``.
        vocab_size: Vocabulary size ``V >= K``.

    Returns:
        ``(lower, upper)`` in nats, each of shape ``[...]``.

    Raises:
        StatisticsError: The probabilities are no top k of a distribution over ``V`` tokens.
        ConfigError: ``vocab_size < K``.

    >>> [round(float(end), 4) for end in token_entropy_bounds([0.6, 0.2, 0.1], 10)]
    [1.0889, 1.2835]
    """
    probs, tail = _top_and_tail(top_probs, vocab_size)
    head = np.sum(entr(probs), axis=-1)
    return np.asarray(head + tail.lower), np.asarray(head + tail.upper)


def control_variate_entropy(
    top_probs: npt.ArrayLike,
    sampled_in_top: npt.ArrayLike,
    sampled_logprob: npt.ArrayLike,
    vocab_size: int,
) -> FloatVector:
    """Unbiased entropy estimate from the top-k probabilities and the sampled token's logprob.

    ``sum_top(-p ln p) + r a + [y not in top] (-ln p(y) - a)`` with the tail mass ``r`` and
    ``a`` the middle of the tail's bounds per unit of mass. Unbiased because ``a`` does not
    depend on the token ``y``; its variance is a fraction of that of ``-ln p(y)``. Single values
    are not clipped to the bounds: that would bias the mean.

    Args:
        top_probs: The k largest probabilities, largest first, shape ``[..., K]``.
        sampled_in_top: Whether the sampled token is among them, shape ``[...]``, boolean.
        sampled_logprob: Its log probability under the same distribution, nats, ``[...]``.
        vocab_size: Vocabulary size ``V >= K``.

    Returns:
        Estimates in nats, shape ``[...]``; average them over positions.

    Raises:
        StatisticsError: The probabilities are no top k, a shape does not fit, a logprob is
            above 0, or a token outside the top k is more likely than what is left for it.
        ConfigError: ``vocab_size < K``.

    >>> control_variate_entropy([0.5, 0.5], True, np.log(0.5), vocab_size=2).round(4)
    np.float64(0.6931)
    """
    probs, tail = _top_and_tail(top_probs, vocab_size)
    in_top = np.asarray(sampled_in_top)
    logprob = finite_array("sampled_logprob", sampled_logprob)
    if in_top.dtype != np.bool_ or in_top.shape != tail.mass.shape or logprob.shape != in_top.shape:
        raise StatisticsError(
            f"sampled_in_top is {in_top.dtype}{in_top.shape}, sampled_logprob {logprob.shape}: "
            f"need one boolean and one number for each of {tail.mass.shape}"
        )
    if (logprob > MASS_TOLERANCE).any():
        raise StatisticsError(f"sampled_logprob={logprob.max()}: at most 0")
    room = np.minimum(tail.mass, probs[..., -1])
    if (~in_top & (np.exp(logprob) > room + MASS_TOLERANCE)).any():
        raise StatisticsError(
            "sampled_logprob: a token outside the top k is more likely than what is left for it"
        )
    has_tail = tail.mass > 0.0
    per_mass = (tail.lower + tail.upper) / (2.0 * np.where(has_tail, tail.mass, 1.0))
    middle = np.where(has_tail, per_mass, 0.0)
    estimate = np.sum(entr(probs), axis=-1) + tail.mass * middle
    return np.asarray(estimate + np.where(in_top, 0.0, -logprob - middle))[()]


def sampled_nll(logprobs: Sequence[npt.ArrayLike]) -> FloatVector:
    """Mean ``-logprob`` of the sampled tokens of each rollout, nats per token, shape ``[R]``.

    An unbiased entropy estimate only under untruncated sampling at the scoring temperature.

    Args:
        logprobs: Log probabilities of each rollout's tokens, ``R`` sequences.

    Raises:
        StatisticsError: A rollout has no token, or a logprob is above 0 or not finite.

    >>> sampled_nll([[-1.0, -3.0]])
    array([2.])
    """
    tokens = Ragged.of("logprobs", logprobs)
    if tokens.flat.size and tokens.flat.max() > MASS_TOLERANCE:
        raise StatisticsError(f"logprobs holds {tokens.flat.max()}: at most 0")
    return -_row_means(tokens, "logprobs")


def token_mean(entropies: Sequence[npt.ArrayLike]) -> float:
    """Mean over all tokens: long rollouts count more (TRL's ``entropy``).

    Args:
        entropies: Token entropies of each rollout, ``R`` sequences, nats.

    Raises:
        StatisticsError: A rollout has no token, or an entropy is negative or not finite.

    >>> token_mean([[1.0, 1.0], [0.0] * 8])
    0.2
    """
    tokens = _entropies(entropies)
    return float(tokens.flat.sum() / tokens.flat.size)


def sequence_means(entropies: Sequence[npt.ArrayLike]) -> FloatVector:
    """Mean token entropy of each rollout, shape ``[R]``. Arguments are those of `token_mean`.

    >>> sequence_means([[1.0, 1.0], [0.0] * 8])
    array([1., 0.])
    """
    return _row_means(_entropies(entropies), "entropies")


def sequence_mean(entropies: Sequence[npt.ArrayLike]) -> float:
    """Mean over rollouts of their mean: each rollout counts once (Cui et al. 2025).

    Arguments and errors are those of `token_mean`.

    >>> sequence_mean([[1.0, 1.0], [0.0] * 8])
    0.5
    """
    return float(sequence_means(entropies).mean())


def prompt_mean(entropies: Sequence[npt.ArrayLike], prompt_index: npt.ArrayLike) -> float:
    """Mean over prompts of their `sequence_mean`: each prompt counts once. The canonical one.

    Args:
        entropies: Token entropies of each rollout, ``R`` sequences, nats.
        prompt_index: Prompt of each rollout, shape ``[R]``, integers from 0 without a gap.

    Raises:
        StatisticsError: A rollout has no token, the lengths differ, or a prompt has no rollout.

    >>> prompt_mean([[1.0], [0.0], [0.0]], [0, 1, 1])
    0.5
    """
    means = sequence_means(entropies)
    prompts: IntVector = as_counts("prompt_index", prompt_index)
    if prompts.shape != means.shape:
        raise StatisticsError(f"prompt_index has shape {prompts.shape}, rollouts {means.shape}")
    sizes = np.bincount(prompts)
    if (sizes == 0).any():
        raise StatisticsError(
            f"prompt_index: prompt {np.flatnonzero(sizes == 0)[0]} has no rollout"
        )
    return float((np.bincount(prompts, weights=means) / sizes).mean())


def _entropies(entropies: Sequence[npt.ArrayLike]) -> Ragged:
    tokens = Ragged.of("entropies", entropies)
    if tokens.flat.size and tokens.flat.min() < 0.0:
        raise StatisticsError(f"entropies holds {tokens.flat.min()}: at least 0")
    _require_tokens(tokens, "entropies")
    return tokens


def _row_means(tokens: Ragged, name: str) -> FloatVector:
    _require_tokens(tokens, name)
    return np.asarray(tokens.sums(tokens.flat) / tokens.lengths)


def _require_tokens(tokens: Ragged, name: str) -> None:
    if (tokens.lengths == 0).any():
        first = int(np.flatnonzero(tokens.lengths == 0)[0])
        raise StatisticsError(f"{name}: rollout {first} has no token; a stop token counts")


def _log_softmax(logits: npt.ArrayLike, temperature: float) -> FloatVector:
    if not 0.0 < temperature < np.inf:
        raise ConfigError("temperature", temperature, "must be positive and finite")
    try:
        values = np.asarray(logits, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise StatisticsError(f"logits is not an array of numbers: {error}") from error
    if values.ndim == 0 or values.shape[-1] == 0:
        raise StatisticsError(f"logits has shape {values.shape}: the last axis is the vocabulary")
    if np.isnan(values).any() or (values == np.inf).any():
        raise StatisticsError("logits holds NaN or +inf")
    highest = values.max(axis=-1, keepdims=True, initial=-np.inf)
    if (highest == -np.inf).any():
        raise StatisticsError("logits: a position has no possible token")
    with np.errstate(over="ignore"):  # a distance beyond float64 is -inf: probability 0
        scaled = (values - highest) / temperature
    return np.asarray(scaled - logsumexp(scaled, axis=-1, keepdims=True))


def _truncated(log_probs: FloatVector, top_k: int, top_p: float, min_p: float) -> FloatVector:
    if not 0.0 < top_p <= 1.0:
        raise ConfigError("top_p", top_p, "must lie in (0, 1]")
    if not 0.0 <= min_p <= 1.0:
        raise ConfigError("min_p", min_p, "must lie in [0, 1]")
    kept = -np.sort(-log_probs, axis=-1)
    if top_k:
        kept = kept[..., :top_k]
        kept = kept - logsumexp(kept, axis=-1, keepdims=True)
    probs = np.exp(kept)
    mass_before = np.cumsum(probs, axis=-1) - probs
    kept = np.where((mass_before < top_p) & (probs >= min_p * probs[..., :1]), kept, -np.inf)
    return np.asarray(kept - logsumexp(kept, axis=-1, keepdims=True))


def _top_and_tail(top_probs: npt.ArrayLike, vocab_size: int) -> tuple[FloatVector, Tail]:
    probs = finite_array("top_probs", top_probs)
    if probs.ndim == 0 or probs.size == 0:
        raise StatisticsError(f"top_probs has shape {probs.shape}: needs [..., K] with K >= 1")
    num_outside = check_at_least("vocab_size", vocab_size, probs.shape[-1]) - probs.shape[-1]
    if (probs < 0.0).any() or (np.diff(probs, axis=-1) > MASS_TOLERANCE).any():
        raise StatisticsError("top_probs must be at least 0 and sorted, largest first")
    cap = probs[..., -1]
    mass = 1.0 - np.sum(probs, axis=-1)
    if (mass < -MASS_TOLERANCE).any():
        raise StatisticsError(f"top_probs sums to {1.0 - mass.min()}: at most 1")
    if (mass > num_outside * cap + MASS_TOLERANCE).any():
        raise StatisticsError(
            f"top_probs leaves mass {mass.max()} to "
            f"{counted(num_outside, 'token that is', 'tokens that are')} no more likely "
            "than the last: not the top of a distribution over vocab_size tokens"
        )
    probs = np.minimum(probs, 1.0)  # a rounded 1 + 1e-6 has an entropy below 0
    mass = np.where(mass > 0.0, np.minimum(mass, num_outside * cap), 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        full = np.where(mass > 0.0, np.floor(mass / cap), 0.0)
    rest = np.maximum(mass - full * cap, 0.0)
    lower = full * entr(cap) + entr(rest)
    upper = entr(mass) + mass * np.log(max(num_outside, 1))
    return probs, Tail(mass, lower, np.maximum(upper, lower))
