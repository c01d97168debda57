"""The Triton kernels without a GPU: right under the interpreter, and compiled for two GPUs."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CASES = ("tests/kernels/triton_cases.py", "tests/kernels/row_kernel_cases.py")
SHARED_MEMORY = {"80": 163 * 1024, "90": 227 * 1024}

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed here"
)


def _run(*command: str, interpret: bool) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TRITON_INTERPRET": str(int(interpret))}
    done = subprocess.run(
        [sys.executable, "-m", *command],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=environment,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


def test_the_kernels_agree_with_float64_under_the_interpreter() -> None:
    out = _run("pytest", *CASES, "-q", "-p", "no:cacheprovider", interpret=True)

    assert " passed" in out


def test_the_kernels_compile_for_gpus_and_fit_their_shared_memory() -> None:
    found = json.loads(_run("tests.vllm.compile_kernels", interpret=False))

    assert len(found) == 6
    for name, (shared, size) in found.items():
        assert 0 <= shared <= SHARED_MEMORY[name.split()[-1]], name
        assert size > 0, name
    assert all(shared > 0 for name, (shared, _) in found.items() if name.startswith("head"))
