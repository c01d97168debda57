"""Mutation score of gate and attestation: how many small faults do the fast tests notice?

Each mutant changes one comparison, boolean, constant, ``return``, ``raise`` or ``not`` of a pure
module and runs in a forked process, so that libraries are imported once:
``python -m tests.benchmarks.gate_mutants [--sample 100] [--budget-s 600]``. A mutant that no test
notices is printed; some of them mean the same as the original.
"""

import argparse
import ast
import importlib
import importlib.abc
import importlib.util
import io
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TESTS = {
    "mlflow_rlrisk.gate.guard": ["guard", "attestation"],
    "mlflow_rlrisk.attestation": ["attestation", "guard"],
    "mlflow_rlrisk.attestation_envelope": ["attestation"],
    "mlflow_rlrisk.attestation_keys": ["keys", "attestation"],
    "mlflow_rlrisk.gate.names": ["policy_file"],
    "mlflow_rlrisk.gate.promotion_policy": ["policy_file", "guard"],
}
LIMIT_S = 120
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


def mutants(source: str) -> Iterator[tuple[str, str]]:
    """Every mutant as (what was done, source)."""
    for position, node in enumerate(ast.walk(ast.parse(source))):
        for number in range(len(_edits(node))):
            tree = ast.parse(source)
            target = list(ast.walk(tree))[position]
            what = _edits(target)[number]()
            yield f"line {getattr(target, 'lineno', '?')}: {what}", ast.unparse(tree)


def _edits(node: ast.AST) -> list:  # type: ignore[type-arg]
    """Edits of one node, each a function that makes it and says what it was."""
    if isinstance(node, ast.Compare):
        return [lambda: _flip(node)]
    if isinstance(node, ast.BoolOp):
        return [lambda: _swap_boolean(node)]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return [lambda: _set(node, "op", ast.UAdd(), "not dropped")]
    if isinstance(node, ast.Constant) and type(node.value) in (bool, int):
        value = not node.value if isinstance(node.value, bool) else node.value + 1
        return [lambda: _set(node, "value", value, f"{node.value} becomes {value}")]
    if isinstance(node, ast.If | ast.IfExp):
        never = ast.Constant(value=False)
        return [lambda: _set(node, "test", never, "condition never holds")]
    return []


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


class _Replaced(importlib.abc.MetaPathFinder, importlib.abc.SourceLoader):
    """Gives one module another source."""

    def __init__(self, module: str, source: str) -> None:
        self._module, self._source = module, source

    def find_spec(self, name: str, path: object, target: object = None):  # type: ignore[no-untyped-def]
        if name != self._module:
            return None
        return importlib.util.spec_from_loader(name, self)

    def get_filename(self, fullname: str) -> str:
        return str(ROOT / f"{fullname.replace('.', '/')}.py")

    def get_data(self, path: str | bytes) -> bytes:
        return self._source.encode()

    def path_stats(self, path: str):  # type: ignore[no-untyped-def]
        raise OSError  # nothing is cached


def is_noticed(module: str, source: str) -> bool:
    """Run the module's tests on a mutant in a child process; a time-out counts as noticed."""
    child = os.fork()
    if child == 0:
        signal.alarm(LIMIT_S)
        sys.meta_path.insert(0, _Replaced(module, source))
        names = [f"tests/gate/test_{name}.py" for name in TESTS[module]]
        options = [
            "-x",
            "-q",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:cov",
            "--timeout",
            "0",
            "-W",
            "ignore",
        ]
        with redirect_stdout(out := io.StringIO()), redirect_stderr(out):
            try:
                code = pytest.main([*options, *names])
            except BaseException:  # noqa: BLE001  a mutant may break anything
                code = 1
                out.write(traceback.format_exc())
        if "-v" in sys.argv:
            print(out.getvalue()[-2000:], flush=True)
        os._exit(0 if code == 0 else 1)
    _, status = os.waitpid(child, 0)
    return status != 0


def main() -> None:
    """Print the score and what survived."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sample", type=int, default=None)
    parser.add_argument("--budget-s", type=float, default=float("inf"))
    given = parser.parse_args()
    import cryptography.hazmat.primitives.asymmetric.rsa
    import mlflow.store.model_registry.sqlalchemy_store
    import numpy
    import pydantic
    import yaml

    del cryptography, mlflow, numpy, pydantic, yaml  # imported once, for every child
    cases = [
        (module, what, mutated)
        for module in TESTS
        for what, mutated in mutants((ROOT / f"{module.replace('.', '/')}.py").read_text())
    ]
    for module in TESTS:  # a run that fails whatever it is given would notice everything
        source = ast.unparse(ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text()))
        if is_noticed(module, source):
            raise SystemExit(f"the tests of {module} fail on the original")
    total = len(cases)
    random.Random(0).shuffle(cases)
    started, tried, noticed = time.monotonic(), 0, 0
    for module, what, mutated in cases[: given.sample]:
        if time.monotonic() - started > given.budget_s:
            break
        tried += 1
        if is_noticed(module, mutated):
            noticed += 1
        else:
            print(f"survived: {module} {what}", flush=True)
    print(f"{noticed} of {tried} mutants noticed ({noticed / tried:.1%}); {total} in all")


if __name__ == "__main__":
    main()
