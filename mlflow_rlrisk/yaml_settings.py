"""Settings in YAML: one mapping with names as keys, and no key twice."""

from os import PathLike
from pathlib import Path
from typing import Any

import yaml

from mlflow_rlrisk.errors import ConfigError

_FAULTS = (yaml.YAMLError, RecursionError, ArithmeticError, AttributeError, LookupError, ValueError)
"""What PyYAML raises; the last four where a value is none of its type, such as 2026-13-45."""


class _NoRepeatedKeys(yaml.SafeLoader):
    """A key that stands twice is an error: the second would win silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Refuse the mapping, or make it."""
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if len({str(key) for key in keys}) != len(keys):
            raise yaml.YAMLError(f"a key stands twice, line {node.start_mark.line + 1}")
        return super().construct_mapping(node, deep=deep)


def read_settings(path: str | PathLike[str], what: str) -> dict[str, Any]:
    """The settings in a file.

    Args:
        path: The file.
        what: The setting that names the file, for messages.

    Raises:
        ConfigError: It cannot be read or holds no settings.
    """
    try:
        content = Path(path).read_bytes()
    except (OSError, ValueError) as error:  # a null byte in its name
        raise ConfigError(what, str(path), f"cannot be read: {error}") from error
    return settings_in(content, what, str(path))


def settings_in(content: str | bytes, what: str, place: str = "file") -> dict[str, Any]:
    """The settings in a text; arguments and errors as those of `read_settings`."""
    try:
        raw = yaml.load(content, Loader=_NoRepeatedKeys)
    except _FAULTS as error:
        raise ConfigError(what, place, f"cannot be read, it is no YAML: {error}") from error
    if not isinstance(raw, dict) or not all(isinstance(key, str) for key in raw):
        found = "it is empty; it " if raw is None else ""
        raise ConfigError(what, place, f"{found}must be a mapping from settings to values")
    return raw
