"""From a spec to a verifier, and to what is recorded of it.

A user's module is imported in a worker process only: it may be slow, print, or end the
interpreter. What is recorded is a digest of the source, so that a report says which reward
function gave its grades. The files beside it that it imports are part of the digest, libraries
are not (`local_imports`): of a verifier that a package registers, the package's version is.
"""

import atexit
import hashlib
import importlib
import importlib.util
import inspect
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from mlflow_rlrisk import stated_answers
from mlflow_rlrisk.errors import MissingDependencyError, VerifierError
from mlflow_rlrisk.verifiers import Verifier, builtin, extraction, functions, rubric
from mlflow_rlrisk.verifiers.local_imports import local_imports
from mlflow_rlrisk.verifiers.specs import ENTRY_POINT_GROUP, VerifierSpec

_PACKAGE = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedVerifier:
    """What is known and recorded of a verifier that could be loaded.

    Attributes:
        spec: The spec that names it; a path is absolute.
        name: Short name for people: ``numeric``, ``rewards.py:accuracy``.
        kind: ``builtin``, ``plugin`` (registered by a package) or ``function``.
        dialect: How a function is called (one of `dialects.DIALECTS`), else ``None``.
        digest: SHA-256 over source, files beside it that the source imports, options, and the
            version of the package that registers it; independent of where the file lies.
        extracts_answers: Its grades carry the canonical answer; otherwise none of them does.
        wants_token_ids: It is shown the token ids of the completions.
        grades_texts: It can grade a text whose tokens are not known, such as a gold answer.
        judge_tier: Isolation under which it runs candidate code: ``A``, ``B``, ``C``, or
            ``unsafe`` without any; ``None`` where it is no code judge.
    """

    spec: str
    name: str
    kind: Literal["builtin", "plugin", "function"]
    dialect: str | None
    digest: str
    extracts_answers: bool
    wants_token_ids: bool
    grades_texts: bool = True
    judge_tier: str | None = None

    @property
    def described(self) -> str:
        """The name, with the dialect of a function behind it."""
        return self.name if self.dialect is None else f"{self.name} ({self.dialect})"


def source_digest(spec: VerifierSpec) -> str | None:
    """The digest that loading would give, of files alone: nothing of the user's is imported.

    Args:
        spec: The spec, taken apart.

    Returns:
        The digest of `LoadedVerifier`. Of a function that the named file has from one that is not
        beside it it is never the one that loading gives. ``None`` where files do not tell:
        registered by a package, a module of evaluate, or without a source file.
    """
    if spec.kind == "builtin":
        return _builtin_digest(spec)
    path = Path(spec.target) if spec.kind == "file" else None
    if spec.kind == "module":
        path = _module_file(spec.target)
    if path is None or not path.is_file():
        return None
    return _function_digest(spec, path, [])


def open_verifier(spec: VerifierSpec) -> tuple[Verifier, LoadedVerifier]:
    """Import and construct the verifier in this process; a worker does this.

    Raises:
        VerifierError: The options or the signature do not fit. What the import of a user's
            module raises passes through.
    """
    if spec.kind in ("builtin", "plugin"):
        return _open_factory(spec)
    if spec.kind == "evaluate":
        return _open_evaluate(spec)
    return _open_function(spec)


def _open_factory(spec: VerifierSpec) -> tuple[Verifier, LoadedVerifier]:
    if spec.kind == "builtin":
        factory = builtin.FACTORIES[spec.target]
        digest = _builtin_digest(spec)
    else:
        entry_point = _registered(spec)
        factory = entry_point.load()
        digest = _plugin_digest(spec, entry_point, factory)
    verifier = factory(spec.detail)
    for method in ("problem_with", "verify"):
        if not callable(getattr(verifier, method, None)):
            raise VerifierError(f"{spec.text}: {type(verifier).__name__} has no method {method}")
    return verifier, LoadedVerifier(
        spec=spec.text,
        name=str(getattr(verifier, "name", spec.text)),
        kind="builtin" if spec.kind == "builtin" else "plugin",
        dialect=None,
        digest=digest,
        extracts_answers=bool(getattr(verifier, "extracts_answers", True)),
        wants_token_ids=bool(getattr(verifier, "wants_token_ids", False)),
        judge_tier=getattr(verifier, "judge_tier", None),
    )


