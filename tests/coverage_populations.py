"""Populations of prompts whose true figures are known exactly, and assessments drawn from them.

A population is a weighted list of success probabilities, so fine that a Beta is one. Everything
else about a prompt follows from its success and from independent draws with known means: entropy
is highest where success is undecided, hard prompts run longer and are cut off more often, wrong
answers have a distribution of their own. So every estimand is a finite sum over the list.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special, stats
from scipy.optimize import brentq

from mlflow_rlrisk.records import PromptStatistics

Array = npt.NDArray[np.float64]

GROUP = 8
CRITICAL = float(brentq(lambda p: p**GROUP + (1 - p) ** GROUP - 0.5, 1e-6, 0.4))
NODES = 4000
MAX_NEW_TOKENS = 256
SOLUTIONS = 5
"""Correct solutions of a prompt that has several, all equally likely."""


def _beta(alpha: float, beta: float) -> Array:
    return np.asarray(stats.beta.ppf((np.arange(NODES) + 0.5) / NODES, alpha, beta))


@dataclass(frozen=True, eq=False)
class Population:
    """Prompts with success ``success`` of weight ``weight``.

    Attributes:
        name: What it stands for.
        success: Success probabilities, shape ``[S]``.
        weight: Their shares, shape ``[S]``.
        entropy: Mean entropy of a prompt whose success is 0 or 1 (nats/token), a third of that of
            one whose success is a half.
        entropy_shape: Gamma shape of a prompt's entropy around its mean; small is skewed.
        truncated: Share of the rollouts of an unsolvable prompt that are cut off, over prompts.
        truncated_prompts: Share of prompts of which any is cut off.
        wrong: Probabilities of the wrong answers, given that an answer is wrong.
        several: Share of prompts with several correct solutions.
        is_ragged: Half of the prompts have a quarter of their rollouts without a reward.
    """

    name: str
    success: Array
    weight: Array
    entropy: float = 0.15
    entropy_shape: float = 4.0
    truncated: float = 0.1
    truncated_prompts: float = 0.5
    wrong: tuple[float, ...] = (0.4, 0.2, 0.1, 0.1, 0.05, 0.05, 0.05, 0.05)
    several: float = 0.5
    is_ragged: bool = False

    def mean(self, values: Array) -> float:
        """Mean over prompts of what a prompt of each success has."""
        return float(self.weight @ values)

    def scored(self, num_samples: int) -> tuple[int, ...]:
        """Rollouts with a reward that a prompt has, each with the same chance."""
        return (num_samples, num_samples * 3 // 4) if self.is_ragged else (num_samples,)

    def entropies(self) -> Array:
        return self.entropy * (1.0 + 8.0 * self.success * (1.0 - self.success))

    def lengths(self) -> Array:
        """Mean tokens of a rollout."""
        return 30.0 + 60.0 * (1.0 - self.success)

    def cut_off(self) -> Array:
        return self.truncated * (1.0 - self.success) ** 2 / self.truncated_prompts

    def answers(self) -> Array:
        """Probability of each answer, the correct one first, shape ``[S, K]``."""
        wrong = (1.0 - self.success)[:, None] * np.array(self.wrong)
        return np.concatenate([self.success[:, None], wrong], axis=1)


def _mixture(name: str, *parts: tuple[float, Array], **settings: object) -> Population:
    success = np.concatenate([values for _, values in parts])
    weight = np.concatenate([np.full(v.size, share / v.size) for share, v in parts])
    return Population(name, success, weight / weight.sum(), **settings)  # type: ignore[arg-type]


_ZERO, _ONE = np.zeros(1), np.ones(1)
POPULATIONS = (
    _mixture("balanced, Beta(2, 3)", (1.0, _beta(2.0, 3.0))),
    _mixture("U-shaped, Beta(.5, .5)", (1.0, _beta(0.5, 0.5))),
    _mixture("ragged U-shape", (1.0, _beta(0.5, 0.5)), is_ragged=True),
    _mixture(
        "starved and saturated",
        (0.3, _ZERO),
        (0.2, _ONE),
        (0.5, _beta(1.2, 1.8)),
        entropy_shape=1.5,
    ),
    _mixture(
        "hard, few solved",
        (0.5, _ZERO),
        (0.5, _beta(0.3, 1.5)),
        truncated=0.25,
        entropy=0.1,
        entropy_shape=1.5,
    ),
    _mixture("easy, Beta(4, .6)", (1.0, _beta(4.0, 0.6)), truncated=0.02, truncated_prompts=0.2),
    _mixture(
        "near-collapsed",
        (1.0, _beta(0.1, 0.15)),
        entropy=0.02,
        entropy_shape=1.0,
        truncated=0.02,
        truncated_prompts=0.1,
        wrong=(0.9, 0.1),
        several=0.2,
    ),
)


def truths(population: Population, num_samples: int) -> dict[str, float]:
    """What each metric estimates, by short name.

    With ``num_samples`` rollouts a prompt: posterior shares and the diversity of correct solutions
    depend on it by definition, the others do not. ``<name> (true share)`` is what a posterior
    share would be with endless rollouts.
    """
    p, mean = population.success, population.mean
    entropy, critical = population.entropies(), CRITICAL
    found = {
        "pass_at_1": mean(p),
        "group_signal_fraction": mean(1 - p**GROUP - (1 - p) ** GROUP),
        "frac_all_correct": mean(p**GROUP),
        "frac_all_wrong": mean((1 - p) ** GROUP),
        "expected_group_variance": mean(p * (1 - p)) * (GROUP - 1) / GROUP,
        "headroom": mean(p) / critical,
        "overdispersion": (mean(p * p) - mean(p) ** 2) / (mean(p) * (1 - mean(p))),
        "token_entropy": mean(entropy),
        "sequence_nll": mean(entropy * population.lengths()),
        "truncated_share": mean(population.cut_off()) * population.truncated_prompts,
        "agreement_accuracy": mean(p * p) / mean((population.answers() ** 2).sum(axis=1)),
        "answer_distinct": mean((1 - (1 - population.answers()) ** GROUP).sum(axis=1)),
        "starved_share (true share)": mean((p < critical).astype(float)),
        "saturated_share (true share)": mean((p > 1 - critical).astype(float)),
    }
    found["frac_reward_zero_std"] = 1 - found["group_signal_fraction"]
    for k in (8, 16, 32, 64):
        if k <= min(population.scored(num_samples)):
            found[f"pass_at_{k}"] = mean(1 - (1 - p) ** k)
    found |= _of_counts(population, num_samples)
    return found


def _of_counts(population: Population, num_samples: int) -> dict[str, float]:
    """Estimands that are expectations over the counts of this many rollouts."""

    def expected(per_count: Callable[[Array, int], Array]) -> float:
        sizes = population.scored(num_samples)
        total = 0.0
        for scored in sizes:
            counts = np.arange(scored + 1.0)
            chance = stats.binom.pmf(counts[None, :], scored, population.success[:, None])
            total += population.mean(chance @ per_count(counts, scored)) / len(sizes)
        return total

    def distinct(counts: Array, _: int) -> Array:
        drawn = np.minimum(counts, 4.0)
        several = SOLUTIONS * (1 - (1 - 1 / SOLUTIONS) ** drawn)
        return np.where(counts >= 2, population.several * several + (1 - population.several), 0.0)

    return {
        "starved_share": expected(lambda c, n: special.betainc(c + 0.5, n - c + 0.5, CRITICAL)),
        "saturated_share": expected(lambda c, n: special.betainc(n - c + 0.5, c + 0.5, CRITICAL)),
        "correct_diversity": expected(distinct) / expected(lambda c, _: (c >= 2).astype(float)),
    }


def draw(
    population: Population, num_prompts: int, num_samples: int, rng: np.random.Generator
) -> list[PromptStatistics]:
    """What an assessment of this many prompts and rollouts would have counted."""
    row = rng.choice(population.success.size, size=num_prompts, p=population.weight)
    scored = rng.choice(population.scored(num_samples), size=num_prompts)
    answers = rng.multinomial(scored, population.answers()[row])
    has_several = rng.random(num_prompts) < population.several
    solutions = rng.multinomial(answers[:, 0], np.full(SOLUTIONS, 1 / SOLUTIONS))
    shape = population.entropy_shape
    own = population.entropies()[row] * rng.gamma(shape, 1 / shape, size=num_prompts)
    # Rollouts of a prompt vary too, with a coefficient of variation of a half.
    entropy = own * rng.gamma(4.0 * num_samples, 1 / (4.0 * num_samples), size=num_prompts)
    tokens = num_samples + rng.poisson(num_samples * (population.lengths()[row] - 1.0))
    nll = own * population.lengths()[row] * rng.gamma(2.0 * num_samples, 0.5, size=num_prompts)
    is_long = rng.random(num_prompts) < population.truncated_prompts
    truncated = rng.binomial(num_samples, population.cut_off()[row] * is_long)
    return [
        _prompt(
            place,
            num_samples=num_samples,
            answers=answers[place],
            solutions=solutions[place] if has_several[place] else answers[place, :1],
            entropy=float(entropy[place]),
            num_tokens=int(tokens[place]),
            nll=float(nll[place]),
            num_truncated=int(truncated[place]),
        )
        for place in range(num_prompts)
    ]


def _prompt(
    place: int,
    *,
    num_samples: int,
    answers: npt.NDArray[np.int64],
    solutions: npt.NDArray[np.int64],
    entropy: float,
    num_tokens: int,
    nll: float,
    num_truncated: int,
) -> PromptStatistics:
    correct, scored = int(answers[0]), int(answers.sum())
    said = _positive(answers)
    return PromptStatistics(
        prompt_id=f"p{place:05d}",
        num_samples=num_samples,
        num_scored=scored,
        num_correct=correct,
        num_failed=num_samples - scored,
        num_truncated=num_truncated,
        rewards=(1.0,) * correct + (0.0,) * (scored - correct),
        num_tokens=num_tokens,
        entropy_sum=entropy * num_tokens,
        sequence_entropy=entropy,
        num_low_entropy=0,
        nll_sum=nll,
        answer_counts=said,
        correct_counts=_positive(solutions),
        text_counts=said,
        num_loops=0,
        num_unparsed=0,
        right_answer_counts=(correct,) if correct else (),
    )


def _positive(counts: Sequence[int] | npt.NDArray[np.int64]) -> tuple[int, ...]:
    return tuple(int(count) for count in counts if count)


def standard_error(share: float, runs: int) -> float:
    """Monte Carlo error of a share; never 0, as 1000 of 1000 is no certainty."""
    return math.sqrt(max(share * (1 - share), 1 / runs) / runs)
