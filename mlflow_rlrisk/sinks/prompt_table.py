"""One row per prompt for MLflow's table view, read back from the stored rollouts."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlflow_rlrisk.assessment.budget import sampling_order
from mlflow_rlrisk.errors import SinkError
from mlflow_rlrisk.measure import measure
from mlflow_rlrisk.records import GradedGroup, Prompt
from mlflow_rlrisk.rollouts.store import RolloutStore
from mlflow_rlrisk.sinks.wording import shown
from mlflow_rlrisk.statistics.groups import group_signal_from_values

if TYPE_CHECKING:
    import pandas as pd

    from mlflow_rlrisk.report import RiskReport

MAX_ROWS = 1000
"""MLflow's table view loads the whole file into the browser."""
MAX_CELL = 500


def prompt_table(report: "RiskReport", folder: Path, max_rows: int = MAX_ROWS) -> "pd.DataFrame":
    """Read the rollouts of an assessment as one row per prompt, ordered by prompt id.

    Args:
        report: The report made from these rollouts.
        folder: Folder of the assessment, with ``rollouts`` and ``grades``.
        max_rows: Prompts with the smallest ids that are shown; ``attrs["num_prompts"]`` of the
            result says how many there are.

    Raises:
        SinkError: The folder holds no graded rollouts.
    """
    import pandas as pd

    prompts, num_samples = _prompts(folder), None
    if report.budget is not None:  # the folder may hold more, of a fixed budget
        last = report.budget.last
        order = sampling_order(prompts, report.config.sampling.seed)
        prompts, num_samples = order[: last.num_prompts], last.num_samples
    kept = sorted(prompts, key=lambda prompt: prompt.id)[:max_rows]
    rows = [_row(group, report) for group in RolloutStore(folder).graded_groups(kept, num_samples)]
    if not rows:
        raise SinkError(f"{folder}: no graded rollouts; the folder of an assessment is needed")
    frame = pd.DataFrame(rows).sort_values("prompt_id", ignore_index=True)
    frame.attrs["num_prompts"] = len(prompts)
    return frame


def refuse_other_rollouts(report: "RiskReport", folder: Path) -> None:
    """Refuse rollouts and grades that the report was not made from.

    Raises:
        SinkError: The folder is of another assessment, or its grades are of another verifier.
    """
    made_from, store = report.provenance.digests, RolloutStore(folder)
    for kind, known in (("rollouts", store.identity), ("grades", store.grades_identity)):
        for name in sorted(known.keys() & made_from.keys()):
            if known[name] != made_from[name]:
                raise SinkError(
                    f"{folder}: its {kind} are of another {name} ({known[name][:12]}) than the "
                    f"report's ({made_from[name][:12]}); without rollouts it can be logged"
                )


def _prompts(folder: Path) -> list[Prompt]:
    import pyarrow.parquet as pq

    texts: dict[str, str] = {}
    for shard in sorted((folder / "rollouts").glob("*.parquet")):
        table = pq.read_table(shard, columns=["prompt_id", "prompt"])
        texts.update(zip(*(table[name].to_pylist() for name in table.column_names), strict=True))
    return [Prompt(id=name, content=text) for name, text in texts.items()]


def _row(group: GradedGroup, report: "RiskReport") -> dict[str, Any]:
    counted = measure(group, report.config.success_threshold)
    rewards = counted.rewards
    return {
        "prompt_id": counted.prompt_id,
        "prompt": shown(group.prompt.text, MAX_CELL),
        "num_samples": counted.num_samples,
        "num_scored": counted.num_scored,
        "num_correct": counted.num_correct,
        "mean_reward": float(np.mean(rewards)) if rewards else None,
        "group_signal": _signal(rewards, report.config.group_size),
        "token_entropy": counted.sequence_entropy,
        "distinct_texts": len(counted.text_counts),
        "num_tokens": counted.num_tokens,
        "num_truncated": counted.num_truncated,
        "num_failed": counted.num_failed,
        "first_completion": shown(group.rollouts[0].completion, MAX_CELL),
        "first_reward": group.grades[0].reward,
    }


def _signal(rewards: tuple[float, ...], group_size: int) -> float | None:
    """Of the rewards as they are, as the report's: what is correct or not has no say."""
    if len(rewards) < group_size:
        return None
    return float(group_signal_from_values([rewards], group_size)[0])
