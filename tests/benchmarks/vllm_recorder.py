"""Tokens per second of vLLM with the entropy recorder over without it, on one engine.

Both sides draw the same requests (same seeds, so the same tokens) in turn in one run, every other
round the other way round; the ones that are recorded carry a uid, and their entropies are drained
within the time. The third contender asks for no logprobs at all. On a CPU the clock is process CPU
time of the engine in this process, on a GPU wall time. Run in vLLM's environment with
``python -m tests.benchmarks.vllm_recorder [--V 32768] [--hidden 256] [--layers 4]
[--sequences 64] [--tokens 48] [--reps 3] [--json FILE]``.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

AIM, FLOOR = 0.97, 0.90
RECORDED, PLAIN, BARE = "with the recorder", "without it", "without it, no logprobs"


def start_engine(folder: Path, arguments: argparse.Namespace) -> Any:
    """An ``LLM`` as the sampler starts it."""
    from mlflow_rlrisk.checkpoint import open_checkpoint
    from mlflow_rlrisk.config import AssessmentConfig, SamplingConfig
    from mlflow_rlrisk.samplers.vllm import VllmSampler

    options: dict[str, Any] = {"max_model_len": 512, "self_check": False}
    if arguments.runner != "auto":
        options["runner"] = arguments.runner
    config = AssessmentConfig(
        backend="vllm",
        batch_size=arguments.sequences,
        backend_options=options,
        sampling=SamplingConfig(max_new_tokens=arguments.tokens),
    )
    return VllmSampler(open_checkpoint(folder), config)


def contenders(sampler: Any, arguments: argparse.Namespace) -> dict[str, Callable[[], list[Any]]]:
    """Functions that draw the same rollouts and return their tokens."""
    from vllm import SamplingParams

    from mlflow_rlrisk.samplers.vllm_recorder import UID

    llm = sampler._engine._llm
    prompts = [{"prompt_token_ids": list(range(5 + i % 7, 37 + i % 7))} for i in range(8)]

    def run(recorded: bool, logprobs: int | None) -> list[Any]:
        requests = [prompts[i % len(prompts)] for i in range(arguments.sequences)]
        params = [
            SamplingParams(
                temperature=1.0,
                max_tokens=arguments.tokens,
                seed=i,
                logprobs=logprobs,
                flat_logprobs=True,
                detokenize=False,
                ignore_eos=True,
                extra_args={UID: i} if recorded else None,
            )
            for i in range(arguments.sequences)
        ]
        outputs = llm.generate(requests, params, use_tqdm=False)
        if recorded:
            count = sum(len(records.uids) for records in sampler._engine.drain())
            assert count >= arguments.sequences * arguments.tokens, count
        return [list(output.outputs[0].token_ids) for output in outputs]

    return {
        RECORDED: lambda: run(True, 0),
        PLAIN: lambda: run(False, 0),
        BARE: lambda: run(False, None),
    }


def main() -> None:
    """Print the table and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in (("V", 32768), ("hidden", 256), ("layers", 4), ("sequences", 64)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--reps", type=int, default=3)
    parser.add_argument("--runner", default="auto")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    from tests.tiny_models import write_llama

    with tempfile.TemporaryDirectory() as folder:
        path = write_llama(
            Path(folder),
            vocab_size=arguments.V,
            hidden=arguments.hidden,
            layers=arguments.layers,
            initializer_range=0.08,
        )
        sampler = start_engine(path, arguments)
        described = sampler.describe()
        runs = contenders(sampler, arguments)
        clock = time.process_time if described["device"] == "cpu" else time.perf_counter
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        tokens: list[Any] = []
        for round_number in range(arguments.reps + 1):
            for name, run in list(runs.items())[:: 1 if round_number % 2 else -1]:
                started = clock()
                found = run()
                if round_number:
                    seconds[name].append(clock() - started)
                tokens = tokens or found
                assert found == tokens, f"{name} drew other tokens"
        sampler.close()
    count = arguments.sequences * arguments.tokens
    rows = {}
    for name, taken in seconds.items():
        share = median(a / b for a, b in zip(seconds[PLAIN], taken, strict=True))
        rows[name] = {"tokens_per_s": count / median(taken), "over_without": share}
        print(f"{name:28}{count / median(taken):12.0f} tokens/s{share:8.3f} of without")
    share = rows[RECORDED]["over_without"]
    print(f"aim {AIM}, at least {FLOOR} on a CPU: {'reached' if share >= FLOOR else 'MISSED'}")
    if arguments.json is not None:
        shown = {k: v for k, v in vars(arguments).items() if k != "json"}
        keys = ("vllm", "torch", "runner", "device_name", "dtype")
        result = {"settings": shown, "engine": {k: described[k] for k in keys}, "rows": rows}
        result["load_average"] = os.getloadavg()[0]
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
