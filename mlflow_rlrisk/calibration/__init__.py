"""From outcomes to a calibrated chance of failure: fitted, validated out of lineage, recorded.

The ladder follows the data. Fewer than 8 checkpoints with an outcome, or fewer than 3 lineages,
calibrate nothing. Up to 30 a Bayesian logistic regression of failure on the risk index, or on how
far the run's first updates reach, above an isotonic one. Either is held against simple rivals on
lineages that it has not seen, and is used by a policy only where it beats them all.
"""

from mlflow_rlrisk.calibration.formula import formula_digest, index_of
from mlflow_rlrisk.calibration.ladder import calibrate
from mlflow_rlrisk.calibration.record import CalibrationRecord
from mlflow_rlrisk.calibration.rows import LeftOut, OutcomeRow, read_rows

__all__ = [
    "CalibrationRecord",
    "LeftOut",
    "OutcomeRow",
    "calibrate",
    "formula_digest",
    "index_of",
    "read_rows",
]
