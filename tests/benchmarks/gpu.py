"""Everything about fused head and recorded entropies that only a GPU can tell, in one run.

``python -m tests.benchmarks.gpu [--json FILE] [--assert]`` on a machine with CUDA; ``--rehearse``
runs the same code on tiny operands of the CPU, to see that it runs. Routes are timed in turn by
CUDA events, after one round that compiles. Of each: median time, ratio to the bare output head,
error against float64, memory at the peak above the operands, and the share of the ceiling that it
reaches (the slower of multiplying as fast as a large matrix product and reading the operands as
fast as a copy). verl's own kernel takes part where ``verl`` is installed. What the recorder costs
beside an engine is measured by ``tests.benchmarks.vllm_recorder`` in vLLM's environment.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks.head import (
    BARE,
    COMPILED,
    EAGER,
    LARGEST_ERROR,
    LINEAR,
    NUM_CHECKED,
    Pair,
    float64_values,
    largest_error,
    operands,
    routes,
)

TRITON = "ours, Triton kernel"
VERL_KERNEL = "verl's kernel"
REPS = 20
SIZES = list(product([2048, 4096], [32768, 151936], [512, 2048, 8192]))
"""Width, words, tokens."""
REHEARSAL = [(64, 1000, 40)]

ROW_KERNEL, ROW_TILES = "ours, kernel for rows", "ours, tiles of rows"
ROW_SIZES = list(product([64, 256, 1024], [32768, 151936]))
"""Rows of one step of an engine, words."""
ROW_REHEARSAL = [(5, 1000)]
ROW_ERROR = 2e-5


def contenders(hidden: Any, weight: Any, targets: Any) -> dict[str, Callable[[], Pair]]:
    """The routes of the CPU benchmark, with the kernels that need a GPU."""
    from mlflow_rlrisk.kernels import token_statistics
    from mlflow_rlrisk.kernels.triton_route import triton_works

    found = routes(hidden, weight, targets)
    if triton_works(hidden, weight):

        def own() -> Pair:
            statistics = token_statistics(hidden, weight, targets)
            return statistics.logprobs, statistics.entropies

        found[TRITON] = own
    try:
        from verl.utils.kernel.linear_cross_entropy import linear_cross_entropy
    except ImportError:
        return found
    found[VERL_KERNEL] = lambda: linear_cross_entropy(hidden, weight, targets, 1.0, "none")
    return found


def seconds(run: Callable[[], object], device: str) -> float:
    """Time of one call, by the device's clock."""
    import torch

    if device == "cpu":
        started = time.perf_counter()
        run()
        return time.perf_counter() - started
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    run()
    stop.record()
    stop.synchronize()
    return float(start.elapsed_time(stop)) / 1e3


