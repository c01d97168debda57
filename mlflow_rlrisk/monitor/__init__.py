"""The RL run watched: rules over a metric history, whatever trainer wrote it.

Pure below `sources`: rows in, a `Judgement` out. `history` mends the log, `adapters` give every
trainer's metrics one name, `rules` and `entropy_rules` raise alarms, `run` applies them row by row
or all at once, `judgement` puts together what is said. `sources` read MLflow and files.
"""

from mlflow_rlrisk.monitor.alarms import Alarm, Severity
from mlflow_rlrisk.monitor.history import LogRow
from mlflow_rlrisk.monitor.judgement import Judgement
from mlflow_rlrisk.monitor.policy import MonitorPolicy, monitor_policy
from mlflow_rlrisk.monitor.run import Monitor, MonitorSettings, judge_rows
from mlflow_rlrisk.monitor.tracks import RunFacts

__all__ = [
    "Alarm",
    "Judgement",
    "LogRow",
    "Monitor",
    "MonitorPolicy",
    "MonitorSettings",
    "RunFacts",
    "Severity",
    "judge_rows",
    "monitor_policy",
]
