"""What a verifier spec names: a built-in or registered name, a file, or a module.

* ``name`` or ``name:options``: built in (``exact``, ``numeric``, ``regex``), or registered under
  the entry-point group ``mlflow_rlrisk.verifiers``;
* ``path/to/file.py:function``;
* ``package.module:function``.

A name wins over a module of the same name; ``./name.py:function`` names the file.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from mlflow_rlrisk.errors import VerifierError

ENTRY_POINT_GROUP = "mlflow_rlrisk.verifiers"
BUILTIN_NAMES = ("exact", "numeric", "regex")

_FORMS = "a name, path/to/file.py:function or package.module:function"


@dataclass(frozen=True, slots=True)
class VerifierSpec:
    """A spec taken apart.

    Attributes:
        text: The spec as it was given; paths are absolute.
        kind: Where the verifier comes from.
        target: The name, the path or the module.
        detail: The options of a name (``""`` for none), else the function.
    """

    text: str
    kind: Literal["builtin", "plugin", "file", "module"]
    target: str
    detail: str


def parse_spec(spec: str | Callable[..., Any]) -> VerifierSpec:
    """Take a spec apart; a function is turned into the spec that names it.

    Raises:
        VerifierError: Malformed, a file that is not there, or a function that no spec can name.
    """
    text = spec if isinstance(spec, str) else _spec_of(spec)
    head, _, options = text.partition(":")
    if head in BUILTIN_NAMES:
        return VerifierSpec(text, "builtin", head, options)
    if head in registered_names():
        return VerifierSpec(text, "plugin", head, options)
    target, separator, function = text.rpartition(":")
    if not separator or not target or not all(p.isidentifier() for p in function.split(".")):
        known = ", ".join([*BUILTIN_NAMES, *sorted(registered_names() - set(BUILTIN_NAMES))])
        raise VerifierError(f"{text!r} names no verifier; known names: {known}; needed is {_FORMS}")
    if target.endswith(".py"):
        path = Path(target).expanduser().resolve()
        if not path.is_file():
            raise VerifierError(f"{text!r}: there is no file {path}")
        return VerifierSpec(f"{path}:{function}", "file", str(path), function)
    if not all(part.isidentifier() for part in target.split(".")):
        raise VerifierError(f"{text!r}: {target!r} is neither a .py file nor a module; {_FORMS}")
    return VerifierSpec(text, "module", target, function)


def registered_names() -> set[str]:
    """Names under the entry-point group."""
    return metadata.entry_points(group=ENTRY_POINT_GROUP).names


def _spec_of(function: Callable[..., Any]) -> str:
    """``file.py:name`` or ``module:name``: a worker imports it, it is not sent as code."""
    name = getattr(function, "__qualname__", None)
    module = getattr(function, "__module__", None)
    if not isinstance(name, str) or not isinstance(module, str) or "<" in name:
        raise VerifierError(
            f"{function!r} cannot be imported by a worker process; "
            "a function at the top level of a file or module is needed"
        )
    if module != "__main__":
        return f"{module}:{name}"
    file = inspect.getsourcefile(function)
    if file is None or not file.endswith(".py") or not Path(file).is_file():
        raise VerifierError(
            f"{name} has no source file (an interactive session?); "
            "write it to a file and name it as path/to/file.py:function"
        )
    return f"{file}:{name}"