def in_turn(
    runs: dict[str, Callable[[], object]], device: str, reps: int
) -> dict[str, list[float]]:
    """Seconds of each contender in each round, after one round that is not counted."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for round_number in range(reps + 1):
        for name, run in runs.items():
            taken = seconds(run, device)
            if round_number:
                found[name].append(taken)
    return found


def peak_mb(run: Callable[[], object], device: str) -> float | None:
    """Memory at the peak above what was there before."""
    import torch

    if device == "cpu":
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def ceilings(dtype: str, device: str) -> tuple[float, float]:
    """Floating-point operations and bytes a second of a large product and a large copy."""
    import torch

    size = 256 if device == "cpu" else 8192
    left = torch.randn(size, size, device=device).to(getattr(torch, dtype))
    source = torch.empty(size * size * 4, device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    multiply = in_turn({"mm": lambda: torch.mm(left, left)}, device, 10)["mm"]
    copy = in_turn({"copy": lambda: target.copy_(source)}, device, 10)["copy"]
    return 2.0 * size**3 / median(multiply), 2.0 * source.numel() / median(copy)


def measure(size: tuple[int, int, int], dtype: str, device: str, reps: int) -> dict[str, Any]:
    """All routes at one size."""
    import torch

    width, words, tokens = size
    tensors = tuple(each.to(device) for each in operands(width, words, tokens, dtype))
    flops, bandwidth = ceilings(dtype, device)
    moved = (tensors[0].numel() + tensors[1].numel()) * tensors[1].element_size()
    floor_s = max(2.0 * width * words * tokens / flops, moved / bandwidth)
    runs = contenders(*tensors)
    exact = float64_values(*tensors)
    with torch.no_grad():
        errors = {name: largest_error(run, exact) for name, run in runs.items() if name not in BARE}
        times = in_turn(runs, device, reps)
        peaks = {name: peak_mb(run, device) for name, run in runs.items()}
    rows = {
        name: {
            "median_s": median(taken),
            "over_linear": median(a / b for a, b in zip(taken, times[LINEAR], strict=True)),
            "share_of_ceiling": floor_s / median(taken),
            "error_nats": errors.get(name),
            "peak_mb": peaks[name],
        }
        for name, taken in times.items()
    }
    print(f"\n{dtype}, H {width}, V {words}, T {tokens}; errors of {NUM_CHECKED} tokens")
    print(f"{'':28}{'ms':>10}{'/ F.linear':>12}{'ceiling':>10}{'error':>10}{'peak MB':>10}")
    for name, row in rows.items():
        error = "" if row["error_nats"] is None else f"{row['error_nats']:.1e}"
        peak = "" if row["peak_mb"] is None else f"{row['peak_mb']:.0f}"
        print(
            f"{name:28}{1e3 * row['median_s']:10.3f}{row['over_linear']:12.2f}"
            f"{row['share_of_ceiling']:10.0%}{error:>10}{peak:>10}"
        )
    return {"H": width, "V": words, "T": tokens, "dtype": dtype, "rows": rows}


def measure_rows(size: tuple[int, int], device: str, reps: int) -> dict[str, Any]:
    """Entropies of logits that an engine has made already, float32, at temperature .7."""
    import torch

    from mlflow_rlrisk.samplers.vllm_recorder.core import row_statistics, tiled_statistics

    logits = torch.randn(size, generator=torch.Generator().manual_seed(0)).mul_(4.0).to(device)

    def naive() -> Any:
        logs = (logits / 0.7).log_softmax(-1)
        return -(logs.exp() * logs).sum(-1)

    runs: dict[str, Callable[[], Any]] = {
        ROW_TILES: lambda: tiled_statistics(logits, 0.7).entropies,
        "log_softmax of all logits": naive,
    }
    if device != "cpu":
        runs[ROW_KERNEL] = lambda: row_statistics(logits, 0.7).entropies
    logs = (logits.double() / 0.7).log_softmax(-1)
    exact = -(logs.exp() * logs).sum(-1)
    errors = {name: float((run().double() - exact).abs().max()) for name, run in runs.items()}
    _, bandwidth = ceilings("float32", device)
    print(f"\nentropies of {size[0]} rows of {size[1]} logits")
    rows = {}
    for name, taken in in_turn(runs, device, reps).items():
        seconds_ = median(taken)
        share = logits.numel() * 4 / bandwidth / seconds_
        rows[name] = {"median_s": seconds_, "share_of_ceiling": share, "error_nats": errors[name]}
        print(f"{name:28}{1e3 * seconds_:10.3f} ms{share:10.0%}{errors[name]:10.1e}")
    return {"rows": size[0], "V": size[1], "routes": rows}


def sweep(size: tuple[int, int, int], dtype: str, device: str, reps: int) -> list[dict[str, Any]]:
    """The Triton kernel in other tiles, fastest first; those that do not fit are left out."""
    from triton.errors import TritonError

    from mlflow_rlrisk.kernels.triton_head import TileShape, head_partials

    hidden, weight, targets = (each.to(device) for each in operands(*size, dtype))
    found = []
    for tokens, words, width, warps, stages in product(
        [64, 128], [64, 128, 256], [32, 64], [4, 8], [3, 4]
    ):
        shape = TileShape(
            tokens=tokens, words=words, width=width, num_warps=warps, num_stages=stages
        )

        def run(shape: Any = shape) -> object:
            return head_partials(
                hidden,
                weight,
                targets,
                num_words=len(weight),
                bias=None,
                scale=1.0,
                softcap=None,
                temperature=1.0,
                shape=shape,
            )

        try:
            taken = median(in_turn({"run": run}, device, reps)["run"])
        except (TritonError, RuntimeError) as error:
            print(f"  {shape}: {type(error).__name__}")
            continue
        found.append({"shape": asdict(shape), "median_s": taken})
    found.sort(key=lambda row: row["median_s"])
    for row in found[:5]:
        print(f"  {1e3 * row['median_s']:8.3f} ms  {row['shape']}")
    return found


def missed(results: list[dict[str, Any]]) -> list[str]:
    """What the kernels have to hold: errors, and being as fast as the bare head and verl."""
    found = []
    for result in results:
        rows, name = result["rows"], f"{result['dtype']} V {result['V']} T {result['T']}"
        for route in (EAGER, COMPILED, TRITON):
            if route in rows and not rows[route]["error_nats"] <= LARGEST_ERROR[result["dtype"]]:
                found.append(f"{name}: {route} is off by {rows[route]['error_nats']:.1e} nats")
        if TRITON not in rows:
            found.append(f"{name}: the Triton kernel is not used")
            continue
        for other in (VERL_KERNEL, EAGER, COMPILED):
            if other in rows and rows[TRITON]["median_s"] > rows[other]["median_s"]:
                found.append(f"{name}: the Triton kernel is slower than {other}")
    return found


def missed_rows(results: list[dict[str, Any]], device: str) -> list[str]:
    """What entropies of rows have to hold: errors, and that the kernel is used."""
    from mlflow_rlrisk.samplers.vllm_recorder.row_route import works

    found = [
        f"{result['rows']} rows: {name} is off by {row['error_nats']:.1e} nats"
        for result in results
        for name, row in result["routes"].items()
        if name != "log_softmax of all logits" and not row["error_nats"] <= ROW_ERROR
    ]
    import torch

    if device != "cpu" and not works(torch.empty(0, device=device).device):
        found.append("the kernel for rows is not used")
    return found


def main() -> int:
    """Print a table for each size; exit 1 with ``--assert`` where something is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reps", type=int, default=REPS)
    parser.add_argument("--rehearse", action="store_true", help="tiny operands on the CPU")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--assert", action="store_true", dest="check")
    args = parser.parse_args()
    import torch

    if not args.rehearse and not torch.cuda.is_available():
        print("no CUDA device here; --rehearse runs the same code on the CPU", file=sys.stderr)
        return 2
    device = "cpu" if args.rehearse else "cuda"
    name = "cpu, rehearsed" if args.rehearse else torch.cuda.get_device_name()
    print(f"{name}, torch {torch.__version__}, CUDA {torch.version.cuda}")
    results = []
    for dtype, size in product(["bfloat16", "float32"], REHEARSAL if args.rehearse else SIZES):
        results.append(measure(size, dtype, device, 2 if args.rehearse else args.reps))
    row_results = [
        measure_rows(size, device, 2 if args.rehearse else args.reps)
        for size in (ROW_REHEARSAL if args.rehearse else ROW_SIZES)
    ]
    tiles = (
        {} if args.rehearse else {"bfloat16": sweep((4096, 151936, 2048), "bfloat16", device, 5)}
    )
    problems = [] if args.rehearse else missed(results)
    problems += missed_rows(row_results, device)
    print("\n".join(["", *problems]) if problems else "\nall held")
    if args.json:
        found = {
            "device": name,
            "torch": torch.__version__,
            "command": " ".join(["tests.benchmarks.gpu", *sys.argv[1:]]),
        }
        found |= {"sizes": results, "rows": row_results, "tiles": tiles, "missed": problems}
        args.json.write_text(json.dumps(found, indent=2) + "\n")
    return 1 if args.check and problems else 0


if __name__ == "__main__":
    sys.exit(main())
