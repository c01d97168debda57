"""Sampling with exact entropy beside bare ``transformers`` generation without it.

Both sides draw the same number of tokens from the same checkpoint, in turn in one run, on one
thread; the clock is process CPU time and the result the median of the ratios. Run with
``python -m tests.benchmarks.generate [--reps 5] [--only NAME] [--json FILE] [--assert]``.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.memory import resident_growth_mb
from tests.tiny_models import CHARACTERS, write_llama

SLACK = 1.15
"""A shared machine moves ratios by this much; ``--assert`` allows it."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One comparison; ``goal`` is the ratio to reach, lower is better."""

    name: str
    vocab_size: int
    goal: float
    num_prompts: int = 16
    prompt_tokens: int = 64
    new_tokens: int = 64
    stops: bool = False
    """Rollouts end at stop tokens after about 35 tokens instead of at the limit."""
    mixed: bool = False
    """Prompt lengths vary between half of ``prompt_tokens`` and all of it."""
    num_samples: int = 16
    batch_size: int = 256


CASES = [
    Case(name="fixed-2k", vocab_size=2048, goal=0.7),
    Case(name="fixed-32k", vocab_size=32768, num_prompts=8, new_tokens=32, goal=0.4),
    Case(name="mixed-2k", vocab_size=2048, mixed=True, goal=1.0),
    Case(name="stops-2k", vocab_size=2048, new_tokens=128, stops=True, goal=0.3),
    Case(
        name="stops-2k-long",
        vocab_size=2048,
        num_prompts=4,
        prompt_tokens=256,
        new_tokens=128,
        stops=True,
        goal=0.3,
    ),
    Case(name="stops-32k", vocab_size=32768, num_prompts=4, new_tokens=128, stops=True, goal=0.3),
]


