"""How often paired intervals of a difference of two checkpoints hold the truth.

Two checkpoints answer the same prompts; what either solves of a prompt is known exactly, so the
differences are too. Side by side: plain percentiles of the paired bootstrap, the interval that
``compare`` and ``drift`` give, and the same with BCa's correction for bias and skewness, which
single checkpoints have.

    nice python -m tests.benchmarks.paired --reps 2000 --json paired.json
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from mlflow_rlrisk.lineage.measures import estimate
from mlflow_rlrisk.statistics import (
    PromptBootstrap,
    group_signal,
    interval,
    jackknife_means,
    pass_at_k,
)
from tests.coverage_populations import standard_error

Array = npt.NDArray[np.float64]
GROUP, NODES, NUM_SEEDS = 8, 4000, 16
METHODS = ("percentiles", "reported", "with BCa")
Bounds = tuple[float, float] | None


def populations() -> dict[str, tuple[Array, Array]]:
    """Success of every prompt before and after, by name."""
    rng = np.random.default_rng(3)
    places = (np.arange(NODES) + 0.5) / NODES
    balanced, u_shaped = stats.beta.ppf(places, 2, 3), stats.beta.ppf(places, 0.5, 0.5)
    hard = np.where(rng.random(NODES) < 0.5, 0.0, stats.beta.ppf(rng.permutation(places), 0.3, 1.5))
    odds = balanced**2 + (1 - balanced) ** 2
    return {
        "sharpened": (balanced, balanced**2 / odds),
        "4 % of prompts lost": (balanced, np.where(rng.random(NODES) < 0.04, 0.0, balanced)),
        "twins, U-shaped": (u_shaped, u_shaped),
        "hard, better by half": (hard, np.clip(1.5 * hard, 0.0, 1.0)),
    }


def differences(
    before: Array, after: Array, num_prompts: int, num_samples: int, reps: int
) -> Iterator[tuple[str, Array, float, Bounds]]:
    """Name, differences of the prompts ``[R, P]``, true difference, bounds."""
    rng = np.random.default_rng([num_prompts, num_samples])
    rows = rng.integers(before.size, size=(reps, num_prompts))
    counts = [rng.binomial(num_samples, each[rows]) for each in (before, after)]
    all_counts = np.arange(num_samples + 1)
    scored, half = np.full_like(all_counts, num_samples), num_samples // 2
    for name, table, chance in (
        ("pass@1", pass_at_k(all_counts, scored, 1), lambda p: p),
        ("pass@n/2", pass_at_k(all_counts, scored, half), lambda p: 1 - (1 - p) ** half),
        (
            "group signal",
            group_signal(all_counts, scored, GROUP),
            lambda p: 1 - p**GROUP - (1 - p) ** GROUP,
        ),
    ):
        truth = float((chance(after) - chance(before)).mean())
        yield name, table[counts[1]] - table[counts[0]], truth, (-1.0, 1.0)
    # Entropies of a prompt go together, with long tails; either checkpoint has noise of its own.
    shared = rng.gamma(1.5, 1 / 1.5, size=rows.shape)
    old, new = (0.15 * (1 + 8 * each * (1 - each)) for each in (before, after))
    noisy = [each[rows] * rng.gamma(2.0, 0.5, size=rows.shape) * shared for each in (old, new)]
    yield "token entropy", noisy[1] - noisy[0], float((new - old).mean()), None


def held(values: Array, truth: float, bounds: Bounds, num_resamples: int) -> dict[str, float]:
    """Share of the intervals that hold the truth, by method."""
    found = dict.fromkeys(METHODS, 0)
    for seed in range(NUM_SEEDS):
        own = values[seed::NUM_SEEDS]
        draws = PromptBootstrap(values.shape[1], num_resamples, seed).means(own.T)
        for row, drawn in zip(own, draws.T, strict=True):
            given = (float(row.mean()), drawn, jackknife_means(row), 0.95, bounds)
            reported, corrected = estimate(*given, is_difference=True), estimate(*given)
            ends = (
                interval(drawn),
                (reported.ci_low, reported.ci_high),
                (corrected.ci_low, corrected.ci_high),
            )
            for method, (low, high) in zip(METHODS, ends, strict=True):
                found[method] += low - 1e-12 <= truth <= high + 1e-12
    return {method: count / len(values) for method, count in found.items()}


def main() -> None:
    """Print one row a population, size and metric; write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reps", type=int, default=1000)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    print(f"{'population':<22}{'size':<14}{'difference':<15}{'truth':>8}", end="")
    print("".join(f"{method:>13}" for method in METHODS))
    rows: list[dict[str, Any]] = []
    for num_prompts, num_samples in ((50, 16), (50, 64), (200, 16), (200, 64)):
        for name, (before, after) in populations().items():
            for metric, values, truth, bounds in differences(
                before, after, num_prompts, num_samples, given.reps
            ):
                shares = held(values, truth, bounds, given.resamples)
                size = f"N={num_prompts} n={num_samples}"
                cells = "".join(f"{share:>13.3f}" for share in shares.values())
                print(f"{name:<22}{size:<14}{metric:<15}{truth:>8.3f}{cells}", flush=True)
                rows.append(
                    {
                        "population": name,
                        "N": num_prompts,
                        "n": num_samples,
                        "metric": metric,
                        "truth": round(truth, 6),
                        "coverage": {method: round(share, 4) for method, share in shares.items()},
                        "error": round(standard_error(shares["reported"], given.reps), 4),
                    }
                )
    for method in METHODS:
        shares_of = np.array([row["coverage"][method] for row in rows])
        inside = int(((shares_of >= 0.93) & (shares_of <= 0.97)).sum())
        print(
            f"{method}: {inside} of {len(rows)} within 93 % to 97 %, from {shares_of.min():.3f} to "
            f"{shares_of.max():.3f}, mean {shares_of.mean():.4f}"
        )
    if given.json:
        command = "python -m tests.benchmarks.paired"
        record = {
            "command": f"{command} --reps {given.reps} --resamples {given.resamples}",
            "rows": rows,
        }
        given.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
