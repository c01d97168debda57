"""The formula of the risk index: its name is a hash, and it can be evaluated on bare figures.

A calibration belongs to one formula. Its hash is part of every record, so that outcomes never
calibrate an index that was changed after they were known.
"""

import hashlib
import json
from collections.abc import Mapping

from mlflow_rlrisk.config import ComponentConfig
from mlflow_rlrisk.errors import StatisticsError
from mlflow_rlrisk.risk.components import reading_of
from mlflow_rlrisk.statistics.severity import noisy_or, ramp

RULE = (
    "1 - prod(1 - weight * clip((x - ok) / (bad - ok), 0, 1)); "
    "starvation reads group signal / (group signal + groups all wrong)"
)


def formula_digest(components: Mapping[str, ComponentConfig], rule: str = RULE) -> str:
    """SHA-256 over the rule and the lines of every component, whatever their order."""
    lines = {name: line.model_dump(mode="json") for name, line in components.items()}
    text = json.dumps({"rule": rule, "components": lines}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def index_of(values: Mapping[str, float], components: Mapping[str, ComponentConfig]) -> float:
    """The index at bare estimates, as a report computes it from them.

    Args:
        values: Metrics by full name. A component whose metric is absent is left out, as in a
            report; those that rest on evidence beside the rollouts have none.
        components: The lines.

    Returns:
        The index in [0, 1], larger is riskier.

    Raises:
        StatisticsError: No component can be read, or a value is not finite.
    """
    severities, weights = [], []
    for name, line in components.items():
        value = reading_of(name, values)
        if value is not None:
            severities.append(float(ramp([value], line.ok, line.bad)[0]))
            weights.append(line.weight)
    if not severities:
        raise StatisticsError(f"values: none of {', '.join(components)} can be read from them")
    return float(noisy_or(severities, weights))
