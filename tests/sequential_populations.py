"""Checkpoints whose true figures are known, drawn as an assessment in rounds would see them."""

from dataclasses import dataclass

import numpy as np
from scipy import integrate, special, stats

from mlflow_rlrisk.assessment.budget import is_decided, plan_rounds
from mlflow_rlrisk.config import AssessmentConfig, PolicyConfig, SamplingConfig
from mlflow_rlrisk.report import Provenance, RiskReport, summarize
from tests.prompt_statistics import DIGESTS, prompts

GROUP, NUM_PROMPTS, NUM_SAMPLES = 8, 200, 16
CRITICAL_OF_8 = 0.0829959573
"""Where half of all groups of 8 are all equal; solved with SciPy, as in the oracle table."""

SIGNAL, PASS, ENTROPY, INDEX = (
    f"rlrisk/{name}"
    for name in ("group_signal_fraction", "pass_at_1", "token_entropy", "risk_index")
)


@dataclass(frozen=True)
class Population:
    """Success of a prompt follows Beta(alpha, beta), entropies a normal around ``entropy``."""

    name: str
    alpha: float
    beta: float
    entropy: float

    def truth(self, num_samples: int = NUM_SAMPLES) -> dict[str, float]:
        """The figures that endless prompts of so many samples would give, by quadrature."""
        success = stats.beta(self.alpha, self.beta)
        degenerate, _ = integrate.quad(
            lambda p: (p**GROUP + (1 - p) ** GROUP) * success.pdf(p), 0, 1, limit=400
        )
        signal, mean = 1 - degenerate, float(success.mean())
        whole, unsolved = (special.beta(self.alpha, self.beta + k) for k in (0, num_samples))
        carried = min(20.0 * signal, 1.0)
        index = 1.0 - carried * (1.0 - float(unsolved / whole))
        return {SIGNAL: signal, PASS: mean, ENTROPY: self.entropy, INDEX: index}

    def level(self) -> str:
        """The level of the true figures; entropy alone may be severe where the index is low."""
        found = self.truth()
        is_severe = self.entropy < 0.21 or found[PASS] / CRITICAL_OF_8 < 4.0
        if found[SIGNAL] < 0.5 or found[INDEX] >= 0.66:
            return "high"
        is_low = found[INDEX] < 0.25 and found[SIGNAL] >= 0.75 and not is_severe
        return "low" if is_low else "medium"


CLEAR_LOW = Population("clear low", 6.0, 6.0, 0.35)
CLEAR_HIGH = Population("clear high", 0.1, 0.1, 0.05)
CLEAR_MEDIUM = Population("clear medium", 2.0, 3.0, 0.09)
AT_THE_LOW_LINE = Population("at the low line", 0.879, 0.879, 0.35)
AT_THE_VETO = Population("at the veto", 0.341, 0.341, 0.35)
POPULATIONS = (CLEAR_LOW, CLEAR_HIGH, CLEAR_MEDIUM, AT_THE_LOW_LINE, AT_THE_VETO)


@dataclass(frozen=True)
class Ended:
    """A report, and the rollouts and tokens that it took."""

    report: RiskReport
    num_rollouts: int
    num_tokens: int


class Drawn:
    """One draw of the whole budget of a population; both budgets read its beginnings."""

    def __init__(self, population: Population, seed: int, num_resamples: int) -> None:
        rng = np.random.default_rng(seed)
        rates = rng.beta(population.alpha, population.beta, size=NUM_PROMPTS)
        self._solved = rng.random((NUM_PROMPTS, NUM_SAMPLES)) < rates[:, None]
        # Samples of a prompt agree in entropy more than prompts do.
        means = rng.normal(population.entropy, population.entropy / 4, size=NUM_PROMPTS)
        spread = population.entropy / 8
        self._entropies = means[:, None] + rng.normal(0, spread, (NUM_PROMPTS, NUM_SAMPLES))
        # Harder prompts have longer answers, 100 to 300 tokens; a third are off by more than x1.6.
        typical = rng.lognormal(0.0, 0.5, size=(NUM_PROMPTS, NUM_SAMPLES))
        self._lengths = np.ceil((300 - 200 * rates[:, None]) * typical).astype(int)
        self._config = AssessmentConfig(
            sampling=SamplingConfig(num_samples=NUM_SAMPLES),
            group_size=GROUP,
            num_resamples=num_resamples,
            budget="auto",
        )

    def fixed(self) -> Ended:
        return self._report(NUM_PROMPTS, NUM_SAMPLES, None)

    def in_rounds(self) -> Ended:
        rounds = plan_rounds(
            self._config,
            PolicyConfig(),
            num_prompts=NUM_PROMPTS,
            can_split_groups=True,
            needs_all_samples=False,
        )
        for each in rounds:
            assert each.num_samples is not None
            ended = self._report(each.num_prompts, each.num_samples, each.confidence)
            if is_decided(ended.report):
                break
        return ended

    def _report(self, num_prompts: int, num_samples: int, confidence: float | None) -> Ended:
        solved = self._solved[:num_prompts, :num_samples].sum(axis=1)
        entropies = self._entropies[:num_prompts, :num_samples].mean(axis=1)
        report = summarize(
            prompts(solved.tolist(), num_samples, np.maximum(entropies, 0.0)),
            config=self._config,
            policy=PolicyConfig(),
            provenance=Provenance(digests=DIGESTS),
            look_confidence=confidence,
        )
        num_tokens = int(self._lengths[:num_prompts, :num_samples].sum())
        return Ended(report, num_prompts * num_samples, num_tokens)


def covers(report: RiskReport, name: str, truth: float) -> bool:
    metric = report.metrics[name]
    return metric.ci_low <= truth <= metric.ci_high
