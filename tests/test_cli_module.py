"""``python -m mlflow_rlrisk`` and ``python -m mlflow_rlrisk.cli`` are the command ``rlrisk``."""

import subprocess
import sys
from pathlib import Path

import pytest

from mlflow_rlrisk import __version__

MODULES = ("mlflow_rlrisk", "mlflow_rlrisk.cli")


def run_module(module: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, check=False, timeout=240
    )


@pytest.mark.parametrize("module", MODULES)
def test_the_module_answers_as_the_command_does(module: str, tmp_path: Path) -> None:
    asked = run_module(module, "--version", cwd=tmp_path)

    assert (asked.returncode, asked.stdout) == (0, f"rlrisk, version {__version__}\n")


@pytest.mark.parametrize("module", MODULES)
def test_the_module_never_says_promote_where_it_did_not_check(module: str, tmp_path: Path) -> None:
    # Silence with exit code 0 would let a pipeline promote a model that nobody looked at.
    checked = run_module(module, "gate", "check", "models:/nothing/1", cwd=tmp_path)

    assert checked.returncode == 2
    assert "--alias" in checked.stderr
    assert "Usage: rlrisk gate check" in checked.stderr
