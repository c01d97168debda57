"""Which files beside a source file it imports: they decide its grades as it does.

Nothing is imported. Import statements are read wherever they stand, in the file and in what it
imports. A module that is named by a computed string, or that lies elsewhere on ``sys.path``, is
not seen. Installed packages, the standard library and this package are libraries: they are not
followed, wherever they lie.
"""

import ast
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

_INIT = "__init__.py"
_INSTALLED = {"site-packages", "dist-packages"}
_LIBRARIES = (Path(os.__file__).parent, Path(__file__).parents[1])


def local_imports(source: Path, module: str | None = None) -> dict[Path, bytes]:
    """Contents of the files beside ``source`` that it imports, and that those import in turn.

    "Beside" is below the folder that its imports start from: its own and the one that its package
    lies in, or only the latter where it is imported by the name of a module. Where a name can mean
    several things at run time (a branch, a name that the standard library has too), its file
    counts.

    Args:
        source: A Python file; one that cannot be parsed imports nothing.
        module: The dotted name that it is imported by, ``None`` where it is by its path.

    Returns:
        Contents by path, without ``source`` and what cannot be read.
    """
    root = _package_root(source) if module is None else _root(source, module)
    roots = [root] if module is not None else list(dict.fromkeys([source.parent, root]))
    contents: dict[Path, bytes] = {}
    waiting = [source]
    while waiting:
        path = waiting.pop()
        if path in contents or _is_library(path):
            continue
        try:
            contents[path] = path.read_bytes()
        except OSError:  # then its import fails, too
            continue
        waiting += _imported(path, contents[path], roots)
    contents.pop(source, None)
    return contents


def _root(source: Path, module: str) -> Path:
    """The folder from which ``module`` is ``source``."""
    depth = len(module.split(".")) + (source.name == _INIT)
    return list(source.parents)[:depth][-1]


def _package_root(source: Path) -> Path:
    """The folder that the package of ``source`` lies in: its own where that is no package."""
    folders = (folder for folder in source.parents if not os.path.isfile(folder / _INIT))
    return next(folders, source.parent)


def _is_library(path: Path) -> bool:
    is_installed = not _INSTALLED.isdisjoint(path.parts)
    return is_installed or any(path.is_relative_to(library) for library in _LIBRARIES)


def _imported(path: Path, content: bytes, roots: Sequence[Path]) -> Iterator[Path]:
    """The files that the import statements of one file run, as far as they lie below ``roots``."""
    for level, parts in _statements(content):
        if level == 0:
            yield from next(filter(None, (_files(root, parts) for root in roots)), [])
            continue
        package = list(path.parents)[:level][-1]
        if any(package.is_relative_to(root) for root in roots):
            yield package / _INIT
            yield from _files(package, parts)


def _statements(content: bytes) -> Iterator[tuple[int, list[str]]]:
    """Level (0 is absolute) and dotted parts of everything that is imported."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of string escapes, said again by its import
            tree = ast.parse(content)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # the import says it
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = node.module.split(".") if node.module else []
            yield from ((node.level, [*parts, alias.name]) for alias in node.names)


def _files(folder: Path, parts: Sequence[str]) -> list[Path]:
    """The files below ``folder`` that one dotted name runs; the last part may be no module."""
    found: list[Path] = []
    for part in parts:
        if part == "*":  # what a package names in `__all__` is imported with it
            return [*found, *folder.glob("*.py"), *folder.glob(f"*/{_INIT}")]
        candidates = (folder / part / _INIT, folder / f"{part}.py")
        # `Path.is_file` raises in a folder that may not be read.
        found += [path for path in candidates if os.path.isfile(path)][:1]
        folder /= part
    return found
