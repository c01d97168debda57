"""How far the sampling engine's log probabilities are from the trainer's, on the same tokens.

An engine that samples from another distribution than the trainer differentiates makes every
policy gradient off-policy. The names are those that trainers log (verl ``rollout_corr/*``,
ms-swift ``rollout_correction/*``). Risk is distance from what equal distributions give: 1 for
``ess``, ``is_mean`` and ``ppl_ratio``, else 0, to either side for ``kl``, ``log_ppl_diff`` and the
``chi2`` estimates, which may be negative. The two perplexities say nothing by themselves.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mlflow_rlrisk.errors import ConfigError, StatisticsError
from mlflow_rlrisk.plurals import counted
from mlflow_rlrisk.statistics.counts import FloatVector, IntVector
from mlflow_rlrisk.statistics.ragged import Ragged

LARGEST_EXPONENT = 20.0
"""Log ratios are limited to this many nats before ``exp``, so that sums over tokens stay finite:
a `chi2` near ``e^40`` says "at least this much"."""

LOGPROB_TOLERANCE = 1e-6
"""A logprob may be this far above 0 by rounding."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LogprobMismatch:
    """Estimates over ``R`` rollouts; the log ratio is trainer minus sampler, nats a token.

    Attributes:
        kl: ``KL(sampler || trainer)``, mean over tokens of minus the log ratio.
        k3_kl: The same by ``r - ln r - 1`` (Schulman's k3): never negative, less noisy.
        chi2_token: ``mean r^2 - 1`` over tokens.
        chi2_seq_product: ``mean r^2 - 1`` over rollouts, ``r`` the product over tokens (verl).
        chi2_seq_geometric: The same with the geometric mean over tokens (ms-swift).
        log_ppl_diff: Mean over rollouts of the sampler's minus the trainer's mean logprob.
        log_ppl_abs_diff: Mean over rollouts of its absolute value: errors cannot cancel.
        ppl_ratio: Mean over rollouts of the trainer's perplexity over the sampler's, 1 if equal.
        training_ppl: Mean over rollouts of the trainer's perplexity.
        rollout_ppl: Mean over rollouts of the sampler's perplexity.
        ess: Effective share of the tokens, in ``(0, 1]``, of ratios clamped to ``[1/C, C]``.
        is_mean: Mean ratio over tokens, truncated at ``C`` (truncated importance sampling).
        frac_beyond: Share of tokens whose absolute log ratio exceeds ``ln C``. It can fall while
            training collapses: judge by the other figures.
        max_abs: Largest absolute log ratio of a token.
        sequence_log_ppl_diff: ``log_ppl_diff`` of each rollout, ``[R]``.
        sequence_max_abs: ``max_abs`` of each rollout, ``[R]``.
        num_tokens: Tokens compared.
    """

    kl: float
    k3_kl: float
    chi2_token: float
    chi2_seq_product: float
    chi2_seq_geometric: float
    log_ppl_diff: float
    log_ppl_abs_diff: float
    ppl_ratio: float
    training_ppl: float
    rollout_ppl: float
    ess: float
    is_mean: float
    frac_beyond: float
    max_abs: float
    sequence_log_ppl_diff: FloatVector
    sequence_max_abs: FloatVector
    num_tokens: int

    def outliers(self, count: int) -> IntVector:
        """Indices of the ``count`` rollouts that differ most in mean logprob, worst first."""
        worst_first = np.argsort(-np.abs(self.sequence_log_ppl_diff), kind="stable")
        return np.asarray(worst_first[:count])


def logprob_mismatch(
    trainer_logprobs: Sequence[npt.ArrayLike],
    sampler_logprobs: Sequence[npt.ArrayLike],
    *,
    clip: float = 2.0,
) -> LogprobMismatch:
    """Compare two log probabilities of each sampled token, under one temperature.

    Estimators of verl's rollout correction metrics; k3 is Schulman 2020 ("Approximating KL
    divergence"), the truncation Espeholt et al. 2018, arXiv:1802.01561. Their interval is a
    bootstrap over prompts, for tokens of one rollout move together.

    Args:
        trainer_logprobs: Of each rollout's tokens by the trainer's forward pass, nats, ``R``
            sequences.
        sampler_logprobs: Of the same tokens as the engine reported them, the same lengths.
        clip: ``C``, above 1, of ``ess``, ``is_mean`` and ``frac_beyond`` (verl: 2).

    Raises:
        StatisticsError: There is no rollout, one has no token, the lengths differ, or a logprob
            is not finite or above 0.
        ConfigError: ``clip`` is not a finite number above 1.

    >>> round(logprob_mismatch([[-1.0, -0.5]], [[-0.9, -0.5]]).kl, 6)
    0.05
    """
    if not 1.0 < clip < np.inf:
        raise ConfigError("clip", clip, "must be finite and above 1")
    trainer = _logprobs("trainer_logprobs", trainer_logprobs)
    sampler = _logprobs("sampler_logprobs", sampler_logprobs)
    _require_same_lengths(trainer, sampler)
    log_ratio = trainer.flat - sampler.flat
    ratio = _exp(log_ratio)
    sums = trainer.sums(log_ratio)
    means = sums / trainer.lengths
    clamped = np.clip(ratio, 1.0 / clip, clip)
    magnitude = np.abs(log_ratio)
    return LogprobMismatch(
        kl=float(-log_ratio.mean()),
        k3_kl=float((ratio - log_ratio - 1.0).mean()),
        chi2_token=_chi2(log_ratio),
        chi2_seq_product=_chi2(sums),
        chi2_seq_geometric=_chi2(means),
        log_ppl_diff=float(-means.mean()),
        log_ppl_abs_diff=float(np.abs(means).mean()),
        ppl_ratio=float(_exp(-means).mean()),
        training_ppl=_perplexity(trainer),
        rollout_ppl=_perplexity(sampler),
        ess=float(clamped.mean() ** 2 / (clamped**2).mean()),
        is_mean=float(np.minimum(ratio, clip).mean()),
        frac_beyond=float((magnitude > np.log(clip)).mean()),
        max_abs=float(magnitude.max()),
        sequence_log_ppl_diff=-means,
        sequence_max_abs=np.maximum.reduceat(magnitude, trainer.starts),
        num_tokens=int(log_ratio.size),
    )


