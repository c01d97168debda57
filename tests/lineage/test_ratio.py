"""Paired ratios of two versions, from draws whose quantiles are known."""

import numpy as np
import pytest
from scipy import stats

from mlflow_rlrisk.lineage.measures import Measure

NUM_PROMPTS = 40


def measure(**changed: np.ndarray) -> Measure:
    """Two versions: the first's draws over the second's are spread evenly from 1 to 3."""
    over = np.random.default_rng(0).permutation(np.linspace(1.0, 3.0, 4001))
    under = np.linspace(0.2, 0.4, 4001)
    left_out = 0.3 + np.linspace(-0.01, 0.01, NUM_PROMPTS)
    columns = {
        "values": np.array([0.5, 0.3]),
        "draws": np.stack([over * under, under], axis=1),
        "left_out": np.stack([0.5 + np.zeros(NUM_PROMPTS), left_out], axis=1),
    }
    return Measure(name="rlrisk/token_entropy", **{**columns, **changed})


def test_a_ratio_has_the_expanded_percentiles_of_its_paired_draws() -> None:
    found = measure().ratio(0, 1, 0.9)

    # Hesterberg 2015, eq. 10: Student's quantile, and the spread without the bootstrap's bias.
    scale = np.sqrt(NUM_PROMPTS / (NUM_PROMPTS - 1))
    level = stats.norm.cdf(scale * stats.t.ppf(0.05, NUM_PROMPTS - 1))
    assert found is not None
    assert found.value == 0.5 / 0.3
    assert (found.ci_low, found.ci_high) == pytest.approx(
        (1.0 + 2.0 * level, 3.0 - 2.0 * level), abs=2e-3
    )


@pytest.mark.parametrize("column", ["values", "draws", "left_out"])
def test_a_ratio_to_what_is_0_or_is_on_a_resample_is_undefined(column: str) -> None:
    changed = getattr(measure(), column).copy()
    changed[..., 1].flat[-1:] = 0.0

    assert measure(**{column: changed}).ratio(0, 1, 0.9) is None
    assert measure(**{column: changed}).ratio(1, 0, 0.9) is not None
