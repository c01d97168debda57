"""Is the lineage report fooled by a sharpened base or by a flattened, collapsed checkpoint?

Trains narrow (one answer a prompt) and diverse (several) expert sets from the demo's base with two
seeds, adds both controls by scaling logits, assesses all of them and prints what the report says.

    python -m tests.benchmarks.lineage_controls [--out FOLDER] [--json FILE]
"""

import argparse
import json
import os
import platform
import random
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlflow_rlrisk.assessment.wiring import Assessment, run_assessment
from mlflow_rlrisk.config import AssessmentConfig, SamplingConfig
from mlflow_rlrisk.demo.make_base import BASE
from mlflow_rlrisk.demo.make_data import EXPERT, HELDOUT
from mlflow_rlrisk.demo.task import (
    MAX_NEW_TOKENS,
    distances_to,
    render_chain,
    reward,
    steps_from,
)
from mlflow_rlrisk.demo.tokenizer import load_tokenizer
from mlflow_rlrisk.demo.train import (
    Example,
    read_examples,
    shuffled_epochs,
    single_thread,
    train_epoch,
)
from mlflow_rlrisk.lineage import LineageMember, LineageReport, trace_lineage
from mlflow_rlrisk.lineage_evidence import rescalings
from mlflow_rlrisk.sinks.lineage_page import render_lineage

DEPTHS = (5, 25, 125)
SEEDS = (0, 1)
ANSWERS = 6
FLATTENED, SHARPENED = 2.0, 0.4
CONFIG = AssessmentConfig(
    sampling=SamplingConfig(num_samples=64, max_new_tokens=MAX_NEW_TOKENS), group_size=8
)


def diverse_examples(examples: list[Example], seed: int) -> list[Example]:
    """Several different right answers to each prompt: random walks that reach the target."""
    rng = random.Random(seed)
    found = []
    for example in examples:
        words = example.prompt.split()
        answers = {random_chain(int(words[1]), int(words[3]), rng) for _ in range(4 * ANSWERS)}
        found += [Example(example.prompt, answer) for answer in sorted(answers)[:ANSWERS]]
    return found


def random_chain(start: int, target: int, rng: random.Random) -> str:
    """A chain of at most four steps, drawn step by step among those that can still arrive."""
    distances, chain, value, left = distances_to(target), [], start, 4
    while value != target:
        useful = [s for s in steps_from(value) if distances.get(s.result, 99) <= left - 1]
        step = rng.choice(useful)
        chain.append(step)
        value, left = step.result, left - 1
    return render_chain(chain)


def train(folder: Path, name: str, examples: list[Example], seed: int, epochs_scale: float) -> None:
    import torch
    from transformers import LlamaForCausalLM

    single_thread()
    torch.manual_seed(seed)
    tokenizer = load_tokenizer(BASE)
    model: Any = LlamaForCausalLM.from_pretrained(BASE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-4, weight_decay=0.0)
    depths = {max(1, round(depth * epochs_scale)): depth for depth in DEPTHS}
    for number, epoch in enumerate(shuffled_epochs(examples, max(depths), seed), start=1):
        train_epoch(model, optimizer, epoch, tokenizer, 16)
        if number in depths:
            target = folder / f"{name}-{depths[number]}-seed{seed}"
            model.save_pretrained(target)
            tokenizer.save_pretrained(target)


def tempered(source: Path, target: Path, temperature: float) -> None:
    """The same checkpoint with all its logits divided: the final norm's scale goes into them."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(source, target)
    path = target / "model.safetensors"
    weights = load_file(path)
    weights["model.norm.weight"] = weights["model.norm.weight"] / temperature
    save_file(weights, path, metadata={"format": "pt"})


def build(root: Path) -> list[Path]:
    models = root / "models"
    if not models.is_dir():
        narrow = read_examples(EXPERT)
        for seed in SEEDS:
            train(models, "narrow", narrow, seed, 1.0)
            train(models, "diverse", diverse_examples(narrow, seed), seed, 1 / ANSWERS)
        tempered(models / "narrow-125-seed0", models / "flattened-narrow-125", FLATTENED)
        tempered(Path(BASE), models / "sharpened-base", SHARPENED)
    controls = [models / "flattened-narrow-125", models / "sharpened-base"]
    trained = sorted(set(models.iterdir()) - set(controls), key=_place)
    return [*trained, *controls]


def _place(model: Path) -> tuple[str, str, int]:
    kind, depth, seed = model.name.split("-")
    return kind, seed, int(depth)


def series_of(model: Path) -> str | None:
    """Narrow and diverse data with two seeds are four runs of training."""
    parts = model.name.split("-")
    return f"{parts[0]}-{parts[2]}" if parts[-1].startswith("seed") else None


def assess(model: Path, root: Path) -> Assessment:
    return run_assessment(
        model, HELDOUT, verifier=reward, config=CONFIG, out_dir=root / "assessments" / model.name
    )


def trace(root: Path) -> LineageReport:
    base = root / "base"
    if not base.is_dir():
        shutil.copytree(BASE, base)
    found = [base, *build(root)]
    assessments = [assess(model, root) for model in found]
    members = [
        LineageMember(
            name=model.name,
            report=each.report,
            statistics=each.statistics,
            expert=each.expert,
            train=each.train,
            series=series_of(model),
        )
        for model, each in zip(found, assessments, strict=True)
    ]
    named = {model.name: each for model, each in zip(found, assessments, strict=True)}
    return trace_lineage(members, base="base", rescalings=rescalings(named))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("lineage-controls"))
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    lineage = trace(options.out)
    (options.out / "lineage.html").write_text(render_lineage(lineage), encoding="utf-8")
    levels = {entry.model: str(entry.risk_level) for entry in lineage.ranking.entries}
    index = {entry.model: entry.risk_index for entry in lineage.ranking.entries}
    names = list(lineage.measures)
    print(f"{'':24}{'level':>8}{'index':>8}" + "".join(f"{n[7:][:14]:>16}" for n in names))
    for place, name in enumerate(lineage.names):
        metric = index[name]
        cells = "".join(f"{lineage.measures[n][place]:16.3f}" for n in names)
        shown = "—" if metric is None else f"{metric.value:.3f}"
        print(f"{name:24}{levels[name]:>8}{shown:>8}{cells}")
    print(json.dumps(lineage.to_dict()["choice"], indent=2))
    if options.json is not None:
        options.json.write_text(json.dumps(_record(lineage), indent=1) + "\n", encoding="utf-8")


def _record(lineage: LineageReport) -> dict[str, Any]:
    """What the report says, without its 300 pairs, and where it was measured."""
    whole = lineage.to_dict()
    said = ("measures", "ranks", "rescaled", "notes", "choice", "phases", "series")
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "device": f"{platform.machine()}, {os.cpu_count()} cores, no GPU",
        "commit": subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip(),
        "command": "python -m tests.benchmarks.lineage_controls",
        "names": lineage.names,
        "levels": {each.model: str(each.risk_level) for each in lineage.ranking.entries},
        "inversions": [
            {name: pair[name] for name in ("first", "second", "measure", "probability_inverted")}
            for pair in whole["inversions"]
        ],
        **{name: whole[name] for name in said},
    }


if __name__ == "__main__":
    main()
