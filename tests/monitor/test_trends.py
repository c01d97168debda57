"""Lines through the logs of a column."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import linregress

from mlflow_rlrisk.monitor.trends import line_through, projected_crossing, value_at


@given(st.integers(3, 30), st.integers(0, 2**32 - 1))
def test_a_line_and_its_error_are_scipys(size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    steps = np.sort(rng.choice(200, size, replace=False))
    values = rng.normal(size=size)

    line = line_through(steps.tolist(), values.tolist())

    assert line is not None
    theirs = linregress(steps, values)
    assert line[:2] == pytest.approx((theirs.slope, theirs.intercept), abs=1e-9)
    assert line.slope_error == pytest.approx(theirs.stderr, rel=1e-6)


@pytest.mark.parametrize(
    ("num_logs", "noise", "expected"),
    [
        (5, 0.0, 100),
        (4, 0.0, None),  # too few logs
        (20, 0.05, 100),
        (20, 4.0, None),  # a slope within two of its errors
    ],
)
def test_a_column_that_falls_beyond_its_noise_is_projected(
    num_logs: int, noise: float, expected: int | None
) -> None:
    steps = list(range(1, num_logs + 1))
    values = [2.0 - 0.02 * step + noise * 0.1 * math.cos(math.pi * step) for step in steps]

    found = projected_crossing(steps, values, 0.005)

    assert found == (None if expected is None else pytest.approx(expected, abs=4))


def test_a_level_that_was_crossed_already_is_no_projection() -> None:
    steps, values = list(range(10)), [1.0 - 0.1 * step for step in range(10)]

    assert projected_crossing(steps, values, 0.5) is None


def test_a_value_is_read_off_the_logs_that_lie_evenly_about_it() -> None:
    # To the left of step 10 there are three logs, to the right five: the outer two do not count.
    steps, values = [7, 8, 9, 10, 11, 12, 13, 14, 15], [7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 0, 0]

    assert value_at(steps, values, 10, 5) == 10.0
