"""The chance that RL fails, as the policy's calibration reads it off an assessment."""

from typing import NamedTuple

import numpy as np

from mlflow_rlrisk.config import PolicyConfig
from mlflow_rlrisk.metrics.aggregate import Aggregates, percentile_metric
from mlflow_rlrisk.metrics.catalogue import PREFIX
from mlflow_rlrisk.report_record import Metric
from mlflow_rlrisk.statistics.counts import FloatVector

REACH = PREFIX + "lookahead_reach"


class CalibratedChance(NamedTuple):
    """The chance of failure with the interval of the prompts, and its draws ``[B]``."""

    metric: Metric
    draws: FloatVector


def calibrated_chance(
    found: Aggregates,
    index: Metric,
    index_draws: FloatVector,
    policy: PolicyConfig,
    confidence: float,
) -> CalibratedChance | None:
    """The chance at what the calibration reads: the index, or the reach of the first updates.

    Its interval holds the prompts' uncertainty, not the curve's. ``None`` without a calibration
    that is used, and where what it reads was not measured.
    """
    use = policy.calibration
    if use is None or not use.used:
        return None
    if use.feature == "risk_index":
        score, score_draws, num_prompts = index.value, index_draws, index.num_prompts
    elif REACH in found.metrics:
        reach = found.metrics[REACH]
        score, score_draws, num_prompts = 1 - reach.value, 1 - found.draws[REACH], reach.num_prompts
    else:
        return None
    at, chances = zip(*use.curve, strict=True)
    value, draws = (np.interp(each, at, chances) for each in (score, score_draws))
    return CalibratedChance(percentile_metric(float(value), draws, num_prompts, confidence), draws)
