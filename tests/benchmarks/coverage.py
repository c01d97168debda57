"""How often the 95 % intervals of a report hold the truth, over populations of prompts.

Assessments are drawn from populations whose true figures are known exactly
(``tests/coverage_populations.py``), and made into metrics and an index by the functions that make
those of a report. For every metric, population, number of prompts
N and of rollouts n: the share of the intervals that hold the truth, its Monte Carlo error, and
the intervals' mean width. Cells outside 93 to 97 % are named with what is particular to them.

    nice python -m tests.benchmarks.coverage --reps 1000 --json coverage.json
"""

import argparse
import itertools
import json
import platform
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from mlflow_rlrisk.calibration import formula_digest
from mlflow_rlrisk.config import DEFAULT_COMPONENTS, AssessmentConfig, PolicyConfig
from mlflow_rlrisk.evidence import AssessmentContext
from mlflow_rlrisk.metrics.aggregate import Aggregates, aggregate
from mlflow_rlrisk.records import PromptStatistics
from mlflow_rlrisk.report import Metric
from mlflow_rlrisk.risk import judge
from mlflow_rlrisk.risk.components import Quantities, assess_components
from mlflow_rlrisk.risk.judgement import risk_index
from mlflow_rlrisk.statistics.bootstrap import PromptBootstrap
from tests.coverage_populations import (
    CRITICAL,
    GROUP,
    MAX_NEW_TOKENS,
    POPULATIONS,
    Population,
    draw,
    standard_error,
    truths,
)

WANTED = (0.93, 0.97)
INDEX = "risk_index"
NUM_SEEDS = 16
SPARSE_METHODS = ("sparse", "constant")
UNBOUNDED = ("token_entropy", "sequence_nll", "answer_distinct", "correct_diversity")
WIDTHS = {"headroom": 1.0 / CRITICAL, "expected_group_variance": 0.5}
"""Range of the metrics that are no shares."""
CORE = (
    "pass_at_1",
    "pass_at_16",
    "pass_at_64",
    "group_signal_fraction",
    "headroom",
    "agreement_accuracy",
    "token_entropy",
    "truncated_share",
    INDEX,
)
"""What the level is made of."""


def true_index(truth: dict[str, float]) -> float:
    """The index of the true figures, by the functions that make the report's."""
    exact = {
        f"rlrisk/{name}": Metric(value=value, ci_low=value, ci_high=value, num_prompts=1)
        for name, value in truth.items()
    }
    draws = {name: np.full(2, metric.value) for name, metric in exact.items()}
    found = Aggregates(metrics=exact, draws=draws, undefined={})
    quantities = Quantities(found, AssessmentContext(), confidence=0.95, seed=0)
    return risk_index(assess_components(quantities, PolicyConfig()))[0]


@lru_cache(maxsize=NUM_SEEDS)
def kept_bootstrap(num_prompts: int, num_resamples: int, seed: int) -> PromptBootstrap:
    """A `PromptBootstrap` that is made once."""
    return PromptBootstrap(num_prompts, num_resamples, seed)


def assessed(
    prompts: Sequence[PromptStatistics], num_resamples: int, seed: int
) -> dict[str, Metric]:
    """The metrics of a report on these prompts, with the index."""
    config, policy = AssessmentConfig(group_size=GROUP), PolicyConfig()
    context = AssessmentContext()
    with patch("mlflow_rlrisk.metrics.aggregate.PromptBootstrap", kept_bootstrap):
        found = aggregate(
            prompts,
            group_size=GROUP,
            max_new_tokens=MAX_NEW_TOKENS,
            num_resamples=num_resamples,
            seed=seed,
            confidence=config.confidence,
        )
    components = assess_components(Quantities(found, context, config.confidence, seed), policy)
    index = judge(
        found,
        components,
        policy=policy,
        config=config,
        num_prompts=len(prompts),
        context=context,
    ).index
    assert index is not None, found.undefined
    return {**found.metrics, f"rlrisk/{INDEX}": index}


