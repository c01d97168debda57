"""How often the intervals of ``rlrisk audit-verifier`` hold the truth.

``nice python -m tests.benchmarks.audit_coverage [--reps 1600] [--json FILE]``

Rates from a random sample of labelled completions and from one of accepted and of rejected ones;
then the signal less the verifier's errors, with a quarter of the repetitions, for each fits a
distribution two hundred times.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy import stats

from mlflow_rlrisk.statistics import observed_success, usable_signal
from mlflow_rlrisk.verifier_audit.rollouts import signal
from mlflow_rlrisk.verifier_audit.sample import Rates, random_sample_rates, strata_rates
from tests.benchmarks.held import Held, run

VERIFIERS = ((0.8, 0.3), (0.95, 0.05), (0.99, 0.01))
"""True and false positive rate."""
SIZES = (50, 100, 300)
"""Labelled completions, half of them right on average; or of each verdict."""
RIGHT = 0.4
"""Share of right completions where accepted and rejected ones are audited apart."""
GROUP, NUM_PROMPTS, NUM_SAMPLES = 8, 100, 16
SUCCESS = {"balanced": (2.0, 3.0), "U-shaped": (0.5, 0.5)}
CHEAPER = 4


def random_sample(rng: np.random.Generator, rates: tuple[float, float], size: int) -> Rates | None:
    """An audit of a random sample; ``None`` where it holds completions of one kind only."""
    right = int(rng.binomial(size, 0.5))
    if right in (0, size):
        return None
    accepted = [int(rng.binomial(n, p)) for n, p in zip((right, size - right), rates, strict=True)]
    return random_sample_rates(accepted[0], right, accepted[1], size - right, 0.95)


def strata(rng: np.random.Generator, rates: tuple[float, float], size: int) -> Rates:
    """An audit of as many accepted as rejected completions."""
    accept = float(observed_success(RIGHT, *rates))
    precision, missed = RIGHT * rates[0] / accept, RIGHT * (1.0 - rates[0]) / (1.0 - accept)
    found = [(int(rng.binomial(size, share)), size) for share in (precision, missed)]
    return strata_rates(accept, found[0], found[1], 0.95)


def of_rates(reps: int) -> Iterator[list[dict[str, Any]]]:
    for rates in VERIFIERS:
        for size in SIZES:
            truths = {"tpr": rates[0], "fpr": rates[1], "youden_j": rates[0] - rates[1]}
            for design, audit in (("random", random_sample), ("strata", strata)):
                held = Held(truths)
                for seed in range(reps):
                    found = audit(np.random.default_rng([seed, size, len(design)]), rates, size)
                    for name, ends in () if found is None else found.intervals.items():
                        held.add(name, *ends)
                yield held.rows(of=design, rates=rates, N=size)


def of_signal(reps: int) -> Iterator[list[dict[str, Any]]]:
    """Corrected figures of prompts that a verifier with these rates judged, audited by 300."""
    for name, shape in SUCCESS.items():
        p = stats.beta.ppf((np.arange(4000) + 0.5) / 4000, *shape)
        for rates in VERIFIERS[:2]:
            held = Held(
                {
                    "group_signal_fraction": float((1 - p**GROUP - (1 - p) ** GROUP).mean()),
                    "expected_group_variance": float((p * (1 - p)).mean() * (GROUP - 1) / GROUP),
                    "pass_at_1": float(p.mean()),
                    "usable_signal": float(usable_signal(p.mean(), *rates)),
                }
            )
            for seed in range(reps):
                rng = np.random.default_rng([seed, len(name), int(100 * rates[0])])
                chances = observed_success(rng.choice(p, NUM_PROMPTS), *rates)
                accepted = rng.binomial(NUM_SAMPLES, chances)
                scored = np.full(NUM_PROMPTS, NUM_SAMPLES)
                audit = random_sample(rng, rates, SIZES[-1])
                found = signal(accepted, scored, GROUP, audit, 0.95)
                for figure in held.truths:
                    corrected = found[figure]["corrected"]
                    held.add(figure, corrected["ci_low"], corrected["ci_high"])
            yield held.rows(of="corrected", population=name, rates=rates, N=NUM_PROMPTS)


def cells(reps: int) -> Iterator[list[dict[str, Any]]]:
    yield from of_rates(reps)
    yield from of_signal(reps // CHEAPER)


if __name__ == "__main__":
    run(cells, __doc__, reps=1600)
