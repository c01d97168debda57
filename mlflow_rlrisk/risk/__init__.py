"""Metrics -> the risk index and the level: the verdict, before it is put into words.

`components` draws each metric to a severity, `gaps` says what evidence is missing, `luck` and
`calibrated_chance` what else ``low`` needs, `judgement` applies the rules.
"""

from mlflow_rlrisk.risk.judgement import Judgement, Veto, judge

__all__ = [
    "Judgement",
    "Veto",
    "judge",
]
