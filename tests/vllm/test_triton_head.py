"""The Triton kernel without a GPU: right under the interpreter, and compiled for two GPUs."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CASES = "tests/kernels/triton_cases.py"

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed here"
)

COMPILE = """
import sys
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile as triton_compile
import torch
from mlflow_rlrisk.kernels.triton_head import TileShape, _head_kernel as kernel

shape = TileShape.of(getattr(torch, sys.argv[2]))
operand = {"bfloat16": "*bf16", "float32": "*fp32"}[sys.argv[2]]
constants = {"HAS_BIAS": True, "HAS_SOFTCAP": True, "WIDENS": False}
constants |= {"TOKENS": shape.tokens, "WORDS": shape.words, "WIDTH": shape.width}
types = {"hidden": operand, "weight": operand, "bias": "*fp32", "partial": "*fp32"}
types |= {"targets": "*i64", **dict.fromkeys(("scale", "softcap", "over_temperature"), "fp32")}
types |= dict.fromkeys(constants, "constexpr")
signature = {name: types.get(name, "i32") for name in kernel.arg_names}
source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
made = triton_compile(
    source,
    target=GPUTarget("cuda", int(sys.argv[1]), 32),
    options={"num_warps": shape.num_warps, "num_stages": shape.num_stages},
)
print(made.metadata.shared, len(made.asm["cubin"]))
"""


def _run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=env,
    )


def test_the_kernel_agrees_with_float64_under_the_interpreter() -> None:
    done = _run("-m", "pytest", CASES, "-q", "-p", "no:cacheprovider", TRITON_INTERPRET="1")

    assert done.returncode == 0, done.stdout[-4000:]
    assert " passed" in done.stdout


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize(("capability", "shared_memory"), [(80, 163 * 1024), (90, 227 * 1024)])
def test_the_kernel_compiles_for_a_gpu_and_fits_its_shared_memory(
    capability: int, shared_memory: int, dtype: str
) -> None:
    done = _run("-c", COMPILE, str(capability), dtype, TRITON_INTERPRET="0")

    assert done.returncode == 0, done.stderr[-4000:]
    used, size = map(int, done.stdout.split())
    assert 0 < used <= shared_memory
    assert size > 0
