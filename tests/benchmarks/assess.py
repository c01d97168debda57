"""`assess` as a whole beside its sampling alone.

``python -m tests.benchmarks.assess [--reps 3] [--size 1] [--only NAME] [--json FILE] [--assert]``

Whole assessment and bare ``sample()`` over the same prompts run in turn, on one thread. The clock
is the CPU time of the process and of all it starts, verifier workers included. An assessment is
cut at the stages that an observer sees: what is paid once (files hashed, workers started, model
loaded, time estimated), what is paid by the rollout, and what follows. All of it counts for the
ratio, and what is paid once weighs less the more is sampled (``--size 4``). Imports and the
command's own start are shown apart.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from mlflow_rlrisk.assessment.observer import SilentObserver
from mlflow_rlrisk.commands.output import INTERRUPTED, OK
from tests.tiny_models import CHARACTERS, write_llama

GOAL = 1.15
SLACK = 1.05
"""A shared machine moves ratios by this much; ``--assert`` allows it."""
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One checkpoint and prompt set; ``layers=0`` is the demo's own."""

    name: str
    num_prompts: int
    new_tokens: int
    vocab_size: int = 0
    hidden: int = 0
    layers: int = 0
    prompt_tokens: int = 48
    num_samples: int = 16
    has_goal: bool = True


