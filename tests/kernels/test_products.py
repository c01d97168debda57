import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mlflow_rlrisk.errors import SamplerError
from mlflow_rlrisk.kernels import products, token_statistics
from mlflow_rlrisk.kernels.fold import compiled_fold
from tests.kernels.test_fused_head import float64_logits, float64_statistics, operands

MATMUL = torch.backends.mkldnn.matmul


@pytest.fixture
def rounded_products() -> object:
    """A process that allows float32 matrices to be multiplied in bfloat16."""
    before = MATMUL.fp32_precision
    MATMUL.fp32_precision = "bf16"
    yield
    MATMUL.fp32_precision = before


@pytest.mark.usefixtures("rounded_products")
def test_logits_stay_exact_where_the_process_allows_rounded_products() -> None:
    hidden, weight, targets = operands(600, 64, 3000)

    found = token_statistics(hidden, weight, targets)

    exact = float64_statistics(float64_logits(hidden, weight), targets)[1]
    assert (found.entropies - exact).abs().max() < 2e-5
    assert MATMUL.fp32_precision == "bf16"


@pytest.mark.parametrize("route", ["float32", "native_bfloat16"])
def test_the_precision_is_restored_after_an_error(
    route: products.Route,
) -> None:
    before = MATMUL.fp32_precision

    def fail() -> None:
        assert MATMUL.fp32_precision == ("bf16" if route == "native_bfloat16" else "ieee")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), products.float32_products(route):
        fail()

    assert MATMUL.fp32_precision == before


def test_an_error_of_the_pass_leaves_the_precision_as_it_was() -> None:
    hidden, weight, targets = operands(3, 8, 100)
    hidden[1] = torch.nan
    before = MATMUL.fp32_precision

    with pytest.raises(SamplerError):
        token_statistics(hidden, weight, targets)

    assert MATMUL.fp32_precision == before


def test_the_bfloat16_route_is_exact_whether_or_not_the_unit_exists(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The operands are bfloat16 values, so rounding them again loses nothing.
    monkeypatch.setattr(products, "has_bfloat16_unit", lambda: True)
    hidden, weight, targets = operands(600, 64, 3000, dtype=torch.bfloat16)
    assert products.choose_route(hidden, weight) == "native_bfloat16"

    found = token_statistics(hidden, weight, targets)

    logprobs, entropies = float64_statistics(float64_logits(hidden, weight), targets)
    assert (found.entropies - entropies).abs().max() < 1e-4
    assert (found.logprobs - logprobs).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("hidden", "weight", "route"),
    [
        (torch.float32, torch.float32, "float32"),
        (torch.float32, torch.bfloat16, "upcast"),
        (torch.bfloat16, torch.float32, "upcast"),
        (torch.float16, torch.float16, "upcast"),
    ],
)
def test_operands_that_the_unit_would_round_are_upcast(
    hidden: torch.dtype, weight: torch.dtype, route: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "has_bfloat16_unit", lambda: True)

    chosen = products.choose_route(torch.zeros(2, 3, dtype=hidden), torch.zeros(4, 3, dtype=weight))

    assert chosen == route


@pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")
def test_with_a_compiler_the_fold_runs_compiled() -> None:
    assert compiled_fold("cpu") is not None


def test_without_a_compiler_the_fold_runs_uncompiled(tmp_path: Path) -> None:
    code = (
        "import torch, torch._inductor.config as config\n"
        "config.cpp.cxx = ('/nonexistent/c++',)\n"
        "from mlflow_rlrisk.kernels import token_statistics\n"
        "from mlflow_rlrisk.kernels.fold import compiled_fold\n"
        "found = token_statistics(torch.ones(2, 3), torch.ones(50, 3), torch.tensor([1, 2]),"
        " is_compiled=True)\n"
        "print(compiled_fold('cpu') is None, round(found.entropies[0].item(), 4))\n"
    )
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}

    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )

    assert done.stdout.split() == ["True", "3.912"], done.stderr
