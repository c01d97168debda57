"""Every number that draws a line, with where it comes from and how far that reaches.

`registry` holds all of them; `policy_lines` are those that a policy may move.
"""

from mlflow_rlrisk.thresholds.registry import REGISTRY, threshold

__all__ = [
    "REGISTRY",
    "threshold",
]
