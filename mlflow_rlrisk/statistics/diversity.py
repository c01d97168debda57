"""How many different answers a prompt gets, from the multiplicities of the answers alone.

``counts`` is everywhere one sequence for each prompt: how often each distinct answer occurred
among its rollouts, in any order. Smaller diversity is riskier: a group whose members all say the
same has no reward difference, whatever the reward is.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from mlflow_rlrisk.errors import ConfigError, StatisticsError
from mlflow_rlrisk.statistics.counts import FloatVector, IntVector, check_at_least
from mlflow_rlrisk.statistics.passk import pass_at_k
from mlflow_rlrisk.statistics.ragged import Ragged, require_lengths

EntropyMethod = Literal["plugin", "miller_madow", "chao_shen"]


def collision(counts: Sequence[npt.ArrayLike]) -> FloatVector:
    """Chance that two different rollouts of a prompt give the same answer. Larger is riskier.

    ``sum_a m_a(m_a - 1) / (n(n - 1))``, unbiased (Simpson 1949). Of exact texts it is the
    duplicate rate.

    Args:
        counts: Multiplicities of the distinct answers of each prompt, ``P`` sequences.

    Returns:
        Probabilities, shape ``[P]``.

    Raises:
        InsufficientRolloutsError: A prompt has fewer than 2 answers.
        StatisticsError: A multiplicity is negative or no integer.

    >>> collision([[2, 2], [4]]).round(4)
    array([0.3333, 1.    ])
    """
    multiplicity, totals, answers = _multiplicities(counts)
    require_lengths(totals, 2, "collision")
    count = totals.astype(np.float64)  # a product of two may be too large for an integer
    pairs_equal = answers.sums(multiplicity * (multiplicity - 1.0))
    return np.asarray(pairs_equal / (count * (count - 1.0)))


def agreement(
    right: Sequence[npt.ArrayLike], counts: Sequence[npt.ArrayLike]
) -> tuple[FloatVector, FloatVector]:
    """Chance that two different rollouts give the same right answer, and the same answer at all.

    Their ratio, over sums of many prompts, is how often agreement is right. Where a policy knows
    something its rollouts agree on right answers more often than one of them is right; where it
    guesses they do not. Larger is safer.

    Args:
        right: Multiplicities of the distinct right answers of each prompt, ``P`` sequences.
        counts: Those of all its distinct answers, right or wrong.

    Returns:
        Both chances, shape ``[P]``, each unbiased (Simpson 1949).

    Raises:
        InsufficientRolloutsError: A prompt has fewer than 2 answers.
        StatisticsError: A multiplicity is negative or no integer, or there are more right answers
            than answers.

    >>> agreement([[2], [3]], [[2, 2], [3, 1]])
    (array([0.16666667, 0.5       ]), array([0.33333333, 0.5       ]))
    """
    any_answer = collision(counts)
    multiplicity, num_right, answers = _multiplicities(right)
    totals = _multiplicities(counts)[1]
    if num_right.shape != totals.shape or (num_right > totals).any():
        raise StatisticsError("right: more right answers or other prompts than counts has")
    pairs = answers.sums((multiplicity * (multiplicity - 1)).astype(np.float64))
    return np.asarray(pairs / (totals * (totals - 1))), any_answer


def rarefied_distinct(counts: Sequence[npt.ArrayLike], m: int) -> FloatVector:
    """Expected number of different answers among ``m`` rollouts of a prompt.

    ``sum_a [1 - C(n - m_a, m) / C(n, m)]``, unbiased for ``m <= n`` (Hurlbert 1971). At the
    group size it says how many answers a training group will hold; near 1 is risky.

    Args:
        counts: Multiplicities of the distinct answers of each prompt, ``P`` sequences.
        m: Rollouts drawn, at least 1.

    Returns:
        Expected counts between 1 and ``m``, shape ``[P]``.

    Raises:
        InsufficientRolloutsError: A prompt has fewer than ``m`` answers.
        StatisticsError: A multiplicity is negative or no integer.
        ConfigError: ``m < 1``.

    >>> rarefied_distinct([[2, 2], [4]], m=2).round(4)
    array([1.6667, 1.    ])
    """
    drawn = check_at_least("m", m, 1)
    multiplicity, totals, answers = _multiplicities(counts)
    require_lengths(totals, drawn, f"distinct answers of {drawn}")
    return answers.sums(pass_at_k(multiplicity, totals[answers.row], drawn))


def correct_diversity(correct_counts: Sequence[npt.ArrayLike], at_most: int = 4) -> FloatVector:
    """Different correct solutions among ``min(at_most, c)`` correct rollouts of a prompt.

    Tells useful diversity from noise: entropy that rises while this falls is no gain. Smaller
    is riskier. Prompts with fewer than 2 correct rollouts have none; leave them out and say so.

    Args:
        correct_counts: Multiplicities of the distinct correct solutions, ``P`` sequences.
        at_most: Largest number of rollouts compared, at least 2.

    Returns:
        Expected counts, shape ``[P]``.

    Raises:
        InsufficientRolloutsError: A prompt has fewer than 2 correct rollouts.
        StatisticsError: A multiplicity is negative or no integer.
        ConfigError: ``at_most < 2``.

    >>> correct_diversity([[1, 1], [8]])
    array([2., 1.])
    """
    largest = check_at_least("at_most", at_most, 2)
    _, totals, _ = _multiplicities(correct_counts)
    require_lengths(totals, 2, "correct_diversity")
    drawn = np.minimum(totals, largest)
    result = np.empty(totals.size)
    for m in np.unique(drawn).tolist():
        rows = np.flatnonzero(drawn == m)
        result[rows] = rarefied_distinct([correct_counts[row] for row in rows.tolist()], m)
    return result


def answer_entropy(
    counts: Sequence[npt.ArrayLike], method: EntropyMethod = "chao_shen"
) -> FloatVector:
    """Entropy of a prompt's answer distribution, in nats. Smaller is riskier.

    ``plugin`` is biased low by about ``(K - 1)/(2n)``; ``miller_madow`` adds that back;
    ``chao_shen`` (2003) weights by Good-Turing coverage and is the one for ``n < 64``. When
    every answer occurs once the coverage would be 0; one of them is then counted as covered.

    Args:
        counts: Multiplicities of the distinct answers of each prompt, ``P`` sequences.
        method: The estimator.

    Returns:
        Entropies in nats, shape ``[P]``.

    Raises:
        InsufficientRolloutsError: A prompt has no answer.
        StatisticsError: A multiplicity is negative or no integer.
        ConfigError: The method is unknown.

    >>> answer_entropy([[8, 8], [3]], method="plugin").round(4)
    array([0.6931, 0.    ])
    """
    multiplicity, totals, answers = _multiplicities(counts)
    require_lengths(totals, 1, "answer_entropy")
    share = multiplicity / totals[answers.row]
    if method == "chao_shen":
        coverage = _coverage(multiplicity, totals, answers)
        covered = coverage[answers.row] * share
        seen = -np.expm1(totals[answers.row] * np.log1p(-np.minimum(covered, _BELOW_ONE)))
        return answers.sums(-covered * np.log(covered) / seen)
    plugin = answers.sums(-share * np.log(share))
    if method == "plugin":
        return plugin
    if method == "miller_madow":
        return np.asarray(plugin + (answers.lengths - 1) / (2 * totals))
    raise ConfigError("method", method, "must be plugin, miller_madow or chao_shen")


def answer_coverage(counts: Sequence[npt.ArrayLike]) -> FloatVector:
    """Good-Turing share of the answer distribution that was seen at all: ``1 - f_1/n``.

    Low coverage says that more rollouts would bring more answers. Arguments and errors are
    those of `answer_entropy`.

    >>> answer_coverage([[8, 4, 2, 1, 1]])
    array([0.875])
    """
    multiplicity, totals, answers = _multiplicities(counts)
    require_lengths(totals, 1, "answer_coverage")
    return np.asarray(1.0 - answers.sums((multiplicity == 1).astype(np.float64)) / totals)


def majority_share(counts: Sequence[npt.ArrayLike]) -> FloatVector:
    """Share of a prompt's rollouts that give its most frequent answer. Larger is riskier.

    Arguments and errors are those of `answer_entropy`.

    >>> majority_share([[3, 1], [2]])
    array([0.75, 1.  ])
    """
    multiplicity, totals, answers = _multiplicities(counts)
    require_lengths(totals, 1, "majority_share")
    largest = np.zeros(totals.size, dtype=np.int64)
    np.maximum.at(largest, answers.row, multiplicity)
    return np.asarray(largest / totals)


_BELOW_ONE = float(np.nextafter(1.0, 0.0))
"""log1p(-1) has no finite value; full coverage by one answer is seen for certain either way."""


def _multiplicities(counts: Sequence[npt.ArrayLike]) -> tuple[IntVector, IntVector, Ragged]:
    """Positive multiplicities ``[K of all prompts]``, their sum ``[P]``, and the layout."""
    laid = Ragged.of("counts", counts)
    whole = laid.flat.astype(np.int64)
    wrong = np.flatnonzero((whole != laid.flat) | (laid.flat < 0))
    if wrong.size:
        raise StatisticsError(
            f"counts of prompt {laid.row[wrong[0]]} holds {laid.flat[wrong[0]]}: "
            "multiplicities are integers of at least 0"
        )
    occurs = whole > 0
    row = laid.row[occurs]
    lengths = np.bincount(row, minlength=laid.num_rows).astype(np.int64, copy=False)
    answers = Ragged(laid.flat[occurs], lengths, row)
    totals = answers.sums(answers.flat).astype(np.int64)
    return whole[occurs], totals, answers


def _coverage(multiplicity: IntVector, totals: IntVector, answers: Ragged) -> FloatVector:
    singles = answers.sums((multiplicity == 1).astype(np.float64))
    singles = np.where(singles == totals, totals - 1, singles)
    return np.asarray(1.0 - singles / totals)
