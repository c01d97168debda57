"""Indices that were considered, written down and hashed before any outcome was attached.

Each maps the metrics of one report, by full name, to a risk in [0, 1]; larger is riskier. None
has a coefficient that was fitted to the study. `candidates.json` holds the SHA-256 of this file
and the rule by which one of them is chosen; a test compares the two.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mlflow_rlrisk.statistics import noisy_or, ramp

Metrics = Mapping[str, Any]
Candidate = Callable[[Metrics], float]

DEPTHS = (2, 4, 8, 16, 32, 64)
"""Attempts at which the coverage profile is read; equal steps of log k."""
ENTROPY_WEIGHT = 0.4


def signal(metrics: Metrics) -> float:
    """Share of groups that carry a reward difference."""
    return float(metrics["rlrisk/group_signal_fraction"])


def coverage(metrics: Metrics) -> float:
    """pass@64, or pass@k at the largest k that the rollouts allow."""
    return pass_at(metrics, max(k for k in (1, *DEPTHS) if f"rlrisk/pass_at_{k}" in metrics))


def pass_at(metrics: Metrics, k: int) -> float:
    """pass@k."""
    return float(metrics[f"rlrisk/pass_at_{k}"])


def profile(metrics: Metrics) -> float:
    """Mean pass@k over equal steps of log k: the area under the coverage curve."""
    known = [pass_at(metrics, k) for k in DEPTHS if f"rlrisk/pass_at_{k}" in metrics]
    return float(np.mean(known))


def entropy_severity(metrics: Metrics) -> float:
    """0 from .24 nats on, 1 at .12 nats."""
    return float(ramp([float(metrics["rlrisk/token_entropy"])], ok=0.24, bad=0.12)[0])


def noisy_or_1(metrics: Metrics) -> float:
    """The index before the study: signal, headroom, absolute entropy, truncation."""
    severities = [
        float(ramp([signal(metrics)], ok=0.75, bad=0.25)[0]),
        float(ramp([float(metrics["rlrisk/headroom"])], ok=4.0, bad=1.0)[0]),
        entropy_severity(metrics),
        float(ramp([float(metrics["rlrisk/truncated_share"])], ok=0.02, bad=0.25)[0]),
    ]
    return float(noisy_or(severities, [0.9, 0.6, 0.4, 0.5]))


def noisy_or_1_coverage(metrics: Metrics) -> float:
    """The index before the study, with the uncovered share as one more component."""
    return 1.0 - (1.0 - noisy_or_1(metrics)) * (1.0 - 0.9 * (1.0 - coverage(metrics)))


def product(metrics: Metrics) -> float:
    """Noisy-OR of no signal and no coverage at full weight: 1 - S_g pass@64."""
    return 1.0 - signal(metrics) * coverage(metrics)


def mean_deficit(metrics: Metrics) -> float:
    """Mean of what signal and coverage lack."""
    return 1.0 - (signal(metrics) + coverage(metrics)) / 2.0


def worst_deficit(metrics: Metrics) -> float:
    """The larger of what signal and coverage lack."""
    return 1.0 - min(signal(metrics), coverage(metrics))


def product_entropy(metrics: Metrics) -> float:
    """`product` with the old entropy component."""
    return 1.0 - (1.0 - product(metrics)) * (1.0 - ENTROPY_WEIGHT * entropy_severity(metrics))


def coverage_profile(metrics: Metrics) -> float:
    """Area above the coverage curve over log k."""
    return 1.0 - profile(metrics)


def product_profile(metrics: Metrics) -> float:
    """Noisy-OR of no signal and the area above the coverage curve."""
    return 1.0 - signal(metrics) * profile(metrics)


def product_reach(metrics: Metrics) -> float:
    """pass@8 in the place of the signal: a group that is all correct is no risk."""
    return 1.0 - pass_at(metrics, 8) * coverage(metrics)


def product_middle(metrics: Metrics) -> float:
    """pass@1 beside coverage: what is right at once and what is right at all."""
    return 1.0 - float(np.sqrt(pass_at(metrics, 1) * coverage(metrics)))


CANDIDATES: dict[str, Candidate] = {
    each.__name__: each
    for each in (
        noisy_or_1,
        noisy_or_1_coverage,
        product,
        mean_deficit,
        worst_deficit,
        product_entropy,
        coverage_profile,
        product_profile,
        product_reach,
        product_middle,
    )
}