CASES = [
    Case(name="2k-5M", vocab_size=2048, hidden=256, layers=6, num_prompts=48, new_tokens=64),
    Case(name="32k-17M", vocab_size=32768, hidden=256, layers=4, num_prompts=16, new_tokens=64),
    Case(name="demo", num_prompts=0, new_tokens=20, has_goal=False),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """CPU seconds of this process and all it started, and wall seconds."""

    cpu_s: float
    wall_s: float

    @classmethod
    def now(cls) -> "Clock":
        """Read both clocks."""
        own = resource.getrusage(resource.RUSAGE_SELF)
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu_s = own.ru_utime + own.ru_stime + ended.ru_utime + ended.ru_stime
        return cls(cpu_s=cpu_s + sum(map(_cpu_s, _children())), wall_s=time.perf_counter())

    def __sub__(self, earlier: "Clock") -> "Clock":
        return Clock(cpu_s=self.cpu_s - earlier.cpu_s, wall_s=self.wall_s - earlier.wall_s)


def _children() -> list[str]:
    found: list[str] = []
    for task in Path("/proc/self/task").iterdir():
        found += (task / "children").read_text().split()
    return found


def _cpu_s(pid: str) -> float:
    try:
        text = Path("/proc", pid, "stat").read_text()
    except FileNotFoundError:  # it ended, and is counted with the ended
        return 0.0
    fields = text.rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / _TICKS_PER_S


class StageClock(SilentObserver):
    """Reads the clock where a stage of an assessment begins."""

    def __init__(self) -> None:
        self.marks: dict[str, Clock] = {}

    def stage(self, name: str) -> None:
        """Note the time."""
        self.marks[name] = Clock.now()


@dataclass(frozen=True, slots=True, kw_only=True)
class Contenders:
    """The two sides of a case."""

    sample: Callable[[], int]
    assess: Callable[[], dict[str, Clock]]


def prepare(case: Case, folder: Path) -> Contenders:
    """Write the checkpoint of a case, or take the demo's, and load it for the bare sampling."""
    from mlflow_rlrisk.config import AssessmentConfig, SamplingConfig
    from mlflow_rlrisk.demo.make_base import BASE
    from mlflow_rlrisk.demo.make_data import RL
    from mlflow_rlrisk.demo.tracking import VERIFIER
    from mlflow_rlrisk.prompts import load_prompts
    from mlflow_rlrisk.samplers.transformers import TransformersSampler

    sampling = SamplingConfig(num_samples=case.num_samples, max_new_tokens=case.new_tokens)
    config = AssessmentConfig(sampling=sampling, device="cpu")
    if case.layers:
        model, prompts, verifier = folder / "model", folder / "prompts.jsonl", "numeric"
        write_llama(
            model,
            vocab_size=case.vocab_size,
            hidden=case.hidden,
            layers=case.layers,
            initializer_range=0.02,
        )
        prompts.write_text(_questions(case))
    else:
        model, prompts, verifier = Path(BASE), Path(RL), VERIFIER
    loaded = load_prompts(prompts)
    sampler = TransformersSampler(model, config)

    def sample() -> int:
        groups = sampler.sample(loaded.prompts)
        return sum(len(rollout.token_ids) for group in groups for rollout in group.rollouts)

    return Contenders(
        sample=sample,
        assess=partial(run_assess, model, prompts, verifier=verifier, config=config),
    )


def _questions(case: Case) -> str:
    """Prompts of one length with a number as truth; the answers of random weights are wrong."""
    import random

    rng = random.Random(0)
    rows = [
        {"prompt": "".join(rng.choices(CHARACTERS, k=case.prompt_tokens)), "answer": str(number)}
        for number in range(case.num_prompts)
    ]
    return "".join(json.dumps(row) + "\n" for row in rows)


def run_assess(model: Path, prompts: Path, *, verifier: str, config: Any) -> dict[str, Clock]:
    """Assess into a fresh folder, render the page, log to MLflow. Returns the cost of each part."""
    from mlflow_rlrisk.assessment.wiring import run_assessment
    from mlflow_rlrisk.sinks.html import render
    from mlflow_rlrisk.sinks.mlflow_run import log_report

    clock = StageClock()
    with tempfile.TemporaryDirectory() as out:
        began = Clock.now()
        assessment = run_assessment(
            model, prompts, verifier=verifier, config=config, out_dir=out, observer=clock
        )
        assessed = Clock.now()
        page = render(assessment.report)
        Path(out, "report.html").write_text(page, encoding="utf-8")
        rendered = Clock.now()
        log_report(assessment.report, rollouts=out, page=page)
        logged = Clock.now()
    marks = clock.marks
    return {
        "once": marks["sample"] - began,
        "sample, grade, measure, store": marks["summarize"] - marks["sample"],
        "summarize": assessed - marks["summarize"],
        "assess": assessed - began,
        "assess + report.html": rendered - began,
        "assess + report.html + MLflow": logged - began,
        **{f"  {name}": marks[after] - marks[name] for name, after in _ONCE.items()},
    }


_ONCE = {"open": "preflight", "preflight": "load", "load": "sample"}
"""Stages paid once, each with the stage that ends it; `open` includes the workers' start."""


@contextmanager
def local_mlflow() -> Iterator[None]:
    """A SQLite store of its own; making its tables is not part of an assessment."""
    import mlflow

    with tempfile.TemporaryDirectory() as folder:
        mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
        mlflow.set_experiment("assess")
        yield


def compare(case: Case, reps: int) -> dict[str, Any]:
    """Run both sides in turn."""
    parts: dict[str, list[Clock]] = {}
    num_tokens = 0
    with tempfile.TemporaryDirectory() as name:
        contenders = prepare(case, Path(name))
        for _ in range(reps):
            began = Clock.now()
            num_tokens = contenders.sample()
            found = {"sampling alone": Clock.now() - began, **contenders.assess()}
            for part, cost in found.items():
                parts.setdefault(part, []).append(cost)
    bare = parts["sampling alone"]
    return {
        "case": asdict(case),
        "num_tokens": num_tokens,
        "parts": {
            part: {
                "cpu_s": median(cost.cpu_s for cost in costs),
                "wall_s": median(cost.wall_s for cost in costs),
                "cpu_ratios": [c.cpu_s / b.cpu_s for c, b in zip(costs, bare, strict=True)],
                "wall_ratios": [c.wall_s / b.wall_s for c, b in zip(costs, bare, strict=True)],
            }
            for part, costs in parts.items()
        },
    }


def show(result: dict[str, Any]) -> None:
    """Print one case."""
    case = result["case"]
    wanted = f"goal {GOAL}" if case["has_goal"] else "no goal: what is paid once dominates"
    print(f"\n{case['name']}: {result['num_tokens']} tokens, {wanted}")
    print(f"{'':32}{'CPU s':>8}{'ratio':>8}{'range':>12}{'wall s':>9}{'ratio':>8}")
    for part, row in result["parts"].items():
        ratios = row["cpu_ratios"]
        print(
            f"{part:32}{row['cpu_s']:8.3f}{median(ratios):8.3f}"
            f"{min(ratios):7.2f}-{max(ratios):.2f}"
            f"{row['wall_s']:9.3f}{median(row['wall_ratios']):8.3f}",
            flush=True,
        )


_FIRST_TOKEN = """
import sys
from mlflow_rlrisk import cli, console
def stop(self, num_tokens, num_rollouts):
    raise KeyboardInterrupt
console.ConsoleObserver.sampled = stop
cli.run(sys.argv[1:])
"""


def start_up(reps: int) -> dict[str, dict[str, float]]:
    """Fresh processes: the command's help, its doctor, and `assess` until the first token."""
    from mlflow_rlrisk.demo.make_base import BASE
    from mlflow_rlrisk.demo.make_data import RL
    from mlflow_rlrisk.demo.tracking import VERIFIER

    run = [sys.executable, "-c", "from mlflow_rlrisk.cli import run; run()"]
    with tempfile.TemporaryDirectory() as out:
        assess = ["assess", str(BASE), "--prompts", str(RL), "--verifier", VERIFIER, "--out", out]
        assess += ["--max-new-tokens", "20"]
        commands = {
            "python -c pass": [sys.executable, "-c", "pass"],
            "import torch, transformers": [sys.executable, "-c", _IMPORTS],
            "rlrisk --help": [*run, "--help"],
            "rlrisk doctor": [*run, "doctor"],
            "rlrisk assess, to the first token": [sys.executable, "-c", _FIRST_TOKEN, *assess],
        }
        costs: dict[str, list[Clock]] = {name: [] for name in commands}
        for _ in range(reps):
            for name, command in commands.items():
                began = Clock.now()
                done = subprocess.run(command, capture_output=True, check=False, cwd=out)
                costs[name].append(Clock.now() - began)
                if done.returncode != (INTERRUPTED if command[3:] == assess else OK):
                    raise RuntimeError(f"{name} failed: {done.stderr.decode()}")
    return {
        name: {"cpu_s": median(c.cpu_s for c in each), "wall_s": median(c.wall_s for c in each)}
        for name, each in costs.items()
    }


_IMPORTS = "import torch; from transformers import AutoModelForCausalLM, AutoTokenizer"


def main() -> int:
    """Print a table per case; exit 1 with ``--assert`` where the goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reps", type=int, default=3)
    parser.add_argument("--size", type=float, default=1.0, help="times the prompts of a case")
    parser.add_argument("--only", choices=[*(case.name for case in CASES), "start"])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--assert", action="store_true", dest="check")
    args = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    print(f"1 thread, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {torch.__version__}")
    results = []
    with local_mlflow():
        compare(CASES[-1], 1)  # imports, tables and fonts are loaded before anything counts
        for case in CASES:
            if args.only in (None, case.name):
                sized = replace(case, num_prompts=round(args.size * case.num_prompts))
                results.append(compare(sized, args.reps))
                show(results[-1])
    starts = start_up(max(1, args.reps // 2)) if args.only in (None, "start") else {}
    for name, row in starts.items():
        print(f"{name:40}{row['cpu_s']:8.2f} CPU s{row['wall_s']:9.2f} wall s")
    if args.json:
        args.json.write_text(json.dumps({"cases": results, "start_up": starts}, indent=2) + "\n")
    missed = [
        result["case"]["name"]
        for result in results
        if result["case"]["has_goal"]
        and median(result["parts"]["assess"]["cpu_ratios"]) > SLACK * GOAL
    ]
    return 1 if args.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
