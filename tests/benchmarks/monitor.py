"""How often the monitor cries wolf, and how soon it sees a run fail.

``python -m tests.benchmarks.monitor`` simulates healthy runs with realistic noise (see
`tests.monitor.histories`) and runs that collapse or surge, and prints both.
"""

import argparse
import time
from collections import Counter
from collections.abc import Callable

import numpy as np

from mlflow_rlrisk.monitor import Judgement, LogRow, judge_rows
from tests.monitor.histories import (
    HealthyRun,
    collapsing_rows,
    healthy_rows,
    random_healthy_run,
    surging_rows,
)

Failing = Callable[[HealthyRun, int, int], list[LogRow]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--healthy", type=int, default=2000)
    parser.add_argument("--failing", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    _false_alarms(rng, options.healthy)
    for name, make, latest in (
        ("collapse", collapsing_rows, 80),
        ("surge", surging_rows, 25),
    ):
        _delays(rng, options.failing, name, make, latest)


def _false_alarms(rng: np.random.Generator, count: int) -> None:
    rules: Counter[str] = Counter()
    alarmed = stopped = logs = 0
    started = time.process_time()
    for _ in range(count):
        judgement = judge_rows(healthy_rows(random_healthy_run(rng)))
        raised = {alarm.rule for alarm in judgement.alarms}
        rules.update(raised)
        alarmed += bool(raised)
        stopped += judgement.stop.step is not None
        logs += judgement.num_logs
    elapsed = time.process_time() - started
    print(f"{count} healthy runs, {logs} logs, {1e6 * elapsed / logs:.0f} us a log with simulation")
    print(f"  with any alarm     {alarmed:5d}  {alarmed / count:.2%}  {_upper(alarmed, count)}")
    print(f"  advised to stop    {stopped:5d}  {stopped / count:.2%}  {_upper(stopped, count)}")
    for rule, number in sorted(rules.items()):
        print(f"    {rule}  {number}")


def _upper(hits: int, count: int) -> str:
    from mlflow_rlrisk.statistics import clopper_pearson

    low, high = clopper_pearson(hits, count)
    return f"[{low:.2%}, {high:.2%}]"


def _delays(rng: np.random.Generator, count: int, name: str, make: Failing, latest: int) -> None:
    warned, stops = [], []
    for _ in range(count):
        run = random_healthy_run(rng)
        onset, length = int(rng.integers(11, latest)), int(rng.integers(10, 40))
        judgement = judge_rows(make(run, onset, length))
        warned.append(_first(judgement, onset))
        step = judgement.stop.step
        stops.append(None if step is None else step - onset)
    print(f"{count} runs that {name} (over 10 to 40 steps)")
    for what, delays in (("first alarm", warned), ("stop advised", stops)):
        found = np.array([delay for delay in delays if delay is not None])
        quantiles = np.quantile(found, [0.1, 0.5, 0.9]) if found.size else [np.nan] * 3
        print(
            f"  {what:<13} {found.size / count:7.1%} of runs, steps after onset: median "
            f"{quantiles[1]:.0f}, 10-90% {quantiles[0]:.0f} to {quantiles[2]:.0f}"
        )


def _first(judgement: Judgement, onset: int) -> int | None:
    steps = [alarm.confirmed_step - onset for alarm in judgement.alarms]
    return min(steps) if steps else None


if __name__ == "__main__":
    main()
