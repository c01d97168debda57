"""Two workers of the ray backend against one, on one machine, in turn within one run.

Wall time, for parallelism is the point; the share of the machine that this run got is printed
beside it, since workers that wait for a busy core do not show what the backend costs. The workers
load the model anew in every run; what starting them takes is measured with a single rollout and
taken off in the second column.

    python -m tests.benchmarks.ray_scaling --reps 3 --out ray_scaling.json
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from mlflow_rlrisk import load_prompts
from mlflow_rlrisk.config import AssessmentConfig, SamplingConfig
from mlflow_rlrisk.records import Prompt
from mlflow_rlrisk.samplers.ray import RaySampler
from tests.tiny_assessments import sums
from tests.tiny_models import write_llama

NUM_PROMPTS, NUM_SAMPLES, NUM_TOKENS = 128, 16, 64


def machine_busy_s() -> float:
    """Core seconds that all processes of the machine have spent."""
    fields = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()[1:]
    busy = sum(map(int, fields[:3])) + sum(map(int, fields[5:8]))
    return busy / os.sysconf("SC_CLK_TCK")


def seconds(sampler: RaySampler, prompts: tuple[Prompt, ...]) -> tuple[float, float, int]:
    """Wall seconds, core seconds of the whole machine, and tokens of one run."""
    tokens = 0

    def count(num_tokens: int, num_rollouts: int) -> None:
        nonlocal tokens
        tokens += num_tokens

    sampler.on_tokens = count
    started, busy = time.perf_counter(), machine_busy_s()
    for _ in sampler.sample(prompts):
        pass
    return time.perf_counter() - started, machine_busy_s() - busy, tokens


def main() -> None:
    """Print tokens per second of one worker and of two."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reps", type=int, default=3)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    import ray

    os.environ["OMP_NUM_THREADS"] = "1"
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    prompts = load_prompts(sums(NUM_PROMPTS)).prompts
    runs: dict[int, list[dict[str, float]]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as folder:
        # Narrow initial weights: no token is likely, so that few rollouts stop early.
        checkpoint = write_llama(
            Path(folder) / "checkpoint", hidden=256, layers=6, initializer_range=0.02
        )
        for _ in range(given.reps):
            for workers in runs:
                config = AssessmentConfig(
                    sampling=SamplingConfig(num_samples=NUM_SAMPLES, max_new_tokens=NUM_TOKENS),
                    backend="ray",
                    backend_options={"num_workers": workers, "prompts_per_shard": 8},
                    batch_size=128,
                )
                sampler = RaySampler(checkpoint, config)
                start_s, _, _ = seconds(sampler, prompts[:workers])
                wall_s, busy_s, tokens = seconds(sampler, prompts)
                sampler.close()
                runs[workers].append(
                    {
                        "wall_s": wall_s,
                        "start_s": start_s,
                        "tokens": tokens,
                        "machine_busy_cores": busy_s / wall_s,
                    }
                )
                print(workers, json.dumps(runs[workers][-1]), flush=True)
    ray.shutdown()
    print(json.dumps(summary := _summary(runs), indent=2))
    if given.out:
        given.out.write_text(json.dumps({"runs": runs, **summary}, indent=2) + "\n")


def _summary(runs: dict[int, list[dict[str, float]]]) -> dict[str, Any]:
    pairs = list(zip(runs[1], runs[2], strict=True))
    return {
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "two workers over one, wall": median(a["wall_s"] / b["wall_s"] for a, b in pairs),
        "two workers over one, without starting them": median(
            (a["wall_s"] - a["start_s"]) / (b["wall_s"] - b["start_s"]) for a, b in pairs
        ),
    }


if __name__ == "__main__":
    main()
