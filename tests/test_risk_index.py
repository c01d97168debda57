"""The index itself: what coverage leaves, graded to its very end, unless there is no signal."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_rlrisk.components import Quantities, assess_components
from mlflow_rlrisk.config import PolicyConfig
from mlflow_rlrisk.evidence import AssessmentContext
from mlflow_rlrisk.risk import risk_index
from tests.judgements import HEALTHY, aggregates, metric

shares = st.floats(0.0, 1.0)


@given(shares, shares, shares)
def test_the_index_is_what_coverage_leaves_and_full_without_any_signal(
    signal: float, coverage: float, less: float
) -> None:
    lines = PolicyConfig()
    values = {**HEALTHY, "starvation": signal, "uncovered": coverage}

    def index(changed: dict[str, float]) -> float:
        found = aggregates(changed, num_draws=8)
        quantities = Quantities(found, AssessmentContext(), 0.95, 0)
        return risk_index(assess_components(quantities, lines))[0]

    carried = min(20.0 * signal, 1.0)  # counts where next to none is left
    assert index(values) == pytest.approx(1.0 - carried * coverage, abs=1e-12)
    worse = {**values, "uncovered": coverage * less}
    if carried * coverage * (1.0 - less) > 1e-9:
        assert index(worse) > index(values)
    assert index({**values, "starvation": 0.0}) == 1.0


def test_coverage_is_read_at_the_most_attempts_sampled_up_to_64() -> None:
    found = aggregates(HEALTHY)
    for k, value in ((16, 0.7), (64, 0.9), (128, 0.99)):
        found.metrics[f"rlrisk/pass_at_{k}"] = metric(np.full(200, value))
        found.draws[f"rlrisk/pass_at_{k}"] = np.full(200, value)

    assessed = assess_components(Quantities(found, AssessmentContext(), 0.95, 0), PolicyConfig())

    read = {part.name: (part.measure, part.x) for part in assessed.components}
    assert read["uncovered"] == ("pass@64", pytest.approx(0.9))
