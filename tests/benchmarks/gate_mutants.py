"""Mutation score of gate and attestation: how many small faults do the tests notice?

One run with coverage tells which tests execute which line; a mutant (`mutations`) meets only the
tests of its line, the quickest first, until one fails, in a forked process: most of them within a
pytest that has collected already (`mutants_in_place`), the rest in a fresh one. Servers are left
out. ``python -m tests.benchmarks.gate_mutants [--sample 100] [--json FILE]``. A mutant that no
test notices is printed; those of `EQUIVALENT` mean the same and are not tried. A run that was
stopped goes on where it was when it is given the same files at the same commit.
"""

import argparse
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
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.mutants_in_place import Session, changed_function
from tests.benchmarks.mutations import ROOT, Mutant, mutants, path_of

MODULES = [
    *(f"attestation.{part}" for part in ("statement", "envelope", "keys")),
    *(
        f"gate.{name}"
        for name in (
            *("guard", "promotion_policy", "names", "tags", "evidence", "files", "gatekeeper"),
            *("judged_state", "store", "joined", "turns", "refusals"),
            *("audit", "audit_entries", "audit_tables"),
            *("client", "overrides", "reconcile", "registry_database", "selftest", "trainer"),
        )
    ),
]
TESTS = [
    *("guard", "attestation", "keys", "names", "policy_file", "audit", "joined", "store"),
    *("store_tags", "edges", "commands", "judge_tier", "stages", "selftest", "superseded"),
    *("overtaken", "told_refusals", "reconcile", "reconcile_workspaces", "locked"),
    *("same_files", "calibrated_policy", "gate_commands"),
]
LIMIT_S = 300
"""Wall time of a fresh pytest; one that is killed then was not noticed by a test, and is told."""
TESTS_S = 120.0
"""Tests of a mutant that together take longer than this are left out, the slowest first."""
FIRST = "tests/gate/test_store.py::test_unprotected_places_are_not_logged_nor_looked_at"
OPTIONS = ["-x", "-q", "-p", "no:cacheprovider", "--timeout", "0", "-W", "ignore"]
EQUIVALENT = {
    "condition never holds: if TYPE_CHECKING:": "it never holds at run time",
    "True becomes False: @dataclass(frozen=True, slots=True)": "nothing assigns to a record",
    "True becomes False: @dataclass(frozen=True, slots=True, kw_only=True)": (
        "nothing assigns to a record, adds to it or gives its fields by position"
    ),
    'True becomes False: model_config = ConfigDict(frozen=True, extra="forbid", strict=True)': (
        "all fields are texts, read from JSON"
    ),
    "False becomes True: def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) "
    "-> dict[Any, Any]:": "keys are read deeply in any case, values by the loader's own call",
    **{
        f"{size} becomes {size + 1}: @lru_cache(maxsize={size})": "how much is kept, not what"
        for size in (128, 1024, 4096)
    },
    **{
        f"{size} becomes {size + 1}: sa.Column({column}, sa.String({size}), nullable=False),": (
            "room for a character more than is ever written"
        )
        for column, size in (('"recorded_at"', 32), ('"previous"', 64), ('"hash"', 64))
    },
    **{
        f"False becomes True: sa.Column({column}, sa.Integer, primary_key=True, "
        "autoincrement=False),": "the gate gives the number"
        for column in ('"sequence"', '"id"')
    },
    '2 becomes 3: _SEVERITY = {"low": 0, "medium": 1, "high": 2}': "only the order counts",
    **{
        f"False becomes True: evidence = gather(self.registry, {place}, self.former_names, "
        "with_files=False)": "files are listed and not looked at: slower, the same answer"
        for place in ("place", "there")
    },
    "False becomes True: evidence = gather(client, place, with_files=False)": (
        "files are listed and not looked at: slower, the same answer"
    ),
    **{
        f"condition never holds: {line}": "MLflow lists a local folder: slower, the same answer"
        for line in (
            "listing = partial(_within, top) if top is not None else "
            "partial(_told, _repository(stored))",
            "return str(found.artifact_dir) if isinstance(found, LocalArtifactRepository) "
            "else None",
        )
    },
    'condition never holds: if connection.dialect.name == "postgresql":': (
        "the statements of other databases do the same there: others wait longer for the head"
    ),
    "becomes And: if source.registered_name is None or source.version is None:": (
        "a source has a registered name and its version, or neither"
    ),
    "LtE becomes Lt: is_good &= found.sequence <= end and not before": (
        "one entry is not both a tag's and a rename's"
    ),
    "0 becomes 1: ends[former] = max(found.sequence, ends.get(former, 0))": (
        "the first entry has number 1"
    ),
    "0 becomes 1: f\"'{verdict.rule}': the content of {changed[0].path} is not what was "
    'attested"': (
        "names and sizes agree by then: what was attested and what was found have the same path"
    ),
    '1 becomes 2: beside.write_text(json.dumps(self.to_dict(), indent=1) + "\\n", '
    'encoding="utf-8")': "how a ring is laid out, not what it says",
}
"""Why no test can tell a mutant, given by its words, from the original."""


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
        # What only PostgreSQL shows, who waits for whom, is told as survived.
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
        git = ["git", "rev-parse", "--short", "HEAD"]
        self._commit = subprocess.check_output(git, cwd=ROOT, text=True).strip()
        self._tried: dict[str, str] = {}
        self.lists: dict[str, list[dict[str, str]]] = {
            "survived": [],
            "hangs": [],
            "equivalent": [],
        }
        if path.exists() and path.stat().st_size:
            self._started -= 60 * self.read()

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

    def read(self) -> float:
        """Go on with what another process wrote; returns the minutes that it took."""
        kept = json.loads(self._path.read_text())
        if kept["commit"] != self._commit:
            raise SystemExit(f"{self._path} is about commit {kept['commit']}")
        self._tried, self.lists = kept["fates"], {name: kept[name] for name in self.lists}
        return float(kept["minutes"])

    def has(self, mutant: Mutant) -> bool:
        """Whether it was counted."""
        return mutant.digest in self._tried

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON values."""
        fates = [each for each in self._tried.values() if each != "equivalent"]
        noticed = sum(each != "survived" for each in fates)
        return {
            "command": "python -m tests.benchmarks.gate_mutants",
            "commit": self._commit,
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
            if score.has(mutant):
                continue
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
