"""What a verifier spec names: a built-in or registered name, a file, or a module.

* ``name`` or ``name:options``: built in (``exact``, ``numeric``, ``regex``, ``math``), or
  registered under the entry-point group ``mlflow_rlrisk.verifiers``;
* ``path/to/file.py:function``;
* ``package.module:function``;
* ``evaluate:path/to/module``: a module of Hugging Face's evaluate, a folder or a script, or the
  name of one that can be loaded.

``DIALECT:`` before the last three forms says how the function is called instead of what its
signature tells; ``#PART`` behind them chooses a part of a reward in several parts. A name wins
over a module of the same name; ``./name.py:function`` names the file.
"""

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from mlflow_rlrisk.errors import VerifierError
from mlflow_rlrisk.verifiers.dialects import DIALECTS

ENTRY_POINT_GROUP = "mlflow_rlrisk.verifiers"
BUILTIN_NAMES = ("exact", "numeric", "regex", "math")

_FORMS = (
    "a name, path/to/file.py:function or package.module:function, with DIALECT: before it where "
    f"the signature does not tell ({', '.join(DIALECTS)})"
)
_PART = re.compile(r"#(?P<part>[\w./-]+)\Z")


@dataclass(frozen=True, slots=True)
class VerifierSpec:
    """A spec taken apart.

    Attributes:
        text: The spec as it was given; paths are absolute.
        kind: Where the verifier comes from.
        target: The name, the path or the module.
        detail: The options of a name (``""`` for none), else the function.
        dialect: How a function is called, where the spec says it.
        part: The part of a reward in several parts that counts.
    """

    text: str
    kind: Literal["builtin", "plugin", "file", "module", "evaluate"]
    target: str
    detail: str
    dialect: str | None = None
    part: str | None = None


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
    found = _PART.search(text)
    part = found["part"] if found else None
    bare = text[: found.start()] if found else text
    dialect, _, rest = bare.partition(":")
    if dialect not in DIALECTS or not (":" in rest or dialect == "evaluate"):
        dialect, rest = "", bare
    if dialect == "evaluate" and not _names_function(rest):
        return _evaluate_spec(rest, part)
    if not dialect and _module_script(rest) is not None:
        return _evaluate_spec(rest, part)
    return _function_spec(text, rest, dialect or None, part)


def spec_beside(root: Path, text: str) -> str:
    """The spec with a relative path in it taken from ``root``, whether it is there or not."""
    head, _, rest = text.partition(":")
    if head in BUILTIN_NAMES or head in registered_names():
        return text
    if head in DIALECTS and rest:
        return f"{head}:{spec_beside(root, rest)}"
    path = re.split("[:#]", text, maxsplit=1)[0]
    place = root / Path(path).expanduser()
    is_path = path.endswith(".py") or place.exists()
    return f"{place}{text[len(path) :]}" if is_path else text


def _function_spec(text: str, rest: str, dialect: str | None, part: str | None) -> VerifierSpec:
    target, _, function = rest.rpartition(":")
    if not _names_function(rest):
        known = ", ".join([*BUILTIN_NAMES, *sorted(registered_names() - set(BUILTIN_NAMES))])
        raise VerifierError(f"{text!r} names no verifier; known names: {known}; needed is {_FORMS}")
    before, behind = f"{dialect}:" if dialect else "", f"#{part}" if part else ""
    if target.endswith(".py"):
        path = Path(target).expanduser().resolve()
        if not path.is_file():
            raise VerifierError(f"{text!r}: there is no file {path}")
        whole = f"{before}{path}:{function}{behind}"
        return VerifierSpec(whole, "file", str(path), function, dialect, part)
    if not all(name.isidentifier() for name in target.split(".")):
        raise VerifierError(f"{text!r}: {target!r} is neither a .py file nor a module; {_FORMS}")
    return VerifierSpec(
        f"{before}{target}:{function}{behind}", "module", target, function, dialect, part
    )


def _names_function(text: str) -> bool:
    target, _, function = text.rpartition(":")
    return bool(target) and all(name.isidentifier() for name in function.split("."))


def _evaluate_spec(target: str, part: str | None) -> VerifierSpec:
    """A module of evaluate: an absolute path, or a name that evaluate itself may know."""
    path = Path(target).expanduser()
    if not target:
        raise VerifierError("evaluate: names no module; needed is evaluate:path/to/module")
    if path.exists():
        target = str(path.resolve())
        if _module_script(target) is None:
            raise VerifierError(
                f"{target} is no module of evaluate: its script, or a folder NAME with NAME.py in "
                "it, is needed"
            )
    elif "/" in target.rstrip("/") and target.startswith((".", "/", "~")):
        raise VerifierError(f"evaluate:{target}: there is no {path}")
    text = f"evaluate:{target}{f'#{part}' if part else ''}"
    return VerifierSpec(text, "evaluate", target, "", "evaluate", part)


def _module_script(text: str) -> Path | None:
    """The script of a local evaluate module: ``NAME/NAME.py``, or the script itself."""
    path = Path(text).expanduser().resolve()
    script = path / f"{path.name}.py" if path.is_dir() else path
    if script.suffix != ".py" or not script.is_file():
        return None
    # A module of evaluate descends from its classes; a reward file whose function was forgotten
    # does not.
    return script if b"evaluate" in script.read_bytes() else None


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
            "a function or class at the top level of a file or module is needed, "
            "or the name of an object there: path/to/file.py:name"
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