def prepare(case: Case, folder: Path) -> list[str]:
    """Write the checkpoint of a case; returns its prompts."""
    write_llama(
        folder,
        vocab_size=case.vocab_size,
        hidden=256,
        layers=4,
        max_position_embeddings=1024,
        initializer_range=0.02,  # nearly uniform: every word is as likely to be a stop token
    )
    stop_ids = list(range(100, 100 + round(case.vocab_size / 35))) if case.stops else None
    for name in ("config.json", "generation_config.json"):
        values = json.loads((folder / name).read_text())
        values["eos_token_id"] = stop_ids
        (folder / name).write_text(json.dumps(values))
    path = folder / "tokenizer_config.json"
    values = json.loads(path.read_text())
    values.pop("eos_token", None)
    path.write_text(json.dumps(values))
    rng = random.Random(0)
    lengths = [
        rng.randint(case.prompt_tokens // 2, case.prompt_tokens)
        if case.mixed
        else case.prompt_tokens
        for _ in range(case.num_prompts)
    ]
    return ["".join(rng.choices(CHARACTERS, k=length)) for length in lengths]


def own_side(case: Case, folder: Path, texts: list[str]) -> Any:
    """A function that samples everything and returns how many tokens it drew."""
    from mlflow_rlrisk.config import AssessmentConfig, SamplingConfig
    from mlflow_rlrisk.records import Prompt
    from mlflow_rlrisk.samplers.transformers import TransformersSampler

    sampling = SamplingConfig(num_samples=case.num_samples, max_new_tokens=case.new_tokens)
    config = AssessmentConfig(sampling=sampling, batch_size=case.batch_size, device="cpu")
    sampler = TransformersSampler(folder, config)
    prompts = [Prompt(id=str(i), content=text) for i, text in enumerate(texts)]

    def run() -> int:
        return sum(
            len(rollout.token_ids)
            for group in sampler.sample(prompts)
            for rollout in group.rollouts
            if rollout.entropies is not None
        )

    return run


def generate_side(case: Case, folder: Path, texts: list[str], *, logits: bool = False) -> Any:
    """The same with ``generate``, without scores, or keeping all logits (``logits``)."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    per_call = max(1, case.batch_size // case.num_samples)
    stop_ids = model.generation_config.eos_token_id

    def run() -> int:
        drawn = 0
        ordered = sorted(texts, key=len)
        for start in range(0, len(ordered), per_call):
            batch = tokenizer(ordered[start : start + per_call], padding=True, return_tensors="pt")
            with torch.inference_mode():
                output = model.generate(
                    **batch,
                    do_sample=True,
                    temperature=1.0,
                    top_k=0,
                    top_p=1.0,
                    max_new_tokens=case.new_tokens,
                    num_return_sequences=case.num_samples,
                    pad_token_id=0,
                    output_logits=logits,
                    return_dict_in_generate=True,
                )
            tokens = output.sequences[:, batch["input_ids"].shape[1] :]
            drawn += _num_drawn(tokens, stop_ids)
        return drawn

    return run


def _num_drawn(tokens: Any, stop_ids: list[int] | None) -> int:
    import torch

    if not stop_ids:
        return tokens.numel()
    is_stop = torch.isin(tokens, torch.tensor(stop_ids))
    before_end = is_stop.long().cumsum(dim=1) - is_stop.long() == 0
    return int(before_end.sum())


def compare(case: Case, reps: int) -> dict[str, Any]:
    """Time both sides in turn; figures are CPU seconds per drawn token."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        texts = prepare(case, folder)
        sides = {
            "own": own_side(case, folder, texts),
            "generate": generate_side(case, folder, texts),
        }
        costs: dict[str, list[float]] = {side: [] for side in sides}
        drawn: dict[str, list[int]] = {side: [] for side in sides}
        for rep in range(reps + 1):
            for side, run in sides.items():
                start = time.process_time()
                num_tokens = run()
                if rep:  # the first round warms up
                    costs[side].append((time.process_time() - start) / num_tokens)
                    drawn[side].append(num_tokens)
    ratios = [own / bare for own, bare in zip(costs["own"], costs["generate"], strict=True)]
    return {
        "case": asdict(case),
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "own_us_per_token": 1e6 * statistics.median(costs["own"]),
        "generate_us_per_token": 1e6 * statistics.median(costs["generate"]),
        "tokens": {side: statistics.median(counts) for side, counts in drawn.items()},
    }


def count_ties(num_samples: int = 64) -> dict[str, Any]:
    """Draw the same rollouts at batch sizes 1 and 64 and count those that part ways.

    Both use the same random streams; a token differs where float32 rounding, which depends on
    the batch, moves a border of the inverse CDF across the uniform.
    """
    from mlflow_rlrisk.config import AssessmentConfig, SamplingConfig
    from mlflow_rlrisk.records import Prompt
    from mlflow_rlrisk.samplers.transformers import TransformersSampler

    sampling = SamplingConfig(num_samples=num_samples, max_new_tokens=64)
    prompts = [Prompt(id=str(i), content="1 + 2 = " * (1 + i)) for i in range(8)]
    drawn = {}
    with tempfile.TemporaryDirectory() as name:
        write_llama(Path(name), initializer_range=0.2)
        for size in (1, 64):
            config = AssessmentConfig(sampling=sampling, batch_size=size, device="cpu")
            groups = TransformersSampler(Path(name), config).sample(prompts)
            drawn[size] = {
                (r.prompt_id, r.sample_index): r.token_ids for g in groups for r in g.rollouts
            }
    parted, same_tokens = 0, 0
    for key, alone in drawn[1].items():
        length = min(len(alone), len(drawn[64][key]))
        differs = (alone[:length] != drawn[64][key][:length]).nonzero()[0]
        parted += int(differs.size > 0)
        same_tokens += int(differs[0]) if differs.size else length
    return {"rollouts": len(drawn[1]), "parted": parted, "tokens_until_parting": same_tokens}


def peak_mb(side: str, case: Case) -> float:
    """Memory that sampling adds at its peak over the loaded model, in a process of its own."""
    command = [
        sys.executable,
        "-m",
        "tests.benchmarks.generate",
        "--peak",
        side,
        "--only",
        case.name,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.strip().splitlines()[-1])


def measure_peak(side: str, case: Case) -> float:
    """Peak resident memory above what the loaded model takes, MB (Linux)."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        texts = prepare(case, folder)
        if side == "own":
            run = own_side(case, folder, texts)
        else:
            run = generate_side(case, folder, texts, logits=side == "logits")
        return resident_growth_mb(run)


def main() -> int:
    """Print one line per case; exit 1 with ``--assert`` where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reps", type=int, default=5)
    parser.add_argument("--only", choices=[case.name for case in CASES])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--assert", action="store_true", dest="check")
    parser.add_argument("--memory", action="store_true", help="also measure peak memory")
    parser.add_argument("--ties", action="store_true", help="only count ties between batch sizes")
    parser.add_argument("--peak", choices=["own", "generate", "logits"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    import torch
    from transformers.utils import logging

    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    cases = [case for case in CASES if args.only in (None, case.name)]
    if args.peak:
        print(measure_peak(args.peak, cases[0]))
        return 0
    if args.ties:
        ties = count_ties()
        print(
            f"batch size 1 against 64: {ties['parted']} of {ties['rollouts']} rollouts part ways "
            f"({ties['parted']} in {ties['tokens_until_parting']} tokens)"
        )
        return 0
    print(f"1 thread, CPU time, load {os.getloadavg()[0]:.1f}, torch {torch.__version__}")
    print(f"{'case':14} {'own us/tok':>10} {'generate':>9} {'ratio':>6} {'range':>11} {'goal':>5}")
    results = []
    for case in cases:
        result = compare(case, args.reps)
        span = f"{min(result['ratios']):.2f}-{max(result['ratios']):.2f}"
        print(
            f"{case.name:14} {result['own_us_per_token']:10.1f} "
            f"{result['generate_us_per_token']:9.1f} {result['ratio']:6.2f} {span:>11} "
            f"{case.goal:5.2f}",
            flush=True,
        )
        if args.memory:
            result["peak_mb"] = {
                side: peak_mb(side, case) for side in ("own", "generate", "logits")
            }
            peaks = ", ".join(f"{side} {mb:.0f}" for side, mb in result["peak_mb"].items())
            print(f"{'':14} peak MB above the model: {peaks}", flush=True)
        results.append(result)
    if args.json:
        args.json.write_text(json.dumps(results, indent=2))
    missed = [r["case"]["name"] for r in results if r["ratio"] > SLACK * r["case"]["goal"]]
    return 1 if args.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
