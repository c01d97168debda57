"""Prompt bootstrap of several metrics, against SciPy and a plain Python loop.

``python -m tests.benchmarks.bootstrap --reps 5 [--json FILE]``

The Python loop resamples lists and averages them, metric by metric, the way lm-eval's
``bootstrap_stderr`` does; it is run on few resamples and scaled up. SciPy's percentile
bootstrap gets the whole matrix at once, which is its fastest form.
"""

import argparse
import random
from pathlib import Path

import numpy as np
from scipy.stats import bootstrap as scipy_bootstrap

from mlflow_rlrisk.statistics import (
    CountPairs,
    PromptBootstrap,
    category_means,
    expected_group_variance,
    group_signal,
    pass_at_k,
)
from tests.benchmarks.interleaved import finish, goal, seconds_by_name, table

JOINT_GOAL, CATEGORY_GOAL = 5.0, 150.0


def metrics_of(correct: np.ndarray, num_scored: int, num_metrics: int) -> np.ndarray:
    """Metrics that depend on the counts alone, so that all contenders can do them: ``[P, M]``."""
    scored = np.full(correct.size, num_scored)
    columns = [group_signal(correct, scored, 8), expected_group_variance(correct, scored, 8)]
    columns += [pass_at_k(correct, scored, 2**power) for power in range(5)]
    while len(columns) < num_metrics:
        columns.append(group_signal(correct, scored, len(columns) + 2))
    return np.stack(columns[:num_metrics], axis=1)


def python_loop(values: list[list[float]], num_resamples: int) -> list[list[float]]:
    """Resample each metric's list and average it, in plain Python."""
    rnd = random.Random(0)
    return [
        [sum(rnd.choices(column, k=len(column))) / len(column) for _ in range(num_resamples)]
        for column in values
    ]


def main() -> None:
    """Parse the command line, check that the intervals agree, and time the contenders."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=10_000)
    parser.add_argument("--scored", type=int, default=16, help="rollouts of each prompt")
    parser.add_argument("--resamples", type=int, default=2000)
    parser.add_argument("--metrics", type=int, default=8)
    parser.add_argument("--loop-resamples", type=int, default=20)
    parser.add_argument("--reps", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    correct = rng.binomial(arguments.scored, rng.beta(0.5, 0.5, arguments.prompts))
    values = metrics_of(correct, arguments.scored, arguments.metrics)
    columns = values.T.tolist()
    size, loop_size = arguments.resamples, min(arguments.loop_resamples, arguments.resamples)

    def joint() -> np.ndarray:
        return PromptBootstrap(arguments.prompts, size, seed=1).means(values)

    def by_category() -> np.ndarray:
        pairs = CountPairs.of(correct, np.full(correct.size, arguments.scored))
        per_pair = metrics_of(pairs.num_correct, arguments.scored, arguments.metrics)
        return category_means(pairs.multiplicities(), per_pair, size, seed=1)

    def scipy_percentile() -> np.ndarray:
        result = scipy_bootstrap(
            (values,), np.mean, axis=0, n_resamples=size, batch=50, method="percentile", rng=1
        )
        return np.asarray(result.bootstrap_distribution).T

    errors = values.std(axis=0) / np.sqrt(arguments.prompts)
    reference = np.quantile(scipy_percentile(), [0.025, 0.975], axis=0)
    guard = {
        name: float((np.abs(np.quantile(run(), [0.025, 0.975], axis=0) - reference) / errors).max())
        for name, run in (("joint", joint), ("category", by_category))
    }
    # Monte-Carlo error of a 2.5 % quantile is 2.7 / sqrt(B) standard errors; two are compared.
    allowed = 5 * 2.7 * np.sqrt(2 / size)
    assert max(guard.values()) < allowed, f"intervals disagree: {guard}, allowed {allowed}"

    contenders = {
        "ours, joint (any metric)": joint,
        "ours, by (n, c) category": by_category,
        "scipy percentile": scipy_percentile,
        "Python loop": lambda: python_loop(columns, loop_size),
    }
    seconds = seconds_by_name(contenders, arguments.reps)
    scale = {"Python loop": size / loop_size}
    sizes = f"{arguments.prompts} prompts x {size} resamples x {arguments.metrics} metrics"
    title = f"{sizes}, n={arguments.scored}"
    result = table(title, seconds, scale, "ours, joint (any metric)")
    print(
        f"  ends of intervals against SciPy's, in standard errors: {guard}, allowed {allowed:.2f}"
    )
    rows = result["rows"]
    over_joint = rows["scipy percentile"]["times_ours"]
    over_category = over_joint / rows["ours, by (n, c) category"]["times_ours"]
    result["interval_distance"] = guard
    result["goal_reached"] = [
        goal("joint over SciPy percentile", over_joint, JOINT_GOAL),
        goal("by category over SciPy percentile", over_category, CATEGORY_GOAL),
    ]
    finish([result], arguments.json)


if __name__ == "__main__":
    main()