def simulate(
    population: Population, num_prompts: int, num_samples: int, seeds: range, num_resamples: int
) -> Iterator[dict[str, Any]]:
    """One row a metric: how often its interval holds the truth.

    Resamples are taken in turn from `NUM_SEEDS` sets, kept, for drawing them takes a third of
    the time.
    """
    place = POPULATIONS.index(population)  # else all populations share their Monte Carlo error
    truth = truths(population, num_samples)
    truth[INDEX] = true_index(truth)
    below: dict[str, int] = defaultdict(int)
    above: dict[str, int] = defaultdict(int)
    made: dict[str, int] = defaultdict(int)
    sparse: dict[str, int] = defaultdict(int)
    width: dict[str, float] = defaultdict(float)
    for seed in seeds:
        rng = np.random.default_rng([seed, num_prompts, num_samples, place])
        metrics = assessed(
            draw(population, num_prompts, num_samples, rng), num_resamples, seed % NUM_SEEDS
        )
        for name, value in truth.items():
            metric = metrics.get("rlrisk/" + name.split(" ")[0])
            if metric is None:
                continue
            made[name] += 1
            slack = 1e-9 * max(abs(value), 1.0)  # the truth is a sum that rounds
            below[name] += metric.ci_high < value - slack
            above[name] += metric.ci_low > value + slack
            sparse[name] += metric.method in SPARSE_METHODS
            width[name] += metric.ci_high - metric.ci_low
    for name, runs in made.items():
        share = 1 - (below[name] + above[name]) / runs
        yield {
            "metric": name,
            "population": population.name,
            "N": num_prompts,
            "n": num_samples,
            "truth": truth[name],
            "coverage": share,
            "error": standard_error(share, runs),
            "interval_below_truth": below[name] / runs,
            "interval_above_truth": above[name] / runs,
            "mean_width": width[name] / runs,
            "sparse_or_constant": sparse[name] / runs,
            "undefined": 1 - runs / len(seeds),
            "runs": runs,
        }


def unseen_share(num_prompts: int) -> float:
    """Nearer to an end of its range than this, a mean cannot be covered by less than 97.5 %.

    Of a population with this share of prompts at the far end and all others alike, no prompt of
    the share is seen in 7 % of the assessments. An interval that covers the mean of that population
    in 93 % must reach it from an assessment without any spread, and from every one that shows more.
    So no truth nearer to the end is ever missed on that side, and the other side misses 2.5 %.
    """
    return float(1.0 - (1.0 - WANTED[0]) ** (1.0 / num_prompts))


def is_at_an_end(row: dict[str, Any]) -> bool:
    """Whether `unseen_share` speaks of this truth."""
    if row["metric"] in UNBOUNDED:
        return False
    place = row["truth"] / WIDTHS.get(row["metric"], 1.0)
    return bool(min(place, 1.0 - place) < unseen_share(row["N"]))


def reason(row: dict[str, Any]) -> str:
    """What is particular to a cell outside the wanted range."""
    low, high = WANTED
    if low <= row["coverage"] <= high:
        return ""
    if "true share" in row["metric"]:
        return "posterior shares lean to their prior: no estimate of the true share"
    if row["coverage"] > high and is_at_an_end(row):
        return "at an end of the range: every interval that holds for all populations covers 97.5 %"
    nearest = low if row["coverage"] < low else high
    if abs(row["coverage"] - nearest) <= 2 * row["error"]:
        return "within two Monte Carlo errors of the range"
    if row["metric"] == INDEX and row["coverage"] > high:
        return "the index lies at an end of its range, or of a ramp in it, and cannot pass it"
    if row["coverage"] > high and row["metric"] == f"pass_at_{row['n']}":
        return "k = n: every prompt gives 0 or 1, and few give one of them"
    if row["coverage"] > high and row["sparse_or_constant"] > 0.05:
        return "few prompts carry it: the interval allows for prompts that were not seen"
    return "not explained"


def print_table(rows: Sequence[dict[str, Any]], cells: Sequence[tuple[int, int]]) -> None:
    """One line a metric and population, one column a size; ``*`` marks cells outside."""
    header = "".join(f"{f'N={N} n={n}':>26}" for N, n in cells)
    print(f"\n{'metric':<30}{'population':<24}{header}")
    for name in dict.fromkeys(row["metric"] for row in rows):
        for population in dict.fromkeys(row["population"] for row in rows):
            found = {
                (row["N"], row["n"]): row
                for row in rows
                if row["metric"] == name and row["population"] == population
            }
            if not found:
                continue
            line = ""
            for cell in cells:
                row = found.get(cell)
                text = "-"
                if row is not None:
                    mark = " " if not reason(row) else "*"
                    text = (
                        f"{row['coverage']:.3f}{mark}±{row['error']:.3f} w {row['mean_width']:.3g}"
                    )
                line += f"{text:>26}"
            print(f"{name:<30}{population:<24}{line}")


