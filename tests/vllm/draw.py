"""Draws rollouts with one vLLM engine in a process of its own: ``python -m tests.vllm.draw CASE``.

One engine a process, because vLLM reads its environment once. The answer, with what an oracle
needs, is one JSON file.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def draw(folder: Path, **case: Any) -> dict[str, Any]:
    """Run a case in a subprocess.

    Args:
        folder: Where the case and its answer are written.
        case: ``model``, ``prompts``, and what `_config` reads; ``repeats`` samples again with a
            second sampler of the same process.
    """
    path = folder / "case.json"
    path.write_text(json.dumps(case), encoding="utf-8")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    environment["PYTHONPATH"] = str(ROOT)  # engine processes import the tests' main module
    if case.get("options", {}).get("runner") == "v2":
        environment["TRITON_INTERPRET"] = "1"
    done = subprocess.run(
        [sys.executable, "-m", "tests.vllm.draw", str(path)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=590,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    answer: dict[str, Any] = json.loads(path.with_suffix(".answer").read_text(encoding="utf-8"))
    return answer


def run_v2_without_gpu() -> None:
    """Let Triton's interpreter stand for a GPU: vLLM runs V2 only where Triton has a backend."""
    from types import SimpleNamespace

    from triton.backends import backends

    backends["cpu"] = SimpleNamespace(driver=SimpleNamespace(is_active=lambda: True))


def main(path: Path) -> None:
    """Answer the case of a file."""
    case = json.loads(path.read_text(encoding="utf-8"))
    from mlflow_rlrisk.records import Prompt
    from mlflow_rlrisk.samplers import load_sampler

    prompts = [Prompt(id=f"p{i}", content=text) for i, text in enumerate(case["prompts"])]
    answers = []
    for _ in range(case.get("repeats", 1)):
        sampler: Any = load_sampler("vllm")(Path(case["model"]), _config(case))
        num_preempted = _count_preemptions(sampler)
        sampler._reference = None  # the plain pass, which would fill in what was not recorded
        seen: list[tuple[int, int]] = []
        sampler.on_tokens = lambda *counts, seen=seen: seen.append(counts)
        groups = list(sampler.sample(prompts))
        answers.append(
            {
                "rollouts": [_plain(r) for group in groups for r in group.rollouts],
                "prompt_ids": dict(
                    zip([p.id for p in prompts], sampler._encoder.encode(prompts), strict=True)
                ),
                "num_preempted": len(num_preempted),
                "progress": [sum(part) for part in zip(*seen, strict=True)],
                "describe": sampler.describe(),
            }
        )
    path.with_suffix(".answer").write_text(json.dumps(answers), encoding="utf-8")


def _config(case: dict[str, Any]) -> Any:
    from mlflow_rlrisk.config import AssessmentConfig, SamplingConfig

    return AssessmentConfig(
        backend="vllm",
        backend_options={"kv_cache_memory_bytes": 2**26, **case.get("options", {})},
        batch_size=case.get("batch_size", 32),
        dtype=case.get("dtype", "auto"),
        sampling=SamplingConfig(**{"temperature": 0.7, **case["sampling"]}),
    )


def _count_preemptions(sampler: Any) -> list[None]:
    """Count from here on, where the engine runs in this process."""
    counted: list[None] = []
    core = getattr(sampler._engine._engine.engine_core, "engine_core", None)
    if core is not None:
        original = core.scheduler._preempt_request

        def counting(*args: Any, **kwargs: Any) -> Any:
            counted.append(None)
            return original(*args, **kwargs)

        core.scheduler._preempt_request = counting
    return counted


def _plain(rollout: Any) -> dict[str, Any]:
    return {
        "prompt_id": rollout.prompt_id,
        "sample_index": rollout.sample_index,
        "completion": rollout.completion,
        "token_ids": rollout.token_ids.tolist(),
        "logprobs": rollout.logprobs.tolist(),
        "entropies": rollout.entropies.tolist(),
        "finish_reason": rollout.finish_reason.value,
    }


if os.environ.get("TRITON_INTERPRET") == "1":  # in the engine's own processes too
    run_v2_without_gpu()

if __name__ == "__main__":
    main(Path(sys.argv[1]))
