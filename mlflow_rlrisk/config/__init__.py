"""Settings of an assessment and of a policy: frozen, checked, unknown keys are errors.

`SamplingConfig` says how rollouts are drawn, `AssessmentConfig` what is computed from them,
`LookaheadConfig` which RL run's first updates are tried, `PolicyConfig` where the lines are drawn.
"""

from mlflow_rlrisk.config.assessment import AssessmentConfig
from mlflow_rlrisk.config.lookahead import LookaheadConfig
from mlflow_rlrisk.config.policy import (
    DEFAULT_COMPONENTS,
    CalibrationUse,
    ComponentConfig,
    PolicyConfig,
)
from mlflow_rlrisk.config.sampling import SamplingConfig
from mlflow_rlrisk.config.settings import PositiveInt, Settings, Share

__all__ = [
    "DEFAULT_COMPONENTS",
    "AssessmentConfig",
    "CalibrationUse",
    "ComponentConfig",
    "LookaheadConfig",
    "PolicyConfig",
    "PositiveInt",
    "SamplingConfig",
    "Settings",
    "Share",
]