def print_summary(rows: Sequence[dict[str, Any]]) -> None:
    """How many cells lie in the range, and every one that does not."""
    main = [row for row in rows if "true share" not in row["metric"]]
    within = [row for row in main if not is_at_an_end(row)]
    core = [row for row in within if row["metric"] in CORE]
    for title, part in (
        ("all cells", main),
        ("truths not at an end of their range", within),
        ("of these, what the level is made of", core),
    ):
        span = [row["coverage"] for row in part]
        inside = sum(WANTED[0] <= each <= WANTED[1] for each in span)
        near = sum("Monte Carlo" in reason(row) for row in part)
        print(
            f"\n{title}: {inside} of {len(part)} within {WANTED[0]:.0%} to {WANTED[1]:.0%}, "
            f"{near} more within two Monte Carlo errors of that, "
            f"from {min(span):.3f} to {max(span):.3f}, mean {np.mean(span):.4f}"
        )
    means = means_over_populations(main)
    outside = {key: each for key, each in means.items() if not WANTED[0] <= each <= WANTED[1]}
    level = sum(metric in CORE for metric, _, _ in means)
    print(
        f"\nmeans over the populations: {len(means) - len(outside)} of {len(means)} within, of the "
        f"level's metrics {level - sum(key[0] in CORE for key in outside)} of {level}"
    )
    for (metric, num_prompts, num_samples), each in means.items():
        print(f"  {each:.3f}  {metric}, N={num_prompts} n={num_samples}")
    print("\noutside:")
    for row in sorted(rows, key=lambda row: row["coverage"]):
        if why := reason(row):
            print(
                f"  {row['coverage']:.3f} ± {row['error']:.3f}  {row['metric']}, "
                f"{row['population']}, N={row['N']} n={row['n']}, truth {row['truth']:.4g}: {why}"
            )


def means_over_populations(rows: Sequence[dict[str, Any]]) -> dict[tuple[str, int, int], float]:
    """Mean coverage over the populations, by metric, prompts and samples."""
    found: dict[tuple[str, int, int], list[float]] = defaultdict(list)
    for row in rows:
        found[row["metric"], row["N"], row["n"]].append(row["coverage"])
    return {key: float(np.mean(each)) for key, each in sorted(found.items())}


def main() -> None:
    """Simulate every population and size, print the table, write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reps", type=int, default=1000, help="assessments a cell")
    parser.add_argument("--first", type=int, default=0, help="seed of the first assessment")
    parser.add_argument("--prompts", type=int, nargs="+", default=[50, 200])
    parser.add_argument("--samples", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--resamples", type=int, default=2000)
    parser.add_argument("--population", nargs="+", help="beginnings of names; all by default")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    started = time.process_time()
    cells = [(N, n) for N in given.prompts for n in given.samples]
    wanted = tuple(given.population or [""])
    formula = formula_digest(DEFAULT_COMPONENTS)
    settings = {"reps": given.reps, "resamples": given.resamples, "formula": formula}
    settings |= {"first": given.first} if given.first else {}
    seeds = range(given.first, given.first + given.reps)
    rows = _finished(given.json, settings)
    if rows:
        print(f"{len(rows)} rows are taken from {given.json}", file=sys.stderr)
    done = {(row["population"], row["N"], row["n"]) for row in rows}
    for (num_prompts, num_samples), population in itertools.product(cells, POPULATIONS):
        key = (population.name, num_prompts, num_samples)
        if key in done or not population.name.startswith(wanted):
            continue
        rows += simulate(population, num_prompts, num_samples, seeds, given.resamples)
        print(
            key, f"{time.process_time() - started:.0f} s of CPU time", file=sys.stderr, flush=True
        )
        if given.json:
            _write(given.json, rows, settings)
    print_table(rows, cells)
    print_summary(rows)


def _finished(path: Path | None, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of an earlier run of the same settings and index, which is gone on with."""
    if path is None or not path.exists():
        return []
    record = json.loads(path.read_text(encoding="utf-8"))
    if record["settings"] != settings:
        raise SystemExit(f"{path} holds rows of {record['settings']}: name another file")
    return list(record["rows"])


def _write(path: Path, rows: Sequence[dict[str, Any]], settings: dict[str, Any]) -> None:
    record = {
        "command": f"python -m tests.benchmarks.coverage --reps {settings['reps']}"
        f" --resamples {settings['resamples']} --first {settings.get('first', 0)}",
        "device": f"{platform.machine()} CPU, one process, no GPU",
        "settings": settings,
        "rows": [{**row, "reason": reason(row)} for row in rows],
    }
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
