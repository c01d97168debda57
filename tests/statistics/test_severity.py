import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_rlrisk.errors import ConfigError, StatisticsError
from mlflow_rlrisk.statistics import noisy_or, ramp

share = st.floats(0.0, 1.0)
shares = st.lists(share, min_size=3, max_size=3)


@given(st.floats(-10, 10), st.floats(-10, 10), st.floats(0, 1))
def test_a_ramp_runs_from_ok_to_bad_in_either_direction(ok: float, bad: float, way: float) -> None:
    if abs(ok - bad) < 1e-6:
        return

    assert ramp([ok, bad], ok, bad).tolist() == [0.0, 1.0]
    assert ramp(2 * ok - bad, ok, bad) == 0.0
    assert ramp(2 * bad - ok, ok, bad) == 1.0
    assert ramp(ok + way * (bad - ok), ok, bad) == pytest.approx(way, abs=1e-6)


@given(shares, shares, st.integers(0, 2), share)
def test_the_index_is_monotone_and_at_least_its_worst_component(
    severities: list[float], weights: list[float], raised: int, to: float
) -> None:
    index = noisy_or(severities, weights)
    higher = [*severities]
    higher[raised] = max(higher[raised], to)

    assert 0.0 <= index <= 1.0
    assert index >= max(np.multiply(severities, weights)) - 1e-12
    assert noisy_or(higher, weights) >= index - 1e-12
    assert noisy_or(severities[::-1], weights[::-1]) == pytest.approx(float(index), abs=1e-12)
    assert noisy_or([*severities, 0.0], [*weights, 1.0]) == pytest.approx(float(index))


def test_the_index_is_computed_for_every_draw() -> None:
    draws = np.random.default_rng(0).random((100, 3))

    together = noisy_or(draws, [0.9, 0.6, 0.4])

    assert together.shape == (100,)
    assert together[7] == noisy_or(draws[7], [0.9, 0.6, 0.4])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ramp(0.5, 1.0, 1.0), ConfigError, "differ from bad"),
        (lambda: ramp(0.5, np.nan, 1.0), ConfigError, "finite"),
        (lambda: ramp(np.nan, 0.0, 1.0), StatisticsError, "must be finite"),
        (lambda: noisy_or([0.5], [0.5, 0.5]), StatisticsError, "one weight"),
        (lambda: noisy_or(0.5, [0.5]), StatisticsError, "one weight"),
        (lambda: noisy_or([1.0, 1.5], [0.5, 0.5]), StatisticsError, "severities=1.5"),
        (lambda: noisy_or([0.5], [-0.5]), StatisticsError, "weights=-0.5"),
        (lambda: noisy_or([np.nan], [0.5]), StatisticsError, "must be finite"),
    ],
)
def test_values_outside_their_range_are_refused(
    call: object, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        call()  # type: ignore[operator]
