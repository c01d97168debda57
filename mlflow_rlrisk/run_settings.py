"""Settings that an assessment has from the RL run: statements tell them, rules ask for them."""

import json
from collections.abc import Mapping
from typing import Any

from mlflow_rlrisk.config import AssessmentConfig, SamplingConfig
from mlflow_rlrisk.errors import ConfigError

_JUDGED = ("group_size", "success_threshold", "max_failed_share", "confidence")
_SAMPLED = tuple(
    name for name in SamplingConfig.model_fields if name not in ("num_samples", "seed")
)
RUN_SETTINGS = (*_JUDGED, *_SAMPLED)


def settings_of(config: AssessmentConfig) -> dict[str, Any]:
    """Each of `RUN_SETTINGS` as JSON has it."""
    found = {name: getattr(config, name) for name in _JUDGED}
    found |= {name: getattr(config.sampling, name) for name in _SAMPLED}
    return {name: json.loads(json.dumps(value)) for name, value in found.items()}


def checked_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """Some of `RUN_SETTINGS`, checked and written as `settings_of` writes them.

    Raises:
        ConfigError: A name is none of them, or a value is unusable.
    """
    for name in given:
        if name not in RUN_SETTINGS:
            raise ConfigError(name, given[name], f"unknown; known: {', '.join(RUN_SETTINGS)}")
    judged = {name: given[name] for name in given if name in _JUDGED}
    sampled = {name: given[name] for name in given if name in _SAMPLED}
    whole = settings_of(AssessmentConfig(sampling=SamplingConfig(**sampled), **judged))
    return {name: whole[name] for name in given}
