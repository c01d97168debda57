"""The demo from beginning to end: train a ladder, register it, assess it, compare, say why.

Everything is written below one folder. A second run uses what the first one finished.
"""

import os
import shlex
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mlflow_rlrisk.console import command_beside, duration, say
from mlflow_rlrisk.demo.ladder import BATCH_SIZE, DEPTHS, Rung, stored_ladder, train_ladder
from mlflow_rlrisk.demo.make_base import BASE
from mlflow_rlrisk.demo.make_data import EXPERT, NUM_EXPERT, RL
from mlflow_rlrisk.demo.story import Assessed, comparison_lines, safest, story, verdict_lines
from mlflow_rlrisk.demo.tracking import (
    CONFIG,
    MODEL_NAME,
    VERIFIER,
    assess_version,
    open_store,
    register_rungs,
    report_file,
)
from mlflow_rlrisk.demo.train import read_examples, seconds_per_step
from mlflow_rlrisk.errors import MissingDependencyError

REPORTS = "reports"
_TRAINS = f"Fine-tuning the base {BASE.name!r} on {EXPERT.name}"
STEPS_PER_ASSESSMENT = 450
"""An assessment takes about as long as this many training steps, as measured on two CPU cores."""
STEPS_PER_RL_RUN = 4200
"""Likewise for GRPO of one rung with its evaluation before and after."""


def main(out: Path, *, with_rl: bool = False) -> dict[str, Any]:
    """Run the demo and print what it finds; also as JSON.

    Args:
        out: Folder for checkpoints, MLflow store and reports.
        with_rl: Go on with GRPO of the shallowest and the deepest rung.

    Raises:
        MissingDependencyError: torch, transformers or (for RL) TRL are not installed.
    """
    _require(with_rl=with_rl)
    _quiet()
    started = time.monotonic()
    _announce(out, with_rl=with_rl)
    say(f"\n[1/3] {_TRAINS}")
    rungs = _train(out / "ladder")
    uri = open_store(out)
    say(f"\n[2/3] Registering {len(rungs)} versions of {MODEL_NAME!r} in {uri}")
    versions = register_rungs(rungs)
    say(f"\n[3/3] Assessing each version with the MLflow evaluator plugin ({_protocol()})")
    ladder = []
    for number, version in enumerate(versions, start=1):
        say(f"\n      version {number} of {len(versions)}: {version.rung.depth}")
        ladder.append(Assessed(version, assess_version(version, out / REPORTS)))
    _conclude(ladder, uri, out)
    found = {**story(ladder), "rl": None, "tracking_uri": uri, "folder": str(out)}
    if with_rl:
        from mlflow_rlrisk.demo.rl_story import compare_by_rl

        found["rl"] = compare_by_rl(ladder, out / "rl")
    say(f"\nDone in {duration(time.monotonic() - started)}.")
    return found


def serve(
    out: Path, *, port: int, mlflow_port: int, announce: Callable[[dict[str, Any]], None]
) -> int:
    """Train the ladder and serve it until Ctrl-C; returns the exit code.

    Args:
        out: Folder for checkpoints, and for all that the servers keep.
        port: Of the scoring service.
        mlflow_port: Of MLflow.
        announce: Told, once both answer, where and with which token.

    Raises:
        MissingDependencyError: torch, transformers or the service's own are not installed.
        ConfigError: A server does not start.
    """
    from importlib.util import find_spec

    from mlflow_rlrisk.demo.serving import Place, serve_ladder

    _require(with_rl=False)
    if find_spec("dbos") is None:
        raise MissingDependencyError("the scoring service", "service")
    _quiet()
    say(_TRAINS)
    place = Place(out / "service", mlflow_port, port)
    return serve_ladder(_train(out / "ladder"), place, announce)


def _require(*, with_rl: bool) -> None:
    from importlib.util import find_spec

    for module in ("torch", "transformers"):
        if find_spec(module) is None:
            raise MissingDependencyError("the demo", "hf")
    if with_rl and find_spec("trl") is None:
        raise MissingDependencyError("the RL part of the demo", "trl")


def _quiet() -> None:
    """Leave the terminal to the demo: no bars and notes of libraries underneath it."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from transformers.utils import logging as transformers_logging

    logging: Any = transformers_logging
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning)


def _announce(out: Path, *, with_rl: bool) -> None:
    say(
        "Task: walk from one number to another in at most four arithmetic steps, for example\n"
        f"    {_example()}\n"
        "Most prompts have more than a hundred right answers. A base model that knows many ways\n"
        f"is fine-tuned on one answer each for {NUM_EXPERT} prompts, and kept after "
        f"{_listing(DEPTHS)} epochs.\n"
    )
    is_trained = bool(stored_ladder(out / "ladder"))
    steps = 0 if is_trained else max(DEPTHS) * NUM_EXPERT // BATCH_SIZE
    steps += STEPS_PER_ASSESSMENT * sum(not _report(out, depth).is_file() for depth in DEPTHS)
    if with_rl:
        steps += 2 * STEPS_PER_RL_RUN
    seconds = steps * seconds_per_step(BASE, EXPERT, BATCH_SIZE)
    say(f"This takes about {duration(seconds)} on this machine. Results go to {out}/")


def _train(folder: Path) -> list[Rung]:
    from tqdm import tqdm

    seldom = 0.5 if sys.stderr.isatty() else 10.0
    with tqdm(total=max(DEPTHS), unit="epoch", file=sys.stderr, mininterval=seldom) as bar:

        def progress(epoch: int, loss: float) -> None:
            bar.update()
            bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)

        stored = stored_ladder(folder)
        rungs = stored or train_ladder(folder, progress)
        if stored:
            bar.update(max(DEPTHS))
            bar.set_postfix_str("found, nothing to train")
    return rungs


def _conclude(ladder: Sequence[Assessed], uri: str, out: Path) -> None:
    print()
    print("\n".join(comparison_lines(ladder)))
    print()
    print("\n".join(verdict_lines(ladder)))
    chosen = safest(ladder).version
    store = shlex.quote(uri)
    print(
        "\nLook at it:\n"
        f"    {command_beside('mlflow')} ui --backend-store-uri {store}\n"
        f"        then http://127.0.0.1:5000 -> experiment or Models -> {MODEL_NAME};\n"
        "        every assess-* run holds the page rlrisk/report.html among its artifacts\n"
        f"    {_pages(out)}\n"
        "Assess one by hand:\n"
        f"    MLFLOW_TRACKING_URI={store} {command_beside('rlrisk')} assess {chosen.uri} \\\n"
        f"        --prompts {shlex.quote(str(RL))} --verifier {VERIFIER} --max-new-tokens "
        f"{CONFIG.sampling.max_new_tokens}"
    )


def _report(out: Path, depth: int) -> Path:
    return report_file(out / REPORTS, depth)


def _pages(out: Path) -> str:
    pages = sorted((out / "mlartifacts").rglob("report.html"))
    return "or open the page itself, such as " + str(pages[-1]) if pages else "(no page found)"


def _protocol() -> str:
    sampling = CONFIG.sampling
    prompts = read_examples(RL)
    return (
        f"{len(prompts)} prompts x {sampling.num_samples} rollouts, "
        f"temperature {sampling.temperature:g}, groups of {CONFIG.group_size}"
    )


def _example() -> str:
    first = read_examples(RL)[0]
    return f"{first.prompt}  {first.answer}"


def _listing(values: Sequence[Any]) -> str:
    *rest, last = map(str, values)
    return f"{', '.join(rest)} and {last}"
