"""Versions that were promoted by copying: one checkpoint, however many models hold it."""

from pathlib import Path
from typing import Any

import pytest

from mlflow_rlrisk.calibration import LeftOut, OutcomeRow
from mlflow_rlrisk.config import DEFAULT_COMPONENTS
from mlflow_rlrisk.monitor.outcome import run_outcome
from mlflow_rlrisk.sinks.registered_outcomes import registered_outcomes
from mlflow_rlrisk.sinks.version_outcome import record_outcome
from tests.calibration.test_command import GOOD, recorded

pytestmark = pytest.mark.mlflow


@pytest.fixture
def client(store: str, tmp_path: Path) -> Any:
    import mlflow

    found = mlflow.MlflowClient()
    found.create_registered_model("sft")
    for _ in range(2):
        recorded(found, tmp_path, "sft", 6.0, 8.0, GOOD)
    return found


def read() -> tuple[list[OutcomeRow], list[LeftOut]]:
    rows, left_out, _ = registered_outcomes([], DEFAULT_COMPONENTS, min_gain=None, lineage_tag=None)
    return rows, left_out


def test_a_copied_version_is_no_second_checkpoint_of_another_lineage(client: Any) -> None:
    # MLflow copies the tags as well: `prod` would be a lineage that `sft` was fitted on.
    client.copy_model_version("models:/sft/1", "prod")
    client.copy_model_version("models:/prod/1", "archive")

    rows, left_out = read()

    assert [(row.lineage, row.checkpoint) for row in rows] == [
        ("sft", "models:/sft/1"),
        ("sft", "models:/sft/2"),
    ]
    assert [each.checkpoint for each in left_out] == ["models:/archive/1", "models:/prod/1"]
    assert all("counts with models:/sft/1" in each.reason for each in left_out)


def test_runs_that_were_recorded_on_a_copy_are_runs_of_the_checkpoint(client: Any) -> None:
    client.copy_model_version("models:/sft/1", "prod")
    bad = run_outcome([0, 9], [0.4, 0.2], quantity="success", collapsed=True)
    assert bad
    record_outcome("models:/prod/1", bad, run="on the copy")

    rows, _ = read()

    first = rows[0]
    assert (first.checkpoint, first.num_runs) == ("models:/sft/1", 2)
    assert first.final == pytest.approx((GOOD.final + 0.2) / 2)


def test_copies_of_a_version_that_was_deleted_are_one_checkpoint(client: Any) -> None:
    for name in ("prod", "archive"):
        client.copy_model_version("models:/sft/1", name)
    client.delete_model_version("sft", "1")

    rows, left_out = read()

    assert sorted(row.checkpoint for row in rows) == ["models:/archive/1", "models:/sft/2"]
    assert [each.checkpoint for each in left_out] == ["models:/prod/1"]
