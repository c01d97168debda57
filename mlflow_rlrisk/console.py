"""What the command says while it works: the plan, and progress bars.

All of it goes to standard error; standard output is for results alone, so that ``--json`` prints
one JSON object and nothing else.
"""

import os
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_rlrisk.assessment.observer import Plan
from mlflow_rlrisk.plurals import counted
from mlflow_rlrisk.records import PromptStatistics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def say(text: str = "") -> None:
    """Print a line for people."""
    print(text, file=sys.stderr, flush=True)


def _bar_interval() -> float:
    """Seconds between two states of a bar: each is a line of its own in a log file."""
    return 0.2 if sys.stderr.isatty() else 10.0


@contextmanager
def progress(what: str, *, is_shown: bool = True) -> "Iterator[Callable[[int, int], None]]":
    """A progress bar that is told of work done and work in all."""
    from tqdm import tqdm

    bar = tqdm(
        unit="pass",
        desc=what,
        file=sys.stderr,
        mininterval=_bar_interval(),
        disable=not is_shown,
    )
    with bar:

        def move(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield move


def command_beside(name: str) -> str:
    """The command beside this interpreter, relative to here where that is shorter."""
    path = Path(sys.executable).parent / name
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


class ConsoleObserver:
    """Prints the plan, then a progress bar with tokens/s and the running pass@1."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._tokens = 0
        self._correct = 0
        self._scored = 0
        self._started = 0.0

    def stage(self, name: str) -> None:
        """Close the bar when sampling is over; say where nothing is to be done."""
        if name == "recall":
            say("finished    before, with the same bytes and settings: nothing is started")
        if name != "sample" and self._bar is not None:
            self._bar.close()
            self._bar = None

    def planned(self, plan: Plan) -> None:
        """Say what was understood, and open the bar where there is something to sample."""
        from tqdm import tqdm

        for line in plan_lines(plan):
            say(line)
        if plan.num_prompts == plan.num_stored:
            return
        self._started = time.monotonic()
        self._bar = tqdm(
            total=(plan.num_prompts - plan.num_stored) * plan.num_samples,
            unit="rollout",
            desc="sampling",
            file=sys.stderr,
            mininterval=_bar_interval(),
            dynamic_ncols=True,
        )

    def sampled(self, num_tokens: int, num_rollouts: int) -> None:
        """Move the bar."""
        self._tokens += num_tokens
        if self._bar is not None:
            self._bar.update(num_rollouts)
            self._bar.set_postfix_str(self._postfix(), refresh=False)

    def graded(self, statistics: PromptStatistics) -> None:
        """Move the running pass@1."""
        if statistics.num_correct is not None:
            self._scored += statistics.num_scored
            self._correct += statistics.num_correct

    def close(self) -> None:
        """Leave the terminal in order, also after an interruption."""
        self.stage("closed")

    def _postfix(self) -> str:
        speed = self._tokens / max(time.monotonic() - self._started, 1e-9)
        running = f", pass@1 {self._correct / self._scored:.3f}" if self._scored else ""
        return f"{speed:,.0f} tokens/s{running}"


def plan_lines(plan: Plan) -> list[str]:
    """The plan as lines of text."""
    sample = plan.num_prompts - plan.num_stored
    is_digest = len(plan.checkpoint) == 64  # an endpoint has a sentence in its place
    content = plan.checkpoint[:12] if is_digest else plan.checkpoint
    work = f"{counted(sample, 'prompt')} x {counted(plan.num_samples, 'rollout')}"
    lines = [
        f"model       {plan.model}  (content {content})",
        f"prompts     {plan.prompts}",
        f"verifier    {plan.verifier}; {plan.preflight}",
        f"template    {plan.template}",
        f"sampler     {plan.backend}",
        f"to replay   {work}"
        if plan.backend == "replay"
        else f"to sample   {work}, at most {counted(plan.max_tokens, 'token', spec=',')}",
    ]
    if plan.budget:
        lines.append(f"budget      {plan.budget}")
    if plan.num_stored:
        lines.append(
            f"resuming    {counted(plan.num_stored, 'prompt is', 'prompts are')} stored already"
        )
    if plan.estimated_s is not None:
        lines.append(f"estimate    at most about {duration(plan.estimated_s)}")
    return lines


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
