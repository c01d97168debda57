"""Several RL runs from one checkpoint are one row."""

import pytest

from mlflow_rlrisk.calibration.rows import OutcomeRow, merged


def row_of(*gains: float, failed: int, min_gain: float | None = None) -> OutcomeRow:
    runs = [
        {"final": 0.4 + gain, "gain": gain, "failed": place < failed, "hours": hours}
        for place, (gain, hours) in enumerate(zip(gains, (2.0, None, 5.0), strict=False))
    ]
    return merged("sft", "sft/1", 0.3, {}, runs, min_gain=min_gain)


@pytest.mark.parametrize(
    ("num_runs", "failed", "is_failure"),
    [(1, 0, False), (1, 1, True), (2, 1, True), (3, 1, False), (3, 2, True)],
)
def test_a_checkpoint_failed_where_half_of_its_runs_did(
    num_runs: int, failed: int, is_failure: bool
) -> None:
    row = row_of(*[0.1] * num_runs, failed=failed)

    assert (row.failed, row.num_runs) == (is_failure, num_runs)


def test_a_run_that_gains_no_more_than_asked_for_failed() -> None:
    assert row_of(0.1, failed=0, min_gain=0.1).failed
    assert not row_of(0.11, failed=0, min_gain=0.1).failed


def test_success_and_gain_are_means_over_runs_and_hours_over_those_that_tell_them() -> None:
    row = row_of(0.1, 0.2, 0.3, failed=0)

    assert (row.final, row.gain, row.hours) == pytest.approx((0.6, 0.2, 3.5))
    assert (
        merged(
            "sft",
            "sft/1",
            0.3,
            {},
            [{"final": 0.5, "gain": 0.1, "failed": False, "hours": None}],
            min_gain=None,
        ).hours
        is None
    )
