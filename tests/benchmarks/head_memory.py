"""Memory that exact entropies add at their peak, each measured in a process of its own (Linux).

Run with ``python -m tests.benchmarks.head_memory [--T 512,2048] [--V 32768,151936] [--naive]
[--json FILE] [--assert]``. Operands are there before the count begins.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from tests.benchmarks.head import COMPILED, EAGER, NAIVE, operands, routes
from tests.benchmarks.memory import resident_growth_mb

GOAL_MB = 32.0
"""Extra memory at most, whatever the numbers of tokens and words."""

WIDTH = 1024


def measure(route: str, tokens: int, words: int, dtype: str) -> float:
    """Peak resident memory above what the operands take, MB."""
    import torch

    torch.set_num_threads(1)
    # A first, small pass brings in code and thread pools, which are not counted; a large one
    # would leave freed memory behind that hides what the measured pass needs.
    routes(*operands(WIDTH, 64, 8, dtype))[route]()
    run = routes(*operands(WIDTH, words, tokens, dtype))[route]
    return resident_growth_mb(run)


def measure_apart(route: str, tokens: int, words: int, dtype: str) -> float:
    """`measure` in a process of its own."""
    module = "tests.benchmarks.head_memory"
    one = [route, str(tokens), str(words), dtype]
    command = [sys.executable, "-m", module, "--one", *one]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.strip().splitlines()[-1])


def main() -> int:
    """Print one line per size; exit 1 with ``--assert`` where the goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--T", default="512,2048", help="numbers of tokens")
    parser.add_argument("--V", default="32768,151936", help="numbers of words")
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16"])
    parser.add_argument("--naive", action="store_true", help="also all logits at once, in GB")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--assert", action="store_true", dest="check")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        route, tokens, words, dtype = args.one
        print(measure(route, int(tokens), int(words), dtype))
        return 0
    results = []
    for words in map(int, args.V.split(",")):
        for tokens in map(int, args.T.split(",")):
            for route in (EAGER, COMPILED, *([NAIVE] if args.naive else [])):
                peak = measure_apart(route, tokens, words, args.dtype)
                print(f"V {words:7}  T {tokens:6}  {route:28}{peak:9.1f} MB", flush=True)
                results.append(
                    {"V": words, "T": tokens, "route": route, "resident_growth_mb": peak}
                )
    largest = max(row["resident_growth_mb"] for row in results if row["route"] != NAIVE)
    verdict = "reached" if largest <= GOAL_MB else "MISSED"
    print(f"G2: at most {largest:.1f} MB, goal {GOAL_MB:.0f} -> {verdict}")
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n")
    return 1 if args.check and largest > GOAL_MB else 0


if __name__ == "__main__":
    sys.exit(main())
