"""Data flows down the levels only, and importing the package costs nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "transformers", "vllm", "mlflow", "flask", "matplotlib", "pandas", "datasets")


def test_every_import_points_down_the_levels() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-logo", "--no-cache"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    "module",
    ["mlflow_rlrisk", "mlflow_rlrisk.cli", "mlflow_rlrisk.assess", "mlflow_rlrisk.statistics"],
)
def test_importing_the_package_loads_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print([name for name in {HEAVY} if name in sys.modules])"

    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert loaded.stdout.strip() == "[]"


def test_importing_the_evaluator_plugin_loads_no_torch() -> None:
    code = (
        "import sys, mlflow_rlrisk.evaluator; "
        "print([n for n in ('torch', 'transformers', 'vllm', 'matplotlib') if n in sys.modules])"
    )

    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert loaded.stdout.strip() == "[]"


def test_every_public_name_of_the_package_exists() -> None:
    import mlflow_rlrisk

    for name in mlflow_rlrisk.__all__:
        assert getattr(mlflow_rlrisk, name) is not None


def test_no_module_is_longer_than_400_lines() -> None:
    lengths = {
        path: len(path.read_text(encoding="utf-8").splitlines())
        for folder in ("mlflow_rlrisk", "service", "tests", "examples")
        for path in (ROOT / folder).rglob("*.py")
    }

    assert {path: n for path, n in lengths.items() if n > 400} == {}


def test_assess_stays_a_function_after_its_module_was_imported() -> None:
    import mlflow_rlrisk
    from mlflow_rlrisk.assess import assess

    assert mlflow_rlrisk.assess is assess
