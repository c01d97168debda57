"""What RL makes of a checkpoint: GRPO with TRL under frozen settings, held-out passes on the way.

Only what breaks a run from inside torch (a distribution that is none, a loss that is no number)
becomes a row with ``error``; any other exception is a fault of the study and stops it.
"""

import importlib
import logging
import time
from pathlib import Path
from typing import Any

from examples.study.models import load
from examples.study.rows import CurvePoint, Passes, RunOutcome
from examples.study.sampling import sampled_passes
from examples.study.settings import LineageSettings, StudySettings
from examples.study.tasks import TASKS
from examples.study.tasks.base import Task
from mlflow_rlrisk.demo.train import single_thread

LOGGED = ("reward", "frac_reward_zero_std", "entropy")
EVALUATION_SEED = 90210


def train_grpo(
    checkpoint: Path,
    lineage: LineageSettings,
    settings: StudySettings,
    *,
    rl_prompts: list[str],
    heldout_prompts: list[str],
    rl_seed: int,
    scratch: Path,
) -> RunOutcome:
    """Run GRPO from ``checkpoint`` and say what came of it."""
    import trl
    from datasets import Dataset
    from transformers import logging as transformers_logging
    from transformers.trainer_callback import PrinterCallback

    single_thread()
    library_log: Any = transformers_logging
    library_log.set_verbosity_error()
    logging.getLogger("trl").setLevel(logging.ERROR)
    started = time.process_time()
    task = TASKS[lineage.task]
    model, tokenizer = load(checkpoint)
    curve = _Curve(tokenizer, task, heldout_prompts, settings)
    curve.measure(model, 0)
    library: Any = trl  # its exports are resolved at run time
    trainer = library.GRPOTrainer(
        model=model,
        reward_funcs=importlib.import_module(f"examples.study.tasks.{task.name}").reward,
        args=library.GRPOConfig(
            output_dir=str(scratch), **grpo_arguments(lineage, settings, task, rl_seed)
        ),
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in rl_prompts]),
        processing_class=tokenizer,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_evaluation(curve, settings))
    error = None
    try:
        trainer.train()
    except (RuntimeError, ValueError, FloatingPointError) as problem:
        error = f"{type(problem).__name__}: {problem}"[:300]
    log = [entry for entry in trainer.state.log_history if "reward" in entry]
    return outcome_of(
        curve.points,
        {name: [float(entry[name]) for entry in log] for name in LOGGED},
        settings=settings,
        rl_seed=rl_seed,
        error=error,
        seconds=time.process_time() - started,
    )


def grpo_arguments(
    lineage: LineageSettings, settings: StudySettings, task: Task[Any], rl_seed: int
) -> dict[str, Any]:
    """Arguments of TRL's ``GRPOConfig``: no KL penalty, one update a batch."""
    return {
        "num_generations": settings.group_size,
        "per_device_train_batch_size": settings.group_size * settings.prompts_per_step,
        "max_completion_length": task.max_new_tokens,
        "max_steps": settings.rl_steps,
        "learning_rate": lineage.rl_learning_rate,
        "lr_scheduler_type": "constant",
        "temperature": 1.0,
        "top_k": 0,
        "beta": 0.0,
        "seed": rl_seed,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "dataloader_pin_memory": False,
        "log_level": "error",
    }


class _Curve:
    """Held-out passes, measured with the same random numbers at every point."""

    def __init__(
        self, tokenizer: Any, task: Task[Any], prompts: list[str], settings: StudySettings
    ) -> None:
        self.tokenizer, self.task, self.prompts = tokenizer, task, prompts
        self.num_samples = settings.heldout_samples
        self.points: list[CurvePoint] = []

    def measure(self, model: Any, step: int) -> None:
        found = sampled_passes(
            model, self.tokenizer, self.task, self.prompts, self.num_samples, EVALUATION_SEED
        )
        self.points.append({"step": step, **found})


def _evaluation(curve: _Curve, settings: StudySettings) -> Any:
    from transformers import TrainerCallback

    class Evaluation(TrainerCallback):
        def on_step_end(
            self, args: Any, state: Any, control: Any, model: Any = None, **_: Any
        ) -> None:
            step = state.global_step
            if step % settings.evaluated_every == 0 or step == settings.rl_steps:
                curve.measure(model, step)

    return Evaluation()


def outcome_of(
    points: list[CurvePoint],
    log: dict[str, list[float]],
    *,
    settings: StudySettings,
    rl_seed: int,
    error: str | None,
    seconds: float,
) -> RunOutcome:
    """The outcome by the definitions in the settings."""
    before, final = _passes(points[0]), _passes(points[-1])
    gain: Passes = {
        "pass_at_1": final["pass_at_1"] - before["pass_at_1"],
        "pass_at_10": final["pass_at_10"] - before["pass_at_10"],
    }
    return {
        "rl_seed": rl_seed,
        "before": before,
        "curve": points,
        "peak": {
            "pass_at_1": max(point["pass_at_1"] for point in points),
            "pass_at_10": max(point["pass_at_10"] for point in points),
        },
        "final": final,
        "gain": gain,
        "failed": error is not None or has_failed(before, gain, settings),
        "error": error,
        "reward": log["reward"],
        "frac_reward_zero_std": log["frac_reward_zero_std"],
        "entropy": log["entropy"],
        "seconds": round(seconds, 1),
    }


def has_failed(before: Passes, gain: Passes, settings: StudySettings) -> bool:
    """The rule of ``definition_of_failed`` for a run that came to its end.

    A start without a gap cannot be improved; it failed only by losing pass@10.
    """
    gap = 1.0 - before["pass_at_1"]
    closed_little = gap > 0 and gain["pass_at_1"] < settings.failed_below * gap
    return closed_little or gain["pass_at_10"] < -settings.pass_at_10_noise


def _passes(point: CurvePoint) -> Passes:
    return {"pass_at_1": point["pass_at_1"], "pass_at_10": point["pass_at_10"]}
