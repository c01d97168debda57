"""pass@k and group signal over many prompts, against the loops in use elsewhere.

``python -m tests.benchmarks.passk --reps 5 [--json FILE]``

The first loop is the estimator of the human-eval harness as ``evaluate``'s ``code_eval`` and
evalplus run it: one NumPy product for each prompt and k. The second uses ``math.comb``. Both are
written from the formula, run on a part of the prompts and scaled up; ours runs on all of them.
"""

import argparse
from collections.abc import Sequence
from fractions import Fraction
from math import comb
from pathlib import Path
from typing import Any

import numpy as np

from mlflow_rlrisk.statistics import group_signal, pass_at_ks
from tests.benchmarks.interleaved import finish, goal, seconds_by_name, table

GROUP_SIZE = 8


def product_loop(correct: np.ndarray, scored: np.ndarray, k: int) -> np.ndarray:
    """``1 - prod(1 - k / i)`` for each prompt, as the human-eval harness computes it."""

    def estimate(n: int, c: int) -> float:
        if n - c < k:
            return 1.0
        return float(1.0 - np.prod(1.0 - k / np.arange(n - c + 1, n + 1)))

    return np.array([estimate(int(n), int(c)) for n, c in zip(scored, correct, strict=True)])


def comb_loop(correct: np.ndarray, scored: np.ndarray, k: int) -> np.ndarray:
    """``1 - C(n - c, k) / C(n, k)`` for each prompt, in integers."""
    return np.array(
        [
            1.0 - comb(n - c, k) / comb(n, k)
            for n, c in zip(scored.tolist(), correct.tolist(), strict=True)
        ]
    )


def signal_loop(correct: np.ndarray, scored: np.ndarray) -> np.ndarray:
    """Share of mixed groups for each prompt, in integers."""
    return np.array(
        [
            1.0 - (comb(c, GROUP_SIZE) + comb(n - c, GROUP_SIZE)) / comb(n, GROUP_SIZE)
            for n, c in zip(scored.tolist(), correct.tolist(), strict=True)
        ]
    )


def largest_error(correct: np.ndarray, scored: np.ndarray, ks: Sequence[int]) -> dict[str, float]:
    """Largest distance from exact fractions over a few thousand (prompt, k) pairs."""
    part = slice(0, 500)
    c, n = correct[part], scored[part]
    errors = {"ours": 0.0, "product loop": 0.0, "math.comb loop": 0.0}
    values = pass_at_ks(c, n, ks)
    for k in ks:
        exact = np.array(
            [
                float(1 - Fraction(comb(b - a, k), comb(b, k)))
                for a, b in zip(c.tolist(), n.tolist(), strict=True)
            ]
        )
        for name, found in (
            ("ours", values[k]),
            ("product loop", product_loop(c, n, k)),
            ("math.comb loop", comb_loop(c, n, k)),
        ):
            errors[name] = max(errors[name], float(np.abs(found - exact).max()))
    return errors


def measure(
    title: str,
    correct: np.ndarray,
    scored: np.ndarray,
    arguments: argparse.Namespace,
    wanted: float,
) -> list[dict[str, Any]]:
    """Time pass@k for all k, then the signal, on one set of counts."""
    ks = arguments.k
    errors = largest_error(correct, scored, ks)
    assert errors["ours"] == 0.0, f"not correctly rounded: {errors}"
    part = slice(0, arguments.subsample)
    factor = correct.size / min(arguments.subsample, correct.size)
    scale = {"product loop": factor, "math.comb loop": factor}
    seconds = seconds_by_name(
        {
            "ours": lambda: pass_at_ks(correct, scored, ks),
            "product loop": lambda: [product_loop(correct[part], scored[part], k) for k in ks],
            "math.comb loop": lambda: [comb_loop(correct[part], scored[part], k) for k in ks],
        },
        arguments.reps,
    )
    passed = table(f"pass@k for k in {ks}, {title}", seconds, scale, "ours")
    passed["max_abs_error"] = errors
    print("  largest error against exact fractions:", errors)
    passed["goal_reached"] = goal(
        "over the product loop", passed["rows"]["product loop"]["times_ours"], wanted
    )
    exact = signal_loop(correct[:500], scored[:500])
    assert np.abs(group_signal(correct[:500], scored[:500], GROUP_SIZE) - exact).max() < 1e-15
    seconds = seconds_by_name(
        {
            "ours": lambda: group_signal(correct, scored, GROUP_SIZE),
            "math.comb loop": lambda: signal_loop(correct[part], scored[part]),
        },
        arguments.reps,
    )
    return [passed, table(f"group signal at g={GROUP_SIZE}, {title}", seconds, scale, "ours")]


def main() -> None:
    """Parse the command line and run both cases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=1_000_000)
    parser.add_argument("--subsample", type=int, default=10_000, help="prompts the loops run on")
    parser.add_argument(
        "--k", type=lambda text: [int(k) for k in text.split(",")], default=[1, 2, 4, 8, 16, 32, 64]
    )
    parser.add_argument("--reps", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    success = rng.beta(0.5, 0.5, arguments.prompts)
    fixed = np.full(arguments.prompts, max(arguments.k))
    varying = rng.integers(max(arguments.k), 4 * max(arguments.k) + 1, arguments.prompts)
    results = []
    for name, scored, wanted in (("one n", fixed, 500.0), ("n varies", varying, 100.0)):
        title = f"{arguments.prompts} prompts, {name} ({scored.min()}..{scored.max()})"
        results += measure(title, rng.binomial(scored, success), scored, arguments, wanted)
    finish(results, arguments.json)


if __name__ == "__main__":
    main()