def _registered(spec: VerifierSpec) -> metadata.EntryPoint:
    found = list(metadata.entry_points(group=ENTRY_POINT_GROUP, name=spec.target))
    if len(found) != 1:
        packages = ", ".join(sorted(each.dist.name for each in found if each.dist)) or "none"
        raise VerifierError(f"{spec.text}: one package must register {spec.target!r}: {packages}")
    return found[0]


def _plugin_digest(spec: VerifierSpec, entry_point: metadata.EntryPoint, factory: object) -> str:
    """Of our own all files of the factory's folder; of others the version and what is local."""
    module = Path(str(sys.modules[entry_point.module].__file__))
    defined_in = _source_files(factory)
    if module.is_relative_to(_PACKAGE):
        return _digest(spec.target, spec.detail, sorted(module.parent.rglob("*.py")))
    imports = local_imports(module, entry_point.module)
    others = [file for file in defined_in if file not in imports]
    version = f"{entry_point.dist.name}=={entry_point.dist.version}" if entry_point.dist else ""
    return _digest(spec.target, "#".join([spec.detail, version]), [module, *others], imports)


def _builtin_digest(spec: VerifierSpec) -> str:
    modules = (builtin, extraction, stated_answers)
    sources = [Path(str(module.__file__)) for module in modules]
    sources += _source_files(builtin.FACTORIES[spec.target])
    return _digest(spec.target, spec.detail + _library(spec), sources)


def _library(spec: VerifierSpec) -> str:
    """The library that decides, with its version: another one may give other grades."""
    return f"math-verify=={metadata.version('math-verify')}" if spec.target == "math" else ""


def _open_function(spec: VerifierSpec) -> tuple[Verifier, LoadedVerifier]:
    module = _import_file(spec.target) if spec.kind == "file" else _import_module(spec.target)
    name = f"{Path(spec.target).name if spec.kind == 'file' else spec.target}:{spec.detail}"
    function: Any = module
    owner: Any = None
    for part in spec.detail.split("."):
        if not hasattr(function, part):
            raise VerifierError(f"{name}: {spec.target} has no {part!r}")
        owner, function = function, getattr(function, part)
    home = sys.modules.get(getattr(function, "__module__", "") or "", module)
    verifier = _adapted(spec, name, function, owner, home)
    return verifier, LoadedVerifier(
        spec=spec.text,
        name=name,
        kind="function",
        dialect=verifier.dialect,
        digest=_function_digest(spec, Path(str(module.__file__)), _source_files(function)),
        extracts_answers=verifier.extract_answer is not None,
        wants_token_ids=verifier.wants_token_ids,
        grades_texts=verifier.grades_texts,
    )


def _adapted(
    spec: VerifierSpec, name: str, function: Any, owner: Any, home: ModuleType
) -> "functions.FunctionVerifier | rubric.RubricVerifier":
    parser = getattr(home, "parser", None)
    parser = parser if callable(getattr(parser, "parse_answer", None)) else None
    parts = None if spec.dialect else rubric.functions_of(function)
    if parts is not None:
        if spec.part or not parts:
            need = "all its weights are 0" if not parts else f"it has no part {spec.part!r}"
            raise VerifierError(f"{name} is a Rubric, whose functions are added up: {need}")
        parser = getattr(function, "parser", None) or parser
        adapted = [
            (functions.adapt(f, f"{name} ({f.__name__})", dialect="verifiers", parser=parser), w)
            for f, w in parts
        ]
        return rubric.RubricVerifier(adapted)
    return functions.adapt(
        function,
        name,
        getattr(home, "extract_answer", None),
        dialect=spec.dialect,
        part=spec.part,
        parser=parser,
        owner=owner,
    )


