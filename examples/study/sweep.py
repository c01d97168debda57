"""The sweep: bases, ladders and traps, then assessment and GRPO of one checkpoint after another.

Every finished run is written at once, so that a sweep can be stopped anywhere and goes on where
it was. The working folder is the output folder throughout.
"""

import json
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from examples.study import steps
from examples.study.assessing import (
    assess_checkpoint,
    flat_metrics,
    keep_report,
    rivals_of,
    versions,
)
from examples.study.grpo import train_grpo
from examples.study.layout import Checkpoint, base_of, checkpoints_of, rl_seeds_of, sweep_order
from examples.study.models import divide_logits, weights_digest
from examples.study.prompts import (
    PromptSets,
    diverse_examples,
    draw_sets,
    narrow_examples,
    sets_digest,
    write_prompts,
)
from examples.study.rows import PairRow, row_from_json, row_to_json
from examples.study.settings import StudySettings
from examples.study.sft import train_base, train_ladder
from examples.study.tasks import TASKS
from examples.study.tasks.base import Task

Say = Callable[[str], None]


@cache
def _sets(task: Task[Any], settings: StudySettings) -> PromptSets:
    return draw_sets(task, settings)


def prepare_lineage(name: str, settings: StudySettings, say: Say) -> None:
    """Make the prompt files, the base, the ladders and the traps of a lineage."""
    lineage = settings.lineage(name)
    task = TASKS[lineage.task]
    sets = _sets(task, settings)
    folder = Path(name)
    folder.mkdir(parents=True, exist_ok=True)
    write_prompts(folder / "rl.jsonl", narrow_examples(task, sets.rl[: settings.num_assessed]))
    write_prompts(folder / "validation.jsonl", narrow_examples(task, sets.validation))
    base = base_of(name).folder
    key = steps.digest_of("base", settings.base_digest(name), sets_digest(task, sets))
    if not steps.is_done(base, key):
        started = time.process_time()
        losses = train_base(lineage, settings, base)
        say(f"{name}: base, loss {losses[0]:.2f} -> {losses[-1]:.2f}")
        steps.mark_done(base, key, seconds=time.process_time() - started)
    ladders: dict[tuple[str, int], list[Checkpoint]] = {}
    for each in checkpoints_of(name, settings):
        if each.kind in ("ladder", "diverse", "smoothed"):
            ladders.setdefault((each.kind, each.sft_seed), []).append(each)
    for (kind, seed), rungs in ladders.items():
        _train_rungs(name, kind, seed, rungs, settings, say)
    for each in checkpoints_of(name, settings):
        if each.trap is not None:
            _make_trap(each, settings)


def _train_rungs(
    name: str, kind: str, seed: int, rungs: list[Checkpoint], settings: StudySettings, say: Say
) -> None:
    lineage = settings.lineage(name)
    task = TASKS[lineage.task]
    expert = _sets(task, settings).expert
    base = base_of(name).folder
    key = steps.digest_of(
        "ladder", kind, seed, [r.depth for r in rungs], settings.digest(), weights_digest(base)
    )
    if all(steps.is_done(rung.folder, key) for rung in rungs):
        return
    started = time.process_time()
    examples = (
        diverse_examples(task, expert, seed, settings.diverse_answers)
        if kind == "diverse"
        else narrow_examples(task, expert)
    )
    steps_an_epoch = len(expert) // settings.sft_batch
    train_ladder(
        base,
        examples,
        {rung.depth * steps_an_epoch: rung.folder for rung in rungs},
        settings=settings,
        learning_rate=lineage.sft_learning_rate,
        seed=seed,
        label_smoothing=settings.label_smoothing if kind == "smoothed" else 0.0,
    )
    seconds = time.process_time() - started
    for rung in rungs:
        steps.mark_done(rung.folder, key, seconds=seconds / len(rungs))
    say(f"{name}: {kind} ladder, seed {seed}, {seconds:.0f} CPU s")


def _make_trap(trap: Checkpoint, settings: StudySettings) -> None:
    source = Path(trap.lineage) / "checkpoints" / str(trap.parent)
    flattens = trap.trap == "flattened"
    temperature = settings.flattened_temperature if flattens else settings.sharpened_temperature
    key = steps.digest_of("trap", temperature, weights_digest(source))
    if not steps.is_done(trap.folder, key):
        divide_logits(source, trap.folder, temperature)
        steps.mark_done(trap.folder, key)


def run_pair(checkpoint: Checkpoint, settings: StudySettings, rl_seeds: tuple[int, ...]) -> str:
    """Assess a checkpoint, run GRPO with each seed that is still missing; returns a line on it."""
    row = stored_row(checkpoint, settings) or _assessed_row(checkpoint, settings)
    lineage = settings.lineage(checkpoint.lineage)
    task = TASKS[lineage.task]
    sets = _sets(task, settings)
    for seed in rl_seeds:
        if seed in {outcome["rl_seed"] for outcome in row["outcomes"]}:
            continue
        outcome = train_grpo(
            checkpoint.folder,
            lineage,
            settings,
            rl_prompts=[task.prompt(pair) for pair in sets.rl],
            heldout_prompts=[task.prompt(pair) for pair in sets.heldout],
            rl_seed=seed,
            scratch=Path(checkpoint.lineage) / "scratch",
        )
        row["outcomes"].append(outcome)
        steps.write_atomically(checkpoint.row, row_to_json(row))
    return _line(row)


