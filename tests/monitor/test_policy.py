"""Lines of a `MonitorPolicy` that contradict each other are refused by field, value and need."""

from typing import Any

import pytest

from mlflow_rlrisk.errors import ConfigError
from mlflow_rlrisk.monitor import LogRow, MonitorPolicy, MonitorSettings, judge_rows


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ({"drop_from_step": 200, "drop_to_step": 100}, "drop_to_step=100: must be 5 or more above"),
        ({"drop_from_step": 150}, "drop_to_step=150: must be 5 or more above drop_from_step=150"),
        ({"drop_from_step": 10, "drop_to_step": 14}, "drop_to_step=14"),
        (
            {"zero_variance_warn": 0.95, "zero_variance_critical": 0.5},
            "zero_variance_critical=0.5: must not be below zero_variance_warn=0.95",
        ),
        ({"stop_on": ["R1", "R9"]}, "stop_on='R9': never alarms; one of R1 to R8 is needed"),
        ({"stop_on": ["R10"]}, "stop_on='R10'"),
    ],
    ids=str,
)
def test_lines_that_could_never_be_judged_are_refused(lines: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        MonitorPolicy(**lines)

    assert said in str(refused.value)


def test_the_shortest_stretch_that_is_accepted_can_be_judged() -> None:
    policy = MonitorPolicy(drop_from_step=10, drop_to_step=15, sustained_logs=3)
    rows = [LogRow(s, {"entropy": 1.0 if s <= 12 else 0.01}) for s in range(1, 30)]

    judgement = judge_rows(rows, MonitorSettings(policy=policy))

    assert [alarm.rule for alarm in judgement.alarms] == ["R1"]
    assert MonitorPolicy(zero_variance_warn=0.9).zero_variance_critical == 0.9
