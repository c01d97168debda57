"""A tiny prompt set, graders that misbehave, and quick settings for whole assessments."""

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

from mlflow_rlrisk.config import AssessmentConfig, SamplingConfig
from mlflow_rlrisk.report import RiskReport

GRADERS = '''
import os
import time


def digit(prompts, completions, **columns):
    """Right where the completion has a digit: about half of the rollouts of a random model."""
    return [float(any(c.isdigit() for c in text)) for text in completions]


def early_letter(prompts, completions, **columns):
    return [float(text[:1] < "f") for text in completions]


def slow_digit(prompts, completions, **columns):
    with open(__file__ + ".pids", "a") as stream:
        stream.write(f"{os.getpid()}\\n")
    time.sleep(1.2)
    if "9+10" in str(prompts[0]) and os.path.exists(__file__ + ".hold"):
        time.sleep(600)
    return digit(prompts, completions)


def constant(value):
    def give(prompts, completions, **columns):
        return [value] * len(completions)

    return give


zero, one, half = constant(0.0), constant(1.0), constant(0.5)
nan, infinite = constant(float("nan")), constant(float("inf"))
none, text = constant(None), constant("1")


def too_few(prompts, completions, **columns):
    return [1.0]


def scalar(prompts, completions, **columns):
    return 1.0


def crash(prompts, completions, **columns):
    raise RuntimeError("out of\\norder")


def crash_on_letters(prompts, completions, **columns):
    if any(c.isalpha() for text in completions for c in text[:1]):
        raise RuntimeError("a letter")
    return digit(prompts, completions)


def die_on_q(prompts, completions, **columns):
    if any("q" in text for text in completions):
        os._exit(3)
    return digit(prompts, completions)


def hang(prompts, completions, **columns):
    with open(__file__ + ".pids", "a") as stream:
        stream.write(f"{os.getpid()}\\n")
    time.sleep(600)


def plus_minus(prompts, completions, **columns):
    return [2 * reward - 1 for reward in digit(prompts, completions)]


def two_or_zero(prompts, completions, **columns):
    return [2 * reward for reward in digit(prompts, completions)]


def share_of_digits(prompts, completions, **columns):
    return [sum(c.isdigit() for c in text) / max(len(text), 1) for text in completions]
'''


def sums(count: int) -> list[dict[str, Any]]:
    """``count`` prompts such as ``3+4=`` with their truth."""
    return [{"prompt": f"{i}+{i + 1}=", "answer": str(2 * i + 1)} for i in range(count)]


def write_graders(folder: Path) -> Path:
    path = folder / "graders.py"
    path.write_text(GRADERS, encoding="utf-8")
    return path


def quick(**settings: Any) -> AssessmentConfig:
    """8 rollouts of 8 tokens, groups of 4; any setting of either model may be given."""
    names = SamplingConfig.model_fields
    sampling = {name: settings.pop(name) for name in list(settings) if name in names}
    return AssessmentConfig(
        sampling=SamplingConfig(**{"num_samples": 8, "max_new_tokens": 8, **sampling}),
        **{
            "group_size": 4,
            "num_resamples": 200,
            "verifier_workers": 1,
            "verifier_timeout_s": 2.0,
            **settings,
        },
    )


QUICK_OPTIONS = [
    *("--num-samples", "8", "--max-new-tokens", "8", "--group-size", "4"),
    *("--num-resamples", "200", "--verifier-workers", "1", "--verifier-timeout-s", "2"),
]
"""`quick` for the command."""


def start_rlrisk(*arguments: str, cwd: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [str(Path(sys.executable).with_name("rlrisk")), *arguments],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        # What is started in the background of a shell ignores it, and hands that on.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )


def rlrisk(*arguments: str, cwd: Path) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of the command."""
    with start_rlrisk(*arguments, cwd=cwd) as process:
        out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def is_running(pid: int) -> bool:
    """True unless the process ended; one that waits for its parent has ended."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def timeless(report: RiskReport) -> dict[str, Any]:
    """The report without when and by which command it was made."""
    found = report.to_dict()
    for name in ("started_at", "finished_at", "command"):
        del found["provenance"][name]
    return found
