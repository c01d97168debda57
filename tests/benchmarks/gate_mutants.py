"""Mutation score of gate and attestation: how many small faults do the tests notice?

Each mutant changes one comparison, boolean, number or condition, or leaves out one ``raise`` or
one call that is a statement. One run with coverage tells which tests execute which line; a mutant
meets only the tests of its line, the quickest first, until one fails, in a forked process, so that
libraries are imported once. Servers are left out.
``python -m tests.benchmarks.gate_mutants [--sample 100] [--budget-s 600] [--json FILE]``. A mutant
that no test notices is printed; those of `EQUIVALENT` mean the same as the original.
"""

import argparse
import ast
import importlib
import importlib.abc
import importlib.util
import io
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
MODULES = [
    *(f"attestation{part}" for part in ("", "_envelope", "_keys")),
    *(
        f"gate.{name}"
        for name in (
            *("guard", "promotion_policy", "names", "tags", "evidence", "files", "gatekeeper"),
            *("store", "joined", "turns", "refusals", "audit", "audit_entries", "audit_tables"),
            *("client", "overrides", "reconcile", "registry_database", "trainer"),
        )
    ),
]
TESTS = [
    *("guard", "attestation", "keys", "policy_file", "audit", "joined", "store", "store_tags"),
    *("edges", "commands", "judge_tier", "stages"),
]
LIMIT_S = 120
OPTIONS = ["-x", "-q", "-p", "no:cacheprovider", "--timeout", "0", "-W", "ignore"]
EQUIVALENT = {
    "condition never holds: if TYPE_CHECKING:": "it never holds at run time",
    "True becomes False: @dataclass(frozen=True, slots=True)": "nothing assigns to a record",
    "True becomes False: @dataclass(frozen=True, slots=True, kw_only=True)": (
        "nothing assigns to a record, adds to it or gives its fields by position"
    ),
    "False becomes True: def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) "
    "-> dict[Any, Any]:": "keys are read deeply in any case, values by the loader's own call",
    "False becomes True: evidence = gather(client, place, with_files=False)": (
        "files are listed and not looked at: slower, the same answer"
    ),
}
"""Why no test can tell a mutant, given by its words, from the original."""
_FLIPPED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}


@dataclass(frozen=True, slots=True)
class Mutant:
    """One small fault.

    Attributes:
        module: Where, by its full name.
        line: Of the original.
        what: What was done, with the original's text.
        source: The module as it is then.
    """

    module: str
    line: int
    what: str
    source: str


def path_of(module: str) -> Path:
    """The file of a module."""
    return ROOT / f"{module.replace('.', '/')}.py"


def mutants(module: str) -> Iterator[Mutant]:
    """Every mutant of a module."""
    source = path_of(module).read_text()
    for position, node in enumerate(ast.walk(ast.parse(source))):
        for number in range(len(_edits(node))):
            tree = ast.parse(source)
            target = list(ast.walk(tree))[position]
            place, edit = _edits(target)[number]
            line: int = place.lineno  # type: ignore[attr-defined]
            what = f"{edit()}: {source.splitlines()[line - 1].strip()}"
            yield Mutant(module, line, what, ast.unparse(tree))


def _edits(node: ast.AST) -> list[tuple[ast.AST, Callable[[], str]]]:
    """Edits of one node: what it is about, and a function that makes it and says what it was."""
    found: list[tuple[ast.AST, Callable[[], str]]] = []
    if isinstance(node, ast.Compare):
        found.append((node, lambda: _flip(node)))
    if isinstance(node, ast.BoolOp):
        found.append((node, lambda: _swap_boolean(node)))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        found.append((node, lambda: _set(node, "op", ast.UAdd(), "not dropped")))
    if isinstance(node, ast.Constant) and type(node.value) in (bool, int):
        value = not node.value if isinstance(node.value, bool) else node.value + 1
        found.append((node, lambda: _set(node, "value", value, f"{node.value} becomes {value}")))
    if isinstance(node, ast.If | ast.IfExp):
        never = ast.Constant(value=False)
        found.append((node, lambda: _set(node, "test", never, "condition never holds")))
    for name in ("body", "orelse"):
        block = getattr(node, name, None)
        for number, statement in enumerate(block if isinstance(block, list) else []):
            is_call = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call)
            if is_call or isinstance(statement, ast.Raise):
                found.append((statement, lambda b=block, n=number: _drop(b, n)))  # type: ignore[misc]
    return found


def _flip(node: ast.Compare) -> str:
    old = type(node.ops[0])
    node.ops[0] = _FLIPPED[old]()
    return f"{old.__name__} becomes {_FLIPPED[old].__name__}"


def _swap_boolean(node: ast.BoolOp) -> str:
    node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
    return f"becomes {type(node.op).__name__}"


def _set(node: ast.AST, name: str, value: object, what: str) -> str:
    setattr(node, name, value)
    return what


def _drop(block: list[ast.stmt], number: int) -> str:
    block[number] = ast.Pass()
    return "left out"


class _Replaced(importlib.abc.MetaPathFinder, importlib.abc.SourceLoader):
    """Gives one module another source."""

    def __init__(self, module: str, source: str) -> None:
        self._module, self._source = module, source

    def find_spec(self, name: str, path: object, target: object = None):  # type: ignore[no-untyped-def]
        if name != self._module:
            return None
        return importlib.util.spec_from_loader(name, self)

    def get_filename(self, fullname: str) -> str:
        return str(path_of(fullname))

    def get_data(self, path: str | bytes) -> bytes:
        return self._source.encode()

    def path_stats(self, path: str):  # type: ignore[no-untyped-def]
        raise OSError  # nothing is cached


