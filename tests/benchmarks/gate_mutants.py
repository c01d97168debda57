"""Mutation score of gate and attestation: how many small faults do the tests notice?

Each mutant changes one comparison, boolean, number or condition, or leaves out one ``raise`` or
one call that is a statement. One run with coverage tells which tests execute which line; a mutant
meets only the tests of its line, the quickest first, until one fails, in a forked process: most of
them within a pytest that has collected already (`mutants_in_place`), the rest in a fresh one.
Servers are left out. ``python -m tests.benchmarks.gate_mutants [--sample 100] [--json FILE]``. A
mutant that no test notices is printed; those of `EQUIVALENT` mean the same and are not tried.
"""

import argparse
import ast
import hashlib
import importlib
import importlib.abc
import importlib.util
import io
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.mutants_in_place import Session, changed_function

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
LIMIT_S = 300
"""Wall time of a fresh pytest; one that is killed then was not noticed by a test, and is told."""
TESTS_S = 40.0
"""Tests of a mutant that together take longer than this are left out, the slowest first."""
FIRST = "tests/gate/test_store.py::test_unprotected_places_are_not_logged_nor_looked_at"
OPTIONS = ["-x", "-q", "-p", "no:cacheprovider", "--timeout", "0", "-W", "ignore"]
EQUIVALENT = {
    "condition never holds: if TYPE_CHECKING:": "it never holds at run time",
    "True becomes False: @dataclass(frozen=True, slots=True)": "nothing assigns to a record",
    "True becomes False: @dataclass(frozen=True, slots=True, kw_only=True)": (
        "nothing assigns to a record, adds to it or gives its fields by position"
    ),
    "False becomes True: def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) "
    "-> dict[Any, Any]:": "keys are read deeply in any case, values by the loader's own call",
    **{
        f"{size} becomes {size + 1}: @lru_cache(maxsize={size})": "how much is kept, not what"
        for size in (128, 1024, 4096)
    },
    "False becomes True: evidence = gather(self.registry, place, self.former_names, "
    "with_files=False)": "files are listed and not looked at: slower, the same answer",
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

    @property
    def digest(self) -> str:
        """Names it."""
        return hashlib.sha256(f"{self.module} {self.source}".encode()).hexdigest()


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
        if "RLRISK_VERBOSE" in os.environ:
            os.write(2, out.getvalue()[-3000:].encode())
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


def fate_of(mutant: Mutant, tests: list[str]) -> str:
    """Run tests on a mutant in a fresh pytest in a child process."""

    def run() -> int:
        signal.alarm(LIMIT_S)
        sys.meta_path.insert(0, _Replaced(mutant.module, mutant.source))
        return int(pytest.main([*OPTIONS, "-p", "no:cov", *tests]))

    return _fate(in_child(run))


def _fate(status: int) -> str:
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGALRM:
        return "hangs"
    return "noticed" if status else "survived"


class Score:
    """What became of the mutants; kept in a file as it grows, two processes write it in turn."""

    def __init__(self, path: Path, num_mutants: int) -> None:
        self._path, self._started, self._num_mutants = path, time.monotonic(), num_mutants
        self._tried: dict[str, str] = {}
        self.lists: dict[str, list[dict[str, str]]] = {
            "survived": [],
            "hangs": [],
            "equivalent": [],
        }

    def add(self, mutant: Mutant, fate: str) -> None:
        """Count one; one that makes a test hang is noticed by whoever waits for it."""
        here = {"module": mutant.module.removeprefix("mlflow_rlrisk."), "line": str(mutant.line)}
        here["what"] = mutant.what
        if fate in ("survived", "hangs"):
            print(f"{fate}: {' '.join(here.values())}", flush=True)
        if fate == "equivalent":
            here["reason"] = EQUIVALENT[mutant.what]
        if fate != "noticed":
            self.lists[fate].append(here)
        self._tried[mutant.digest] = fate
        kept = {**self.to_dict(), "fates": self._tried}
        self._path.write_text(json.dumps(kept, indent=1) + "\n")

    def read(self) -> None:
        """Go on with what the other process wrote."""
        kept = json.loads(self._path.read_text())
        self._tried, self.lists = kept["fates"], {name: kept[name] for name in self.lists}

    def has(self, mutant: Mutant) -> bool:
        """Whether it was counted."""
        return mutant.digest in self._tried

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON values."""
        git = ["git", "rev-parse", "--short", "HEAD"]
        fates = [each for each in self._tried.values() if each != "equivalent"]
        noticed = sum(each != "survived" for each in fates)
        return {
            "command": "python -m tests.benchmarks.gate_mutants",
            "commit": subprocess.check_output(git, cwd=ROOT, text=True).strip(),
            "mutants": self._num_mutants,
            "tried": len(fates),
            "noticed": noticed,
            "score": noticed / max(len(fates), 1),
            "minutes": round((time.monotonic() - self._started) / 60, 1),
            **self.lists,
        }


def main() -> None:
    """Print the score and what survived."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sample", type=int, default=None)
    parser.add_argument("--budget-s", type=float, default=float("inf"))
    parser.add_argument("--module", help="Only this one, such as gate.guard.")
    parser.add_argument("--coverage", type=Path, help="Folder in which the coverage is kept.")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    chosen = [given.module] if given.module else MODULES
    cases = [each for name in chosen for each in mutants(f"mlflow_rlrisk.{name}")]
    with tempfile.TemporaryDirectory() as temporary:
        by_line, seconds = tests_by_line(given.coverage or Path(temporary))
    random.Random(0).shuffle(cases)
    deadline = time.monotonic() + given.budget_s
    score = Score(given.json or Path(tempfile.mkstemp(suffix=".json")[1]), len(cases))

    def tests_of(mutant: Mutant) -> list[str]:
        lines = by_line[mutant.module]
        tests = lines.get(mutant.line) or set().union(*lines.values())  # run when it is imported
        ordered = sorted(tests, key=lambda test: seconds[test])
        spent = itertools.accumulate(seconds[test] for test in ordered)
        return [test for test, total in zip(ordered, spent, strict=True) if total <= TESTS_S]

    cases = cases[: given.sample]
    told = [each for each in cases if each.what in EQUIVALENT]
    codes = {
        each: changed_function(path_of(each.module).read_text(), each.source) for each in cases
    }

    def meet(session: Session) -> None:
        every = sorted({test for each in cases for test in tests_of(each)}, key=seconds.__getitem__)
        if in_child(lambda: session.run(every)):
            raise SystemExit("the tests fail on the original")
        for mutant, code in codes.items():
            path = path_of(mutant.module)
            if mutant in told:
                score.add(mutant, "equivalent")
            elif (
                code is not None and session.can_replace(path, code) and time.monotonic() < deadline
            ):
                status = in_child(partial(session.run, tests_of(mutant), path, code))
                score.add(mutant, _fate(status))

    if (child := os.fork()) == 0:
        files = [f"tests/gate/test_{name}.py" for name in TESTS]
        session = Session(FIRST, meet, seconds, list(by_line))
        code = pytest.main([*OPTIONS, "-p", "no:cov", "--capture", "no", *files], plugins=[session])
        os._exit(code not in (0, 5))
    if os.waitpid(child, 0)[1]:
        raise SystemExit("pytest does not take the mutants")
    score.read()
    for mutant in cases:
        if not score.has(mutant) and time.monotonic() < deadline:
            score.add(mutant, fate_of(mutant, tests_of(mutant)))
    found = score.to_dict()
    print(f"{found['noticed']} of {found['tried']} mutants noticed ({found['score']:.1%})")
    print(f"{len(score.lists['equivalent'])} more mean the same; {len(cases)} in all")


if __name__ == "__main__":
    main()
