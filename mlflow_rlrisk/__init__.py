"""mlflow-rlrisk: which SFT checkpoint may start RL?

The one flow: ``sample -> verify -> measure -> summarize -> RiskReport -> decide -> Decision``.
Names are loaded on first use, so that importing the package costs nothing: neither torch nor
transformers nor mlflow is imported by it. `assess` is bound at once, because its module has the
same name and would otherwise take its place here.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mlflow_rlrisk.assess import assess, rescore

if TYPE_CHECKING:
    from mlflow_rlrisk.config import (
        AssessmentConfig,
        LookaheadConfig,
        PolicyConfig,
        SamplingConfig,
        Settings,
    )
    from mlflow_rlrisk.errors import (
        ConfigError,
        ModelReferenceError,
        PromotionRefusedError,
        RLRiskError,
    )
    from mlflow_rlrisk.gate.trainer import verify
    from mlflow_rlrisk.lookahead.stored_rollouts import look_ahead_from
    from mlflow_rlrisk.model_reference import ModelSource, resolve_reference
    from mlflow_rlrisk.monitor.follow import judge_source
    from mlflow_rlrisk.monitor.sources import MlflowRunSource
    from mlflow_rlrisk.policy import Decision, decide, load_policy
    from mlflow_rlrisk.prompts import PromptSet, load_prompts
    from mlflow_rlrisk.report import RiskReport
    from mlflow_rlrisk.rl_config import RLConfig, read_rl_config
    from mlflow_rlrisk.sinks.html import render
    from mlflow_rlrisk.sinks.mlflow_run import log_report
    from mlflow_rlrisk.sinks.monitor_run import log_judgement
    from mlflow_rlrisk.sinks.registry import log_checkpoint, tag_version
    from mlflow_rlrisk.trl_callback import RLRiskCallback

__version__ = "0.1.0"

_HOME = {
    "AssessmentConfig": "config",
    "ConfigError": "errors",
    "Decision": "policy",
    "LookaheadConfig": "config",
    "MlflowRunSource": "monitor.sources",
    "ModelReferenceError": "errors",
    "ModelSource": "model_reference",
    "PolicyConfig": "config",
    "PromotionRefusedError": "errors",
    "PromptSet": "prompts",
    "RLConfig": "rl_config",
    "RLRiskCallback": "trl_callback",
    "RLRiskError": "errors",
    "RiskReport": "report",
    "SamplingConfig": "config",
    "Settings": "config",
    "decide": "policy",
    "judge_source": "monitor.follow",
    "load_policy": "policy",
    "load_prompts": "prompts",
    "log_checkpoint": "sinks.registry",
    "log_judgement": "sinks.monitor_run",
    "log_report": "sinks.mlflow_run",
    "look_ahead_from": "lookahead.stored_rollouts",
    "read_rl_config": "rl_config",
    "render": "sinks.html",
    "resolve_reference": "model_reference",
    "tag_version": "sinks.registry",
    "verify": "gate.trainer",
}

__all__ = [  # noqa: RUF022  (in reading order)
    "assess",
    "rescore",
    "decide",
    "load_prompts",
    "log_checkpoint",
    "log_report",
    "look_ahead_from",
    "read_rl_config",
    "verify",
    "AssessmentConfig",
    "SamplingConfig",
    "LookaheadConfig",
    "RLConfig",
    "PolicyConfig",
    "PromptSet",
    "RiskReport",
    "Decision",
    "RLRiskCallback",
    "load_policy",
    "render",
    "tag_version",
    "resolve_reference",
    "ModelSource",
    "judge_source",
    "MlflowRunSource",
    "log_judgement",
    "Settings",
    "RLRiskError",
    "ConfigError",
    "ModelReferenceError",
    "PromotionRefusedError",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'mlflow_rlrisk' has no attribute {name!r}")
    return getattr(import_module(f"mlflow_rlrisk.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
