"""What would time the kernels on a GPU runs as it is, on the operands of a CPU."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(find_spec("trl") is None, reason="it is what we compare with")


def test_the_gpu_benchmark_runs_through_every_route(tmp_path: Path) -> None:
    written = tmp_path / "gpu.json"
    command = [sys.executable, "-m", "tests.benchmarks.gpu", "--rehearse", "--assert"]
    done = subprocess.run(
        [*command, "--json", str(written)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(written.read_text(encoding="utf-8"))
    assert [size["dtype"] for size in found["sizes"]] == ["bfloat16", "float32"]
    for size in found["sizes"]:
        for name in ("ours, eager fold", "ours, compiled fold"):
            assert size["rows"][name]["error_nats"] < 1e-4
    assert found["rows"][0]["routes"]["ours, tiles of rows"]["error_nats"] < 1e-5
