"""Judgements of metrics whose draws are given."""

from typing import Any

import numpy as np

from mlflow_rlrisk.config import AssessmentConfig, PolicyConfig
from mlflow_rlrisk.evidence import AssessmentContext
from mlflow_rlrisk.metrics.aggregate import Aggregates
from mlflow_rlrisk.report import Metric
from mlflow_rlrisk.risk import Judgement, judge
from mlflow_rlrisk.risk.components import CORE, STARVED, Quantities, assess_components

HEALTHY = {
    "starvation": 0.95,
    "uncovered": 0.98,
    "headroom": 5.0,
    "entropy_abs": 0.4,
    "truncation": 0.0,
}


def metric(draws: np.ndarray, value: float | None = None) -> Metric:
    low, high = np.quantile(draws, [0.025, 0.975])
    return Metric(
        value=float(np.mean(draws)) if value is None else value,
        ci_low=float(low),
        ci_high=float(high),
        num_prompts=200,
    )


def aggregates(values: dict[str, Any], starved: Any = 0.1, num_draws: int = 200) -> Aggregates:
    """Aggregates whose core components have the given value or draws."""
    draws = {
        CORE[name]: np.broadcast_to(np.asarray(value, dtype=float), (num_draws,)).copy()
        for name, value in values.items()
    }
    draws[STARVED] = np.broadcast_to(np.asarray(starved, dtype=float), (num_draws,)).copy()
    metrics = {name: metric(each) for name, each in draws.items()}
    return Aggregates(metrics=metrics, draws=draws, undefined={})


def judged(
    found: Aggregates,
    policy: PolicyConfig | None = None,
    context: AssessmentContext | None = None,
    **changes: Any,
) -> Judgement:
    lines = policy or PolicyConfig()
    given_context = context or AssessmentContext()
    assessed = assess_components(Quantities(found, given_context, 0.95, 0), lines)
    return judge(
        found,
        assessed,
        policy=lines,
        config=AssessmentConfig(),
        context=given_context,
        **{"num_prompts": 200, **changes},
    )