def _open_evaluate(spec: VerifierSpec) -> tuple[Verifier, LoadedVerifier]:
    """Load a module of evaluate with its caches in a folder that ends with the worker."""
    if importlib.util.find_spec("evaluate") is None:
        raise MissingDependencyError("a module of Hugging Face evaluate", "evaluate")
    import evaluate

    cache = tempfile.mkdtemp(prefix="rlrisk-evaluate-")
    atexit.register(shutil.rmtree, cache, ignore_errors=True)
    try:
        module = evaluate.load(spec.target, keep_in_memory=True, cache_dir=cache)
    except (FileNotFoundError, ConnectionError) as error:
        raise VerifierError(
            f"{spec.text}: evaluate cannot load it ({error}); without the Hub a path is needed: "
            "evaluate:path/to/module"
        ) from error
    name = f"evaluate:{Path(spec.target).name}"
    verifier = functions.adapt(module, name, dialect="evaluate", part=spec.part)
    target = Path(spec.target)
    local = sorted(target.glob("*.py")) if target.is_dir() else [target]
    sources = local if target.exists() else _source_files(module)
    script = target / f"{target.name}.py" if target.is_dir() else target
    imports = {path: raw for path, raw in local_imports(script).items() if path not in sources}
    return verifier, LoadedVerifier(
        spec=spec.text,
        name=name,
        kind="function",
        dialect="evaluate",
        digest=_digest(name, _options(spec), sources, imports),
        extracts_answers=False,
        wants_token_ids=False,
    )


def _options(spec: VerifierSpec) -> str:
    """What the spec says beside the function; it changes the rewards."""
    return "#".join([spec.dialect or "", spec.part or ""]).strip("#")


def _import_file(path: str) -> ModuleType:
    """Import a file as a script's own folder would see it."""
    sys.path.insert(0, str(Path(path).parent))
    stem = Path(path).stem
    name = stem if stem.isidentifier() and stem not in sys.modules else f"rlrisk_verifier_{stem}"
    found = importlib.util.spec_from_file_location(name, path)
    if found is None or found.loader is None:
        raise VerifierError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module
    found.loader.exec_module(module)
    return module


def _import_module(name: str) -> ModuleType:
    if str(Path.cwd()) not in sys.path and "" not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # as `python -m` does; a console script does not
    module = importlib.import_module(name)
    if getattr(module, "__file__", None) is None:
        raise VerifierError(f"module {name} has no source file")
    return module


def _module_file(name: str) -> Path | None:
    """The source file that `_import_module` would import, found without importing its parents."""
    here = str(Path.cwd())
    places = None if here in sys.path or "" in sys.path else [here, *sys.path]
    found: ModuleSpec | None = None
    parts = name.split(".")
    for depth in range(1, len(parts) + 1):
        known = ".".join(parts[:depth])
        specs = (finder.find_spec(known, places) for finder in sys.meta_path)
        try:
            found = next(filter(None, specs), None)
            places = list((found and found.submodule_search_locations) or ())
        except KeyError:  # a namespace inside one that is not imported
            return None
    return Path(str(found.origin)) if found is not None and found.has_location else None


def _source_files(item: object) -> list[Path]:
    """The file that holds the source of a function, class or callable object, if there is one."""
    for candidate in (inspect.unwrap(item) if callable(item) else item, type(item)):
        try:
            file = inspect.getsourcefile(candidate)  # type: ignore[arg-type]
        except TypeError:
            continue
        if file is not None:
            return [Path(file)]
    return []


def _function_digest(spec: VerifierSpec, path: Path, defined_in: list[Path]) -> str:
    """Of a function that the file ``path`` has, maybe from another one."""
    imports = local_imports(path, spec.target if spec.kind == "module" else None)
    others = [file for file in defined_in if file not in imports]
    return _digest(spec.detail, _options(spec), [path, *others], imports)


def _digest(
    name: str, options: str, sources: list[Path], imports: Mapping[Path, bytes] | None = None
) -> str:
    """Files that are imported enter with their paths from the folder of the first source."""
    contents = {hashlib.sha256(path.read_bytes()).hexdigest() for path in sources}
    body: dict[str, Any] = {"name": name, "options": options, "sources": sorted(contents)}
    if imports:  # only then: grades are stored under digests without
        body["imports"] = sorted(
            [os.path.relpath(path, sources[0].parent), hashlib.sha256(content).hexdigest()]
            for path, content in imports.items()
        )
    return hashlib.sha256(json.dumps(body).encode()).hexdigest()
