import ast
import importlib
import inspect
from pathlib import Path

import pytest

from mlflow_rlrisk import statistics

FOLDER = Path(statistics.__file__).parent
MODULES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__")


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_numpy_scipy_and_the_level_below(module: str) -> None:
    tree = ast.parse((FOLDER / f"{module}.py").read_text())
    roots = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            roots |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            roots.add(str(node.module))

    foreign = {
        name
        for name in roots
        if not name.startswith(("numpy", "scipy", "mlflow_rlrisk.statistics"))
        and name not in {"mlflow_rlrisk.errors", "mlflow_rlrisk.plurals", "collections.abc"}
        and name not in {"dataclasses", "enum"}
        and name not in {"functools", "itertools", "math", "typing"}
    }

    assert foreign == set()


def test_every_listed_name_exists_once_and_is_documented() -> None:
    assert len(set(statistics.__all__)) == len(statistics.__all__)
    for name in statistics.__all__:
        assert inspect.getdoc(getattr(statistics, name)), name


@pytest.mark.parametrize("module", MODULES)
def test_every_public_function_is_within_reach_of_the_package(module: str) -> None:
    loaded = importlib.import_module(f"mlflow_rlrisk.statistics.{module}")
    internal = {"counts", "ragged", "group_theory"}
    if module in internal:
        return

    missing = [
        name
        for name, value in vars(loaded).items()
        if inspect.isfunction(value)
        and value.__module__ == loaded.__name__
        and not name.startswith("_")
        and name not in statistics.__all__
    ]

    assert missing == []
