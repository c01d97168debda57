"""Meets mutants with tests that are collected already: what changes a function is put in its place.

Starting pytest, importing MLflow and migrating a database cost more than most tests. A mutant of a
function needs none of it anew: a forked child gives the function the mutant's code and runs the
items of its lines. What changes a module's or a class's own statements is left to a fresh import.
"""

import ast
import functools
import gc
import importlib
import shutil
import signal
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import pytest

LIMIT_S = 60.0
"""Wall time of a test, besides twenty times what it took: a machine with other work is no fault."""
_IN_FUNCTION = 1  # inspect.CO_OPTIMIZED


def _own(code: CodeType) -> tuple[object, ...]:
    """All of a code object that means something but the code objects within it."""
    constants = [(type(c), repr(c)) for c in code.co_consts if not isinstance(c, CodeType)]
    names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
    return code.co_code, constants, names, code.co_exceptiontable


def _within(code: CodeType) -> list[CodeType]:
    return [each for each in code.co_consts if isinstance(each, CodeType)]


def _walk(code: CodeType) -> Iterator[tuple[object, ...]]:
    yield _own(code)
    for each in _within(code):
        yield from _walk(each)


def changed_function(original: str, mutated: str) -> CodeType | None:
    """New code of the one outermost function that differs; ``None`` where more than that does."""
    found = _changed(compile(ast.unparse(ast.parse(original)), "x", "exec"), _compiled(mutated))
    return found[0] if found is not None and len(found) == 1 else None


def _compiled(source: str) -> CodeType:
    return compile(source, "x", "exec")


def _changed(old: CodeType, new: CodeType) -> list[CodeType] | None:
    if _own(old) != _own(new) or len(_within(old)) != len(_within(new)):
        return None
    found: list[CodeType] = []
    for one, other in zip(_within(old), _within(new), strict=True):
        if list(_walk(one)) == list(_walk(other)):
            continue
        deeper = [other] if one.co_flags & _IN_FUNCTION else _changed(one, other)
        if deeper is None:
            return None
        found += deeper
    return found


class Session:
    """A pytest plugin: collects, runs one test to set the session's fixtures up, then ``meet``s.

    Args:
        first: The test that runs in this process.
        meet: What is done in place of running the tests.
        seconds: How long each test takes.
        modules: In which functions are replaced.
    """

    def __init__(
        self,
        first: str,
        meet: Callable[["Session"], None],
        seconds: dict[str, float],
        modules: list[str],
    ) -> None:
        self._first, self._meet, self._seconds, self._modules = first, meet, seconds, modules
        self._items: dict[str, pytest.Item] = {}
        self._session: Any = None
        self._functions: dict[tuple[str, str], list[FunctionType]] = defaultdict(list)
        self._caches: list[Any] = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Collected; go."""
        self._session, self._items = session, {each.nodeid: each for each in session.items}
        first, other = self._items[self._first], session.items[0]
        first.config.hook.pytest_runtest_protocol(item=first, nextitem=other)
        if session.testsfailed:
            raise SystemExit("the first test fails on the original")
        for name in self._modules:
            importlib.import_module(name)
        for each in gc.get_objects():
            if isinstance(each, FunctionType):
                self._functions[each.__code__.co_filename, each.__code__.co_qualname].append(each)
            elif isinstance(each, functools._lru_cache_wrapper):
                self._caches.append(each)
        self._meet(self)
        return True

    def can_replace(self, path: Path, code: CodeType) -> bool:
        """Whether the code is for one function, which a module imported twice has twice."""
        found = self._functions[str(path), code.co_qualname]
        lines = {each.__code__.co_firstlineno for each in found}
        return len(lines) == 1 and found[0].__code__.co_freevars == code.co_freevars

    def run(
        self, tests: Sequence[str], path: Path | None = None, code: CodeType | None = None
    ) -> int:
        """Run tests until one fails, in this process, which must be a forked one.

        Args:
            tests: In this order.
            path: Of the module that is changed.
            code: What its function is given.

        Returns:
            1 where one failed. A test that does not end kills the process (``SIGALRM``).
        """
        for cache in self._caches:
            if str(getattr(cache, "__module__", "")).startswith("mlflow_rlrisk"):
                cache.cache_clear()
        if path is not None and code is not None:
            for function in self._functions[str(path), code.co_qualname]:
                function.__code__ = code
        items = [self._items[test] for test in tests]
        folder = Path(tempfile.mkdtemp(prefix="rlrisk-mutant-"))
        self._session.config._tmp_path_factory._basetemp = folder
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        try:
            for item, following in zip(items, [*items[1:], None], strict=True):
                signal.setitimer(signal.ITIMER_REAL, LIMIT_S + 20 * self._seconds[item.nodeid])
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
                if self._session.testsfailed:
                    return 1
            return 0
        finally:
            shutil.rmtree(folder, ignore_errors=True)