class _Notes:
    """A pytest plugin: how long each test takes, with its fixtures, and what it imports."""

    def __init__(self, path: Path) -> None:
        self._path, self._seconds = path, dict[str, float]()

    def pytest_runtest_logreport(self, report: Any) -> None:
        self._seconds[report.nodeid] = self._seconds.get(report.nodeid, 0.0) + report.duration

    def pytest_sessionfinish(self) -> None:
        ours = ("mlflow_rlrisk", "tests", "__main__", "_pytest", "conftest")
        imported = [name for name in sys.modules if not name.startswith(ours)]
        self._path.write_text(json.dumps({"seconds": self._seconds, "imported": imported}))


def in_child(run: Callable[[], int]) -> int:
    """Exit code of a pytest run in a forked process; other than 0 where it was killed."""
    child = os.fork()
    if child == 0:
        code = 1
        with redirect_stdout(out := io.StringIO()), redirect_stderr(out):
            try:
                code = int(run())
            except BaseException:  # noqa: BLE001  a mutant may break anything
                out.write(traceback.format_exc())
        if "--verbose" in sys.argv:
            print(out.getvalue()[-2000:], flush=True)
        os._exit(code)
    _, status = os.waitpid(child, 0)
    return status


def tests_by_line(folder: Path) -> tuple[dict[str, dict[int, set[str]]], dict[str, float]]:
    """Tests that execute each line of each module, and how long each takes.

    Args:
        folder: Where the coverage lies or is put; ``coverage report --data-file`` reads it too.
    """
    from coverage import CoverageData

    data, notes = folder / "coverage", folder / "notes.json"
    if not notes.exists():
        os.environ["COVERAGE_FILE"] = str(data)
        # Tests that need a server of PostgreSQL are no more than a second look at what others show.
        selected = [*(f"tests/gate/test_{name}.py" for name in TESTS), "-k", "not postgresql"]
        coverage = ["--cov=mlflow_rlrisk", "--cov-branch", "--cov-context=test", "--cov-report="]
        plugins = [_Notes(notes)]
        if in_child(lambda: pytest.main([*OPTIONS, *coverage, *selected], plugins=plugins)):
            raise SystemExit("the tests fail on the original")
    found = CoverageData(str(data))
    found.read()
    lines = {}
    for module in MODULES:
        contexts = found.contexts_by_lineno(str(path_of(f"mlflow_rlrisk.{module}")))
        lines[f"mlflow_rlrisk.{module}"] = {
            line: {each.rpartition("|")[0] for each in tests if "|" in each}
            for line, tests in contexts.items()
        }
    noted = json.loads(notes.read_text())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in noted["imported"]:  # once, for every child
            with suppress(Exception):
                importlib.import_module(name)
    for name in [name for name in sys.modules if name.startswith("mlflow_rlrisk")]:
        del sys.modules[name]  # MLflow loads its plugins; a child must import what is mutated
    return lines, noted["seconds"]


def is_noticed(mutant: Mutant, tests: list[str]) -> bool:
    """Run tests on a mutant in a child process; a time-out counts as noticed."""

    def run() -> int:
        signal.alarm(LIMIT_S)
        sys.meta_path.insert(0, _Replaced(mutant.module, mutant.source))
        return int(pytest.main([*OPTIONS, "-p", "no:cov", *tests]))

    return in_child(run) != 0


def main() -> None:
    """Print the score and what survived."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sample", type=int, default=None)
    parser.add_argument("--budget-s", type=float, default=float("inf"))
    parser.add_argument("--module", help="Only this one, such as gate.guard.")
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--coverage", type=Path, help="Folder in which the coverage is kept.")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    chosen = [given.module] if given.module else MODULES
    cases = [each for name in chosen for each in mutants(f"mlflow_rlrisk.{name}")]
    with tempfile.TemporaryDirectory() as temporary:
        by_line, seconds = tests_by_line(given.coverage or Path(temporary))
    for module in {each.module for each in cases}:  # nothing is told by a mutant never imported
        tests = sorted(set().union(*by_line[module].values()), key=lambda test: seconds[test])
        if not is_noticed(Mutant(module, 0, "broken", "raise RuntimeError"), tests[:1]):
            raise SystemExit(f"{module} is not replaced by its mutants")
    random.Random(0).shuffle(cases)
    started, tried, noticed = time.monotonic(), 0, 0
    survived: list[dict[str, str]] = []
    equivalent: list[dict[str, str]] = []
    for mutant in cases[: given.sample]:
        if time.monotonic() - started > given.budget_s:
            break
        name = mutant.module.removeprefix("mlflow_rlrisk.")
        here = {"module": name, "line": str(mutant.line), "what": mutant.what}
        lines = by_line[mutant.module]
        tests = lines.get(mutant.line) or set().union(*lines.values())  # run when it is imported
        if is_noticed(mutant, sorted(tests, key=lambda test: seconds[test])):
            noticed, tried = noticed + 1, tried + 1
        elif mutant.what in EQUIVALENT:
            equivalent.append({**here, "reason": EQUIVALENT[mutant.what]})
        else:
            tried += 1
            survived.append(here)
            print(f"survived: {name} line {mutant.line}: {mutant.what}", flush=True)
    print(f"{noticed} of {tried} mutants noticed ({noticed / max(tried, 1):.1%})")
    print(f"{len(equivalent)} more mean the same as the original; {len(cases)} in all")
    if given.json:
        told = {"command": "python -m tests.benchmarks.gate_mutants", "mutants": len(cases)}
        counts = {"tried": tried, "noticed": noticed, "score": noticed / max(tried, 1)}
        lists = {"survived": survived, "equivalent": equivalent}
        given.json.write_text(json.dumps({**told, **counts, **lists}, indent=1) + "\n")


if __name__ == "__main__":
    main()
