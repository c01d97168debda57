"""Settings of a trainer as one flat mapping, wherever they come from."""

import ast
import json
import re
from collections.abc import Iterator, Mapping
from os import PathLike, fspath
from typing import Any

from mlflow_rlrisk.errors import ConfigError
from mlflow_rlrisk.yaml_settings import read_settings

_RUN = re.compile(r"runs:/(?P<run_id>[A-Za-z0-9]+)/?")
_REFERENCE = re.compile(r"\$\{(?:oc\.select:)?\s*(?P<key>[\w.]+)\s*(?:,\s*(?P<other>[^{}]*))?\}")
_DEEPEST = 8
_UNSET = frozenset({"", "None", "null", "~"})


def name_of(source: str | PathLike[str] | Mapping[str, Any]) -> str:
    """How messages call a source."""
    if isinstance(source, Mapping):
        return "the mapping given"
    if isinstance(source, str | PathLike):
        return fspath(source)
    raise ConfigError("rl_config", source, "a path, runs:/<id> or a mapping is needed")


def flat_settings(source: str | PathLike[str] | Mapping[str, Any]) -> dict[str, Any]:
    """The settings by dotted key, as ``generation_kwargs.stop``; references are resolved.

    Args:
        source: A file, ``runs:/<id>`` of MLflow, or the settings themselves.

    Raises:
        ConfigError: It cannot be read.
    """
    if isinstance(source, Mapping):
        raw = dict(source)
    elif (run := _RUN.fullmatch(fspath(source))) is not None:
        raw = _logged(run["run_id"])
    else:
        raw = read_settings(source, "rl_config")
    flat = dict(_leaves(raw))
    return {key: _resolved(value, flat, _DEEPEST) for key, value in flat.items()}


def _logged(run_id: str) -> dict[str, Any]:
    """Parameters of an MLflow run, which are texts; verl's keys come with slashes."""
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        params = mlflow.MlflowClient().get_run(run_id).data.params
    except (MlflowException, OSError) as error:
        raise ConfigError("rl_config", f"runs:/{run_id}", f"cannot be read: {error}") from error
    return {name.replace("/", "."): value for name, value in params.items()}


def _leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Values by dotted key; a text that is a mapping, as TRL and MLflow have them, is one."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        value = _mapping_in(value)
    if not isinstance(value, Mapping):
        yield prefix, None if isinstance(value, str) and value.strip() in _UNSET else value
        return
    for key, each in value.items():
        yield from _leaves(each, f"{prefix}.{key}" if prefix else str(key))


def _mapping_in(text: str) -> Any:
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return text


def _resolved(value: Any, flat: Mapping[str, Any], depth: int) -> Any:
    """What ``${a.b}`` and ``${oc.select:a.b,other}`` stand for; anything else is left as it is."""
    found = _REFERENCE.fullmatch(value) if isinstance(value, str) else None
    if found is None or depth == 0:
        return value
    if found["key"] in flat:
        return _resolved(flat[found["key"]], flat, depth - 1)
    other = found["other"]
    return None if other is None or other.strip() in _UNSET else other.strip()
