"""The first updates of each checkpoint's RL run, tried on its rollouts by the tool, before the run.

It reads the checkpoint, the assessed prompts and the settings; no outcome is looked at. Of the
first eight lineages the runs were known when this was built, of the others not.
"""

import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal, NotRequired

from pydantic import TypeAdapter
from typing_extensions import TypedDict

from examples.study import steps
from examples.study.layout import Checkpoint, sweep_order
from examples.study.models import weights_digest
from examples.study.settings import StudySettings
from examples.study.sweep import prepare_lineage
from examples.study.tasks import TASKS
from mlflow_rlrisk.assess import assess, rescore
from mlflow_rlrisk.config import LookaheadConfig
from mlflow_rlrisk.demo.train import single_thread
from mlflow_rlrisk.errors import StatisticsError
from mlflow_rlrisk.lookahead.stored_rollouts import look_ahead_from
from mlflow_rlrisk.rollouts.evidence import keep_evidence

FILE = "lookahead.jsonl"
STEPS = 8
"""Updates tried, a tenth of a run."""


class LookaheadRow(TypedDict):
    """What the tool said of one checkpoint with the run's first updates tried.

    ``closed`` and ``reach`` are value, lower and upper end; empty where the updates say nothing,
    for the reason in ``undefined``. ``settings`` are those of the run, ``solve_counts`` of the
    rollouts that were used, as a report has them.
    """

    lineage: str
    checkpoint: str
    weights: str
    settings: dict[str, float]
    closed: list[float]
    reach: list[float]
    pass_at_1: list[float]
    effective_share: float | None
    undefined: NotRequired[str]
    risk_level: Literal["low", "medium", "high", "unknown"]
    solve_counts: list[list[int]]


_ROW = TypeAdapter(LookaheadRow)


def of_the_run(lineage: str, settings: StudySettings) -> LookaheadConfig:
    """The lineage's RL run as the tool is told of it."""
    return LookaheadConfig(
        learning_rate=settings.lineage(lineage).rl_learning_rate,
        run_steps=settings.rl_steps,
        prompts_per_step=settings.prompts_per_step,
        steps=min(STEPS, settings.rl_steps),
    )


def look_ahead_of(checkpoint: Checkpoint, settings: StudySettings) -> LookaheadRow:
    """Assess as the study does, try the updates, judge with what came of them."""
    single_thread()
    lineage = settings.lineage(checkpoint.lineage)
    task = TASKS[lineage.task]
    run = of_the_run(checkpoint.lineage, settings)
    folder = Path(checkpoint.lineage) / "scratch" / f"rollouts-{checkpoint.name}"
    shutil.rmtree(folder, ignore_errors=True)
    assess(
        checkpoint.folder,
        str(Path(checkpoint.lineage) / "rl.jsonl"),
        verifier=f"examples.study.tasks.{task.name}:reward",
        config=settings.assessment(task.max_new_tokens),
        out_dir=folder,
    )
    row: LookaheadRow = {
        "lineage": checkpoint.lineage,
        "checkpoint": checkpoint.name,
        "weights": weights_digest(checkpoint.folder),
        "settings": run.model_dump(),
        "closed": [],
        "reach": [],
        "pass_at_1": [],
        "effective_share": None,
        "risk_level": "unknown",
        "solve_counts": [],
    }
    try:
        found = look_ahead_from(folder, run, device="cpu")
    except StatisticsError as error:
        row["undefined"] = str(error)
        keep_evidence(folder, "lookahead_undefined", str(error))
    else:
        row["closed"] = [found.closed.value, found.closed.low, found.closed.high]
        row["reach"] = [found.reach.value, found.reach.low, found.reach.high]
        row["pass_at_1"] = list(found.pass_at_1)
        row["effective_share"] = found.effective_share
    report = rescore(folder)
    shutil.rmtree(folder)
    row["risk_level"] = report.risk_level.value
    row["solve_counts"] = [list(each) for each in report.solve_counts]
    return row


def look_ahead_of_all(
    settings: StudySettings, *, only: str | None, say: Callable[[str], None]
) -> None:
    """Do all that is missing; the working folder is the output folder."""
    for name in [each.name for each in settings.lineages if only in (None, each.name)]:
        prepare_lineage(name, settings, say)
    for each in sweep_order(settings, only):
        row = stored(each, settings)
        if row is None:
            row = look_ahead_of(each, settings)
            steps.write_atomically(_path(each), json.dumps(_ROW.validate_python(row)))
        reach = f"{row['reach'][0]:.2f}" if row["reach"] else f"undefined: {row['undefined']}"
        say(f"{each.lineage} {each.name}: {row['risk_level']}, reach {reach}")


def stored(checkpoint: Checkpoint, settings: StudySettings) -> LookaheadRow | None:
    """The row, unless settings or weights have changed since."""
    path = _path(checkpoint)
    if not path.is_file() or not checkpoint.folder.is_dir():
        return None
    row = _ROW.validate_json(path.read_text(encoding="utf-8"))
    is_same = row["settings"] == of_the_run(checkpoint.lineage, settings).model_dump()
    return row if is_same and row["weights"] == weights_digest(checkpoint.folder) else None


def read_lookaheads(path: Path) -> list[LookaheadRow]:
    """The rows of a file, each checked against the schema."""
    return [_ROW.validate_json(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_lookaheads(path: Path, rows: Iterable[LookaheadRow]) -> None:
    """Write checked rows, one JSON object a line."""
    lines = [json.dumps(_ROW.validate_python(row), allow_nan=False) for row in rows]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def _path(checkpoint: Checkpoint) -> Path:
    return Path(checkpoint.lineage) / "lookahead" / f"{checkpoint.name}.json"
