"""What trying the first updates of an RL run adds to an assessment.

``python -m tests.benchmarks.lookahead [--reps 3] [--only NAME] [--json FILE]``

Both commands' work on the same rollouts in turn, on one thread, by the CPU time of this process
and all it starts: the assessment as a whole, and `look_ahead_from` with 8 updates, three times on
each half of the prompts. Every group that was sampled is in one of the updates, and rewards are as
good as a coin, so that nearly all have something to teach: the dearest case. Where more is sampled
than the updates take, they weigh less.
"""

import argparse
import json
import os
import sys
import tempfile
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from tests.benchmarks.assess import Clock
from tests.tiny_models import CHARACTERS, write_llama

SAMPLES = 16
PER_STEP = 4


class Case(NamedTuple):
    """A checkpoint and how much is sampled from it."""

    name: str
    vocab_size: int
    hidden: int
    layers: int
    num_prompts: int
    new_tokens: int


CASES = (
    Case("2k-5M", vocab_size=2048, hidden=256, layers=6, num_prompts=32, new_tokens=64),
    Case("32k-17M", vocab_size=32768, hidden=256, layers=4, num_prompts=32, new_tokens=16),
)


def coin(completions: list[str], **_: object) -> list[float]:
    """A reward that half of all answers get."""
    return [float(sum(each.encode()) % 2) for each in completions]


def compare(case: Case, reps: int) -> dict[str, Any]:
    """Assess and look ahead in turn."""
    from mlflow_rlrisk.assessment.wiring import run_assessment
    from mlflow_rlrisk.config import AssessmentConfig, LookaheadConfig, SamplingConfig
    from mlflow_rlrisk.lookahead.stored_rollouts import look_ahead_from

    sampling = SamplingConfig(num_samples=SAMPLES, max_new_tokens=case.new_tokens)
    run = LookaheadConfig(learning_rate=1e-6, run_steps=400, prompts_per_step=PER_STEP)
    prompts = [
        {"prompt": f"{number:06d}{CHARACTERS[:18]}", "answer": "-"}
        for number in range(case.num_prompts)
    ]
    costs: dict[str, list[float]] = {"assess": [], "look ahead": []}
    with tempfile.TemporaryDirectory() as name:
        model = write_llama(
            Path(name) / "model",
            vocab_size=case.vocab_size,
            hidden=case.hidden,
            layers=case.layers,
            initializer_range=0.02,
        )
        for place in range(reps):
            out = Path(name) / str(place)
            work = {
                "assess": partial(
                    run_assessment,
                    model,
                    prompts,
                    verifier=f"{__spec__.name}:coin",
                    config=AssessmentConfig(sampling=sampling, device="cpu"),
                    out_dir=out,
                    run_preflight=False,
                ),
                "look ahead": partial(look_ahead_from, out, run, device="cpu"),
            }
            for part, do in work.items():
                began = Clock.now()
                do()
                costs[part].append((Clock.now() - began).cpu_s)
    ratios = [ahead / own for ahead, own in zip(costs["look ahead"], costs["assess"], strict=True)]
    return {
        "case": case._asdict(),
        "num_samples": SAMPLES,
        "cpu_s": {part: median(each) for part, each in costs.items()},
        "ratios": ratios,
        "ratio": median(ratios),
    }


def main() -> int:
    """Print a row per case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reps", type=int, default=3)
    parser.add_argument("--only", choices=[case.name for case in CASES])
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    print(f"1 thread, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {torch.__version__}")
    results = []
    for case in CASES:
        if given.only in (None, case.name):
            results.append(found := compare(case, given.reps))
            spread = f"{min(found['ratios']):.2f}-{max(found['ratios']):.2f}"
            parts = ", ".join(f"{part} {cost:.1f} s" for part, cost in found["cpu_s"].items())
            print(f"{case.name}: {parts} of CPU time, ratio {found['ratio']:.2f} ({spread})")
    if given.json:
        given.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