def mismatch_sums(
    log_ratios: Sequence[Sequence[FloatVector]], *, clip: float = 2.0
) -> dict[str, tuple[FloatVector, FloatVector]]:
    """Per prompt the sums whose ratios are the estimates, for a bootstrap over prompts.

    Args:
        log_ratios: Of each prompt's rollouts the log ratios of its tokens, trainer minus
            sampler, nats, ``P`` prompts of at least one rollout.
        clip: As for `logprob_mismatch`.

    Returns:
        By the name of a `LogprobMismatch` field, numerators and denominators, each ``[P]``.

    >>> ratios = [[np.array([0.5, -0.1])], [np.array([0.0])]]
    >>> mismatch_sums(ratios)["log_ppl_abs_diff"]
    (array([0.2, 0. ]), array([1., 1.]))
    """
    tokens = [np.concatenate(rollouts) for rollouts in log_ratios]
    sums = [np.array([np.sum(each) for each in rollouts]) for rollouts in log_ratios]
    means = [np.array([np.mean(each) for each in rollouts]) for rollouts in log_ratios]
    num_tokens = np.array([float(each.size) for each in tokens])
    num_rollouts = np.array([float(each.size) for each in means])

    def total(*parts: FloatVector) -> FloatVector:
        return np.array([part.sum() for part in parts])

    ratios = [_exp(each) for each in tokens]
    token_sums = {
        "kl": total(*(-each for each in tokens)),
        "k3_kl": total(*(r - each - 1.0 for r, each in zip(ratios, tokens, strict=True))),
        "chi2_token": total(*(r**2 - 1.0 for r in ratios)),
        "is_mean": total(*(np.minimum(r, clip) for r in ratios)),
        "frac_beyond": total(*((np.abs(each) > np.log(clip)) * 1.0 for each in tokens)),
    }
    rollout_sums = {
        "chi2_seq_product": total(*(_exp(each) ** 2 - 1.0 for each in sums)),
        "chi2_seq_geometric": total(*(_exp(each) ** 2 - 1.0 for each in means)),
        "log_ppl_diff": total(*(-each for each in means)),
        "log_ppl_abs_diff": total(*(np.abs(each) for each in means)),
        "ppl_ratio": total(*(_exp(-each) for each in means)),
    }
    return {
        **{name: (each, num_tokens) for name, each in token_sums.items()},
        **{name: (each, num_rollouts) for name, each in rollout_sums.items()},
    }


def _logprobs(name: str, sequences: Sequence[npt.ArrayLike]) -> Ragged:
    tokens = Ragged.of(name, sequences)
    if (tokens.lengths == 0).any():
        first = int(np.flatnonzero(tokens.lengths == 0)[0])
        raise StatisticsError(f"{name}: rollout {first} has no token")
    if tokens.flat.max() > LOGPROB_TOLERANCE:
        raise StatisticsError(f"{name} holds {tokens.flat.max()}: at most 0")
    return tokens


def _require_same_lengths(trainer: Ragged, sampler: Ragged) -> None:
    if trainer.num_rows != sampler.num_rows:
        raise StatisticsError(
            f"trainer_logprobs holds {counted(trainer.num_rows, 'rollout')}, "
            f"sampler_logprobs {sampler.num_rows}: the same ones are needed"
        )
    differs = np.flatnonzero(trainer.lengths != sampler.lengths)
    if differs.size:
        first = int(differs[0])
        raise StatisticsError(
            f"rollout {first}: {trainer.lengths[first]} trainer logprobs and "
            f"{sampler.lengths[first]} sampler logprobs: the same tokens are needed"
        )


def _exp(exponent: FloatVector) -> FloatVector:
    return np.asarray(np.exp(np.clip(exponent, -LARGEST_EXPONENT, LARGEST_EXPONENT)))


def _chi2(log_ratios: FloatVector) -> float:
    return float((_exp(log_ratios) ** 2).mean() - 1.0)


def _perplexity(tokens: Ragged) -> float:
    return float(_exp(-tokens.sums(tokens.flat) / tokens.lengths).mean())
