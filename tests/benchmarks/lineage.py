"""What a lineage costs: 100 versions x 10^4 prompts, and six versions beside assessing them.

Comparing is finding scaled copies in the stored rollouts, tracing the lineage, drawing the page;
by command it is a whole ``rlrisk compare`` after an ``rlrisk assess`` of every version.

    python -m tests.benchmarks.lineage [--part beside_assessing,by_command,many] [--rounds 3]
        [--versions 100] [--prompts 10000] [--layers 6 --hidden 256] [--json FILE]

With ``--layers`` the six are of an untrained Llama of that size with the demo's tokenizer, for the
demo's own has 0.3 M parameters, beside which reading a rollout again is not little.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from mlflow_rlrisk.assessment.wiring import Assessment, run_assessment
from mlflow_rlrisk.config import AssessmentConfig, SamplingConfig
from mlflow_rlrisk.demo.make_base import BASE
from mlflow_rlrisk.demo.make_data import HELDOUT
from mlflow_rlrisk.demo.task import MAX_NEW_TOKENS
from mlflow_rlrisk.lineage import LineageMember, trace_lineage
from mlflow_rlrisk.lineage_evidence import member_of, rescalings
from mlflow_rlrisk.sinks.lineage_page import render_lineage
from tests.prompt_statistics import prompts, report_of

VERIFIER = "mlflow_rlrisk.demo.task:reward"


def simulated(num_versions: int, num_prompts: int) -> list[LineageMember]:
    rng = np.random.default_rng(0)
    members = []
    for version in range(num_versions):
        rates = rng.beta(1.0 + version / 20, 2.0, size=num_prompts)
        counted = tuple(prompts(rng.binomial(16, rates), 16, 0.3))
        report = report_of(counted, model=f"models:/m/{version}", num_resamples=200)
        members.append(
            LineageMember(name=f"models:/m/{version}", report=report, statistics=counted)
        )
    return members


def many(num_versions: int, num_prompts: int) -> dict[str, Any]:
    members = simulated(num_versions, num_prompts)
    wall, cpu = time.perf_counter(), time.process_time()
    lineage = trace_lineage(members, base="models:/m/0")
    traced = time.process_time() - cpu
    page = render_lineage(lineage)
    found = {
        "versions": num_versions,
        "prompts": num_prompts,
        "pairs": len(lineage.pairs),
        "trace_cpu_s": round(traced, 1),
        "trace_and_page_cpu_s": round(time.process_time() - cpu, 1),
        "wall_s": round(time.perf_counter() - wall, 1),
        "page_mb": round(len(page) / 1e6, 2),
    }
    print(f"{num_versions} versions x {num_prompts} prompts, 2000 resamples: {found}")
    return found


def larger(folder: Path, layers: int, hidden: int) -> Path:
    """An untrained model of the demo's family with its tokenizer."""
    from transformers import AutoConfig, AutoModelForCausalLM, set_seed

    set_seed(0)
    shutil.copytree(BASE, folder)
    sizes = {"hidden_size": hidden, "intermediate_size": 4 * hidden, "num_hidden_layers": layers}
    heads = {"num_attention_heads": hidden // 32, "num_key_value_heads": hidden // 32}
    config = AutoConfig.from_pretrained(folder, **sizes, **heads, head_dim=32)
    model = AutoModelForCausalLM.from_config(config)
    print(f"{model.num_parameters() / 1e6:.1f} M parameters")
    model.save_pretrained(folder)
    return folder


def versions(root: Path, count: int, base: Path = BASE) -> list[Path]:
    """A base, noisy neighbours of it, and at last its copy with all logits doubled."""
    import torch
    from safetensors.torch import load_file, save_file

    found = []
    for place in range(count):
        model = root / f"model-{place}"
        shutil.copytree(base, model)
        weights = load_file(model / "model.safetensors")
        generator = torch.Generator().manual_seed(place)
        if place == count - 1:
            weights["model.norm.weight"] *= 2.0
        elif place:
            for name in sorted(weights):
                noise = torch.randn(weights[name].shape, generator=generator)
                weights[name] += 0.05 * weights[name].std(correction=0) * noise
        save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
        found.append(model)
    return found


def cpu_s() -> float:
    """Of this process and of the verifier workers that have ended."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def beside_assessing(num_versions: int, rounds: int, layers: int, hidden: int) -> dict[str, Any]:
    """Compare beside assess: with the rollouts at hand, and opening stored assessments first."""
    config = AssessmentConfig(
        sampling=SamplingConfig(num_samples=64, max_new_tokens=MAX_NEW_TOKENS), group_size=8
    )
    rows: list[dict[str, float]] = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            base = larger(Path(folder) / "base", layers, hidden) if layers else BASE
            models = versions(Path(folder), num_versions, base)

            def assess(model: Path, root: Path = Path(folder)) -> Assessment:
                out = root / "out" / model.name
                return run_assessment(model, HELDOUT, verifier=VERIFIER, config=config, out_dir=out)

            started = cpu_s()
            assessments = [assess(model) for model in models]
            sampled = cpu_s()
            compare(assessments)
            compared = cpu_s()
            again = [assess(model) for model in models]
            opened = cpu_s()
            compare(again)
            row = {
                "assess": sampled - started,
                "compare": compared - sampled,
                "open_stored": opened - compared,
                "compare_stored": cpu_s() - compared,
            }
        rows.append({name: round(value, 2) for name, value in row.items()})
        print(f"  {rows[-1]}")
    shares = {
        name: round(statistics.median(row[name] / row["assess"] for row in rows), 4)
        for name in ("compare", "open_stored", "compare_stored")
    }
    print(f"{num_versions} versions, 200 prompts x 64 rollouts; CPU over assessing them: {shares}")
    return {"versions": num_versions, "cpu_s": rows, "over_assessing": shares}


def by_command(num_versions: int, rounds: int) -> dict[str, Any]:
    """``rlrisk assess`` of every version, then ``rlrisk compare``, each in a process of its own."""
    rows = []
    for _ in range(rounds):
        rows.append(_round_by_command(num_versions))
        print(f"  {rows[-1]}")
    shares = [row["compare"] / row["assess"] for row in rows]
    found = {
        "versions": num_versions,
        "cpu_s": rows,
        "over_assessing": round(statistics.median(shares), 4),
    }
    print(f"by command, a process each: {found}")
    return found


def _round_by_command(num_versions: int) -> dict[str, float]:
    script = str(Path(sys.executable).with_name("rlrisk"))
    options = ["--num-samples", "64", "--group-size", "8", "--max-new-tokens", str(MAX_NEW_TOKENS)]
    with tempfile.TemporaryDirectory() as folder:
        models = [str(each) for each in versions(Path(folder), num_versions)]

        def cpu_of(*command: str) -> float:
            started = os.times()
            arguments = [*command, "--prompts", str(HELDOUT), "--verifier", VERIFIER, *options]
            done = subprocess.run(
                [script, *arguments], cwd=folder, capture_output=True, check=False
            )
            assert done.returncode in (0, 10, 11), done.stderr
            ended = os.times()
            return (ended.children_user - started.children_user) + (
                ended.children_system - started.children_system
            )

        assessed = sum(cpu_of("assess", model) for model in models)
        compared = cpu_of("compare", *models, "--base", models[0])
    return {"assess": round(assessed, 2), "compare": round(compared, 2)}


def compare(assessments: Sequence[Assessment]) -> None:
    """What ``rlrisk compare`` does once all versions are assessed."""
    named = {each.report.provenance.model_reference: each for each in assessments}
    members = [member_of(each) for each in assessments]
    copies = rescalings(named)
    assert [Path(each.name).name for each in copies] == [f"model-{len(named) - 1}"], copies
    render_lineage(trace_lineage(members, base=members[0].name, rescalings=copies))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--versions", type=int, default=100)
    parser.add_argument("--prompts", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--part", default="beside_assessing,by_command,many")
    parser.add_argument("--layers", type=int, default=0)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    record = {
        "date": datetime.now(UTC).date().isoformat(),
        "device": f"{platform.machine()}, {os.cpu_count()} cores, no GPU",
        "commit": subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip(),
        "command": " ".join(["python -m tests.benchmarks.lineage", *sys.argv[1:]]),
    }
    parts = {
        "beside_assessing": lambda: beside_assessing(
            6, options.rounds, options.layers, options.hidden
        ),
        "by_command": lambda: by_command(6, options.rounds),
        "many": lambda: many(options.versions, options.prompts),
    }
    asked = ["beside_assessing"] if options.layers else options.part.split(",")
    record |= {name: parts[name]() for name in asked}
    if options.json is not None:
        options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
