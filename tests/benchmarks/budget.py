"""Coverage, level errors and cost of a budget in rounds beside the fixed one.

Whole assessments of simulated checkpoints whose true figures are known in closed form: both
budgets read the same draws, the one in rounds their beginnings. Coverage counts how often the
reported interval holds the truth, at the look that stopped and the attempts it had; a method that
forgot its looks would fall below the stated level, most of all at a decision line. Cost is counted
in rollouts and in tokens, whose number differs from prompt to prompt and from answer to answer.

    python -m tests.benchmarks.budget --simulations 400 --out budget.json
"""

import argparse
import json
import time
from functools import cache
from pathlib import Path
from typing import Any

from tests.sequential_populations import (
    ENTROPY,
    INDEX,
    NUM_PROMPTS,
    NUM_SAMPLES,
    PASS,
    POPULATIONS,
    SIGNAL,
    Drawn,
    Ended,
    Population,
    covers,
)

METRICS = {"signal": SIGNAL, "pass@1": PASS, "entropy": ENTROPY, "index": INDEX}
HARMFUL = {("low", "high"), ("high", "low")}


def simulate(population: Population, simulations: int, num_resamples: int) -> dict[str, Any]:
    """Shares over simulations, for both budgets."""
    level = population.level()
    sides: dict[str, list[Any]] = {"auto": [], "fixed": []}
    for seed in range(simulations):
        drawn = Drawn(population, seed, num_resamples)
        sides["auto"].append(drawn.in_rounds())
        sides["fixed"].append(drawn.fixed())
    result: dict[str, Any] = {"population": population.name, "true level": level}
    for side, ended in sides.items():
        levels = [str(each.report.risk_level) for each in ended]
        result[side] = {
            "coverage": {
                label: sum(_is_covered(each, name, population) for each in ended) / simulations
                for label, name in METRICS.items()
            },
            "true level found": levels.count(level) / simulations,
            "low for high or high for low": sum((level, x) in HARMFUL for x in levels)
            / simulations,
            "called low or high wrongly": sum(x != level and x != "medium" for x in levels)
            / simulations,
            "rollouts": sum(each.num_rollouts for each in ended) / simulations,
            "most rollouts": max(each.num_rollouts for each in ended),
            "tokens": sum(each.num_tokens for each in ended) / simulations,
        }
    pairs = zip(sides["auto"], sides["fixed"], strict=True)
    same = sum(a.report.risk_level == f.report.risk_level for a, f in pairs)
    result["same level as fixed"] = same / simulations
    for name in ("rollouts", "tokens"):
        result[f"fewer {name}"] = result["fixed"][name] / result["auto"][name]
    return result


def _is_covered(ended: Ended, name: str, population: Population) -> bool:
    """Coverage of prompts, and so the index, is that at the attempts the report says it read."""
    attempts = ended.num_rollouts // ended.report.num_prompts
    return covers(ended.report, name, _truth(population, attempts)[name])


@cache
def _truth(population: Population, attempts: int) -> dict[str, float]:
    return population.truth(attempts)


def main() -> None:
    """Print one row a population and budget."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--simulations", type=int, default=400)
    parser.add_argument("--num-resamples", type=int, default=1000)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    started = time.process_time()
    print(f"{NUM_PROMPTS} prompts x {NUM_SAMPLES} rollouts, {given.simulations} simulations each")
    header = [
        *METRICS,
        "right",
        "wrong",
        "rollouts",
        "most",
        "tokens",
        "same",
        "fewer",
        "in tokens",
    ]
    print(f"{'population':<18}{'true':<8}{'budget':<8}" + "".join(f"{h:>10}" for h in header))
    results = []
    for population in POPULATIONS:
        row = simulate(population, given.simulations, given.num_resamples)
        results.append(row)
        for side in ("auto", "fixed"):
            one = row[side]
            cells = [f"{share:.3f}" for share in one["coverage"].values()]
            cells += [f"{one['true level found']:.3f}", f"{one['called low or high wrongly']:.3f}"]
            cells += [f"{one['rollouts']:.0f}", f"{one['most rollouts']}", f"{one['tokens']:.0f}"]
            if side == "auto":
                cells += [f"{row['same level as fixed']:.3f}", f"{row['fewer rollouts']:.2f}"]
                cells += [f"{row['fewer tokens']:.2f}"]
            names = f"{population.name:<18}{row['true level']:<8}{side:<8}"
            print(names + "".join(f"{cell:>10}" for cell in cells), flush=True)
    print(f"{time.process_time() - started:.0f} s of CPU time")
    if given.out:
        given.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
