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
_REFERENCE = re.compile(
    r"\$\{(?P<select>oc\.select:)?\s*(?P<key>[\w.]+)\s*(?:,\s*(?P<other>[^{}]*))?\}"
)
_ITEM = re.compile(r"(?P<key>.+)\.(?P<place>[0-9]{1,4}|list_len)")
_DEEPEST = 8
_UNSET = frozenset({"", "None", "null", "~"})
_BOOLEANS = {"True": True, "False": False}


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
    try:
        flat = dict(_leaves(raw))
    except RecursionError:
        raise ConfigError("rl_config", name_of(source), "its mappings never end") from None
    return {key: _resolved(value, flat, _DEEPEST) for key, value in flat.items()}


def is_reference(value: Any) -> bool:
    """Whether a value stands for another one, which is not known."""
    return isinstance(value, str) and value.startswith("${") and value.endswith("}")


def _logged(run_id: str) -> dict[str, Any]:
    """Parameters of an MLflow run; verl's and SkyRL's keys come with slashes."""
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        params = mlflow.MlflowClient().get_run(run_id).data.params
    except (MlflowException, OSError) as error:
        raise ConfigError("rl_config", f"runs:/{run_id}", f"cannot be read: {error}") from error
    return _with_lists({name.replace("/", "."): params[name] for name in params})


def _with_lists(params: Mapping[str, str]) -> dict[str, Any]:
    """Values as they were before MLflow made texts of them.

    Trainers log the items of a list singly; no setting that is read depends on their order.
    """
    found: dict[str, Any] = {}
    lists: dict[str, list[str]] = {}
    for name, text in params.items():
        item = _ITEM.fullmatch(name)
        if item is None:
            found[name] = _value_in(text)
        elif item["place"] != "list_len":
            lists.setdefault(item["key"], []).append(text)
    return found | lists


def _leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Values by dotted key; a text that is a mapping, as TRL and MLflow have them, is one."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        value = _value_in(value)
    if not isinstance(value, Mapping):
        yield prefix, None if isinstance(value, str) and value.strip() in _UNSET else value
        return
    for key, each in value.items():
        yield from _leaves(each, f"{prefix}.{key}" if prefix else str(key))


def _value_in(text: str) -> Any:
    """What JSON or Python wrote as this text; else the text."""
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    readers = (json.loads, ast.literal_eval) if text.lstrip()[:1] in ("{", "[") else (json.loads,)
    for read in readers:
        try:
            return read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return text


def _resolved(value: Any, flat: Mapping[str, Any], depth: int) -> Any:
    """What ``${a.b}`` and ``${oc.select:a.b,other}`` stand for; anything else is left as it is.

    Also a reference to what is not there: `is_reference` tells it from a value.
    """
    found = _REFERENCE.fullmatch(value) if isinstance(value, str) else None
    if found is None or depth == 0:
        return value
    if found["key"] in flat:
        return _resolved(flat[found["key"]], flat, depth - 1)
    other = found["other"]
    if other is None and not found["select"]:
        return value
    return None if other is None or other.strip() in _UNSET else other.strip()
