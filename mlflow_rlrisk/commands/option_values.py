"""Options of the command line as the settings that they stand for."""

import json
from collections.abc import Sequence
from typing import Any

from mlflow_rlrisk.config import AssessmentConfig, PolicyConfig, SamplingConfig
from mlflow_rlrisk.errors import ConfigError

_BOOLEANS = {"True": "true", "False": "false"}


def config_of(settings: dict[str, Any]) -> AssessmentConfig:
    """The settings of an assessment as its options give them."""
    drawn = {name: settings[name] for name in SamplingConfig.model_fields}
    rest = {
        name: settings[name]
        for name in AssessmentConfig.model_fields
        if name in settings and name != "sampling"
    }
    return AssessmentConfig(sampling=SamplingConfig(**drawn), **rest)


def policy_of(path: str | None) -> PolicyConfig:
    """The policy of a file; the default one without a file."""
    if path is None:
        return PolicyConfig()
    from mlflow_rlrisk.policy import load_policy

    return load_policy(path)


def parse_pairs(setting: str, given: Sequence[str]) -> dict[str, str | int | float | bool]:
    """Read ``KEY=VALUE`` pairs; a value is a JSON number, a boolean (Python's too), else text.

    Raises:
        ConfigError: There is no ``=``, or a key stands twice.
    """
    options: dict[str, str | int | float | bool] = {}
    for pair in given:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise ConfigError(setting, pair, "expected KEY=VALUE")
        if key in options:
            raise ConfigError(setting, pair, f"{key} stands twice")
        try:
            value = json.loads(_BOOLEANS.get(text, text))
        except ValueError:
            value = text
        options[key] = value if isinstance(value, str | int | float | bool) else text
    return options


def parse_mapping(text: str | None) -> dict[str, str] | None:
    """Read ``prompt=COL,truth=COL``; ``truth=`` reads a set without truths.

    Raises:
        ConfigError: A part has no ``=``, names neither ``prompt`` nor ``truth``, or comes twice.
    """
    if text is None:
        return None
    mapping: dict[str, str] = {}
    for part in text.split(","):
        role, _, column = part.partition("=")
        is_empty = not column.strip() and (role.strip() != "truth" or "=" not in part)
        if role.strip() not in ("prompt", "truth") or is_empty:
            raise ConfigError("map", text, "expected prompt=COLUMN,truth=COLUMN")
        if role.strip() in mapping:
            raise ConfigError("map", text, f"{role.strip()} stands twice")
        mapping[role.strip()] = column.strip()
    return mapping
