"""Files of an assessment that somebody or something damaged: named, never half read."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mlflow_rlrisk.assessment.inputs import AssessmentInputs
from mlflow_rlrisk.calibration import CalibrationRecord
from mlflow_rlrisk.errors import RLRiskError, StatisticsError
from mlflow_rlrisk.evidence import AssessmentContext, Evidence
from mlflow_rlrisk.report_record import RiskReport
from mlflow_rlrisk.rollouts.evidence import with_stored_evidence
from mlflow_rlrisk.rollouts.store import RolloutStore

READERS: dict[str, Callable[[Path], object]] = {
    "inputs.json": AssessmentInputs.load,
    "evidence.json": lambda folder: with_stored_evidence(folder, None, ""),
    "manifest.json": lambda folder: RolloutStore(folder).identity,
    "report.json": lambda folder: RiskReport.from_json((folder / "report.json").read_text()),
    "calibration.json": lambda folder: CalibrationRecord.read(folder / "calibration.json"),
}


@pytest.mark.parametrize("text", ["", "{", "[]", "5", "[" * 100_000, '{"a": ' * 100_000])
@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_an_error_of_ours(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)

    with pytest.raises(RLRiskError):
        READERS[name](tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [("sft_rl_overlap", 7.0), ("verifier_youden_j", -80.0), ("reference_entropy", -0.1)],
)
def test_evidence_that_is_no_such_quantity_is_refused_wherever_it_comes_from(
    tmp_path: Path, name: str, value: float
) -> None:
    found = Evidence.exact(value, "an audit")
    kept = {"value": value, "ci_low": value, "ci_high": value, "source": "an audit"}
    (tmp_path / "evidence.json").write_text(json.dumps({name: kept}))

    with pytest.raises(StatisticsError, match=f"{name}={value:g}"):
        AssessmentContext(**{name: found})  # type: ignore[arg-type]
    with pytest.raises(StatisticsError, match=f"{name}={value:g}"):
        with_stored_evidence(tmp_path, None, "")
