"""What is known of a checkpoint before RL: the tool's report and a few simple rivals.

The working folder must be the study's output folder: models and files are named relative to it,
so that a report holds no path of the machine.
"""

import gzip
import importlib.metadata
import json
from pathlib import Path
from typing import Any

from examples.study.models import load
from examples.study.rows import Rivals
from examples.study.sampling import count_correct, sampled_passes
from examples.study.settings import StudySettings
from examples.study.tasks.base import Task
from mlflow_rlrisk.assess import assess
from mlflow_rlrisk.demo.train import single_thread
from mlflow_rlrisk.report_record import RiskReport

VALIDATION_SEED = 555
PACKAGES = ("mlflow-rlrisk", "torch", "transformers", "trl", "numpy")


def assess_checkpoint(
    checkpoint: Path, prompts: Path, expert: Path, task: Task[Any], settings: StudySettings
) -> RiskReport:
    """Assess as the tool does, at the sampling settings of the RL run, with held-out expert data.

    Args:
        checkpoint: Folder of the checkpoint, relative to the working folder.
        prompts: The assessed RL prompts, JSON lines.
        expert: Expert answers that no fine-tuning saw, JSON lines.
        task: Its module's ``reward`` is the verifier.
        settings: The study's.
    """
    single_thread()
    return assess(
        checkpoint,
        str(prompts),
        verifier=f"examples.study.tasks.{task.name}:reward",
        config=settings.assessment(task.max_new_tokens),
        expert_data=str(expert),
    )


def rivals_of(
    checkpoint: Path,
    task: Task[Any],
    settings: StudySettings,
    *,
    assessed_prompts: list[str],
    validation_prompts: list[str],
    report: RiskReport,
) -> Rivals:
    """Predictors that the report does not state."""
    model, tokenizer = load(checkpoint)
    greedy = count_correct(model, tokenizer, task, assessed_prompts, 0)
    validation = sampled_passes(
        model, tokenizer, task, validation_prompts, settings.validation_samples, VALIDATION_SEED
    )
    return {
        "greedy_pass_at_1": sum(greedy) / len(greedy),
        "val_pass_at_1": validation["pass_at_1"],
        "heldout_nll": report.metrics["rlrisk/heldout_nll"].value,
    }


def flat_metrics(report: RiskReport) -> dict[str, float]:
    """Each figure under its full name, its interval as ``_ci_low`` and ``_ci_high``."""
    flat: dict[str, float] = {}
    for name, metric in report.metrics.items():
        flat[name] = metric.value
        flat[f"{name}_ci_low"] = metric.ci_low
        flat[f"{name}_ci_high"] = metric.ci_high
    return flat


def keep_report(report: RiskReport, path: Path) -> None:
    """Write the whole report; equal reports give equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report.to_dict(), sort_keys=True)
    path.write_bytes(gzip.compress(text.encode(), mtime=0))


def versions() -> dict[str, str]:
    """Versions of what the figures depend on."""
    found: dict[str, Any] = {name: importlib.metadata.version(name) for name in PACKAGES}
    return found