def stored_row(checkpoint: Checkpoint, settings: StudySettings) -> PairRow | None:
    """The row so far, unless settings or weights have changed since."""
    if not checkpoint.row.is_file() or not checkpoint.folder.is_dir():
        return None
    row = row_from_json(checkpoint.row.read_text(encoding="utf-8"))
    same_settings = row["digests"]["settings"] == settings.digest()
    same_weights = row["digests"]["weights"] == weights_digest(checkpoint.folder)
    return row if same_settings and same_weights else None


def _assessed_row(checkpoint: Checkpoint, settings: StudySettings) -> PairRow:
    """Everything that is known before RL."""
    lineage = settings.lineage(checkpoint.lineage)
    task, folder = TASKS[lineage.task], Path(checkpoint.lineage)
    sets = _sets(task, settings)
    report = assess_checkpoint(
        checkpoint.folder, folder / "rl.jsonl", folder / "validation.jsonl", task, settings
    )
    keep_report(report, checkpoint.report)
    rivals = rivals_of(
        checkpoint.folder,
        task,
        settings,
        assessed_prompts=[task.prompt(pair) for pair in sets.rl[: settings.num_assessed]],
        validation_prompts=[task.prompt(pair) for pair in sets.validation],
        report=report,
    )
    return {
        "lineage": checkpoint.lineage,
        "task": lineage.task,
        "architecture": lineage.architecture,
        "checkpoint": checkpoint.name,
        "kind": checkpoint.kind,
        "data": checkpoint.data,
        "depth": checkpoint.depth,
        "sft_seed": checkpoint.sft_seed,
        "parent": checkpoint.parent,
        "trap": checkpoint.trap,
        "metrics": flat_metrics(report),
        "risk_level": report.risk_level.value,
        "reasons": list(report.reasons),
        "rivals": rivals,
        "report": str(checkpoint.report),
        "outcomes": [],
        "digests": {
            "weights": weights_digest(checkpoint.folder),
            "settings": settings.digest(),
            "prompts": sets_digest(task, sets),
            "code": steps.sources_digest(),
        },
        "versions": versions(),
    }


def _line(row: PairRow) -> str:
    runs = ", ".join(
        f"{run['before']['pass_at_1']:.3f}->{run['final']['pass_at_1']:.3f}"
        f" ({'failed' if run['failed'] else 'good'}, {run['seconds']:.0f} s)"
        for run in row["outcomes"]
    )
    return f"{row['lineage']} {row['checkpoint']}: {row['risk_level']}; pass@1 {runs}"


def missing_work(
    settings: StudySettings, only: str | None
) -> list[tuple[Checkpoint, tuple[int, ...]]]:
    """What is still to be run: every checkpoint with the first seed, then the later seeds."""
    work: list[tuple[Checkpoint, tuple[int, ...]]] = []
    for each in sweep_order(settings, only):
        if settings.rl_seeds[0] not in _seeds_done(each, settings):
            work.append((each, settings.rl_seeds[:1]))
    for each in sweep_order(settings, only):
        later = set(rl_seeds_of(each, settings)[1:]) - _seeds_done(each, settings)
        if later:
            work.append((each, tuple(sorted(later))))
    return work


def _seeds_done(checkpoint: Checkpoint, settings: StudySettings) -> set[int]:
    row = stored_row(checkpoint, settings)
    return set() if row is None else {outcome["rl_seed"] for outcome in row["outcomes"]}


def run_sweep(settings: StudySettings, *, only: str | None, workers: int, say: Say) -> None:
    """Do all that is missing; the working folder is the output folder."""
    names = [each.name for each in settings.lineages if only in (None, each.name)]
    if workers == 1:
        for name in names:
            prepare_lineage(name, settings, say)
        work = missing_work(settings, only)
        say(_estimate(len(work), workers))
        for number, (checkpoint, seeds) in enumerate(work, start=1):
            say(f"[{number}/{len(work)}] {run_pair(checkpoint, settings, seeds)}")
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for ready in [pool.submit(prepare_lineage, name, settings, _quiet) for name in names]:
            ready.result()
        work = missing_work(settings, only)
        say(_estimate(len(work), workers))
        runs = [pool.submit(run_pair, each, settings, seeds) for each, seeds in work]
        for number, done in enumerate(as_completed(runs), start=1):
            say(f"[{number}/{len(work)}] {done.result()}")


def _quiet(_: str) -> None:
    """Workers do not print."""


SECONDS_A_RUN = 28.0
"""CPU seconds of an assessment with its run, as measured on one core."""


def _estimate(num_runs: int, workers: int) -> str:
    minutes = num_runs * SECONDS_A_RUN / workers / 60
    return f"{num_runs} runs are missing: about {minutes:.0f} minutes on {workers} free core(s)"


def collected_rows(settings: StudySettings) -> list[PairRow]:
    """The finished pairs, in the order of the sweep."""
    rows = (stored_row(each, settings) for each in sweep_order(settings))
    return [row for row in rows if row is not None and row["outcomes"]]


def settings_json(settings: StudySettings) -> str:
    """``SETTINGS.json``: the settings with their digest."""
    record = {"digest": settings.digest(), "settings": settings.model_dump(mode="json")}
    return json.dumps(record, indent=1) + "\n"
