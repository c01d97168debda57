"""``rlrisk judge``: grade one program in the sandbox."""

import math
from pathlib import Path
from typing import Any

import click

from mlflow_rlrisk.commands.options import json_option
from mlflow_rlrisk.commands.output import INCONCLUSIVE, OK, tell
from mlflow_rlrisk.errors import ConfigError, PromptSetError
from mlflow_rlrisk.prompts.sources import parse_json

MAX_SOURCE_BYTES = 8 << 20


@click.command()
@click.argument("program", type=click.Path(exists=True, dir_okay=False))
@click.option("--entry-point", default=None, help="Function to call; none for stdin/stdout cases.")
@click.option(
    "--cases",
    required=True,
    type=click.Path(exists=True, dir_okay=False),
    help='JSON: [{"args", "kwargs", "expected"}], or one of the forms of data sets.',
)
@click.option(
    "--tier", default="auto", show_default=True, help="auto (A, else B), A, B, C or none."
)
@click.option("--timeout-s", type=float, default=5.0, show_default=True, help="Of the program.")
@click.option("--memory-mb", type=int, default=512, show_default=True, help="Of the program.")
@json_option
def judge(
    program: str,
    entry_point: str | None,
    cases: str,
    tier: str,
    timeout_s: float,
    memory_mb: int,
    as_json: bool,
) -> int:
    """Grade PROGRAM, a Python file of unknown origin, against CASES, in a sandbox.

    The cases never enter the sandbox: the program gets arguments and returns plain values, and
    they are compared outside. Exit code: 0 graded (whatever the grade), 11 inconclusive, 1 no
    sandbox.
    """
    from mlflow_rlrisk.verifiers.code import CodeJudge, Limits, read_task

    if not math.isfinite(timeout_s):
        raise ConfigError("timeout_s", timeout_s, "must be finite")
    task = read_task(_read_json(cases), entry_point)
    source = _read_source(program)
    with CodeJudge(tier, limits=Limits(timeout_s=timeout_s, memory_mb=memory_mb), lanes=1) as it:
        judgement = it.grade(source, task)
    shown = f"{judgement.num_passed} of {judgement.num_cases}"
    line = f"{judgement.grade}  tier {judgement.tier}  {shown}  {judgement.detail}"
    tell(judgement.to_dict(), line, as_json=as_json)
    return INCONCLUSIVE if judgement.grade == "inconclusive" else OK


def _read_json(path: str) -> Any:
    try:
        return parse_json(Path(path).read_text(encoding="utf-8-sig"), path)
    except (PromptSetError, UnicodeDecodeError) as error:
        raise ConfigError("cases", path, f"must be a JSON file ({error})") from error


def _read_source(path: str) -> str:
    """The text as it is; what is no UTF-8 becomes a syntax error of the program, not ours."""
    data = Path(path).read_bytes()
    if len(data) > MAX_SOURCE_BYTES:
        raise ConfigError("program", path, f"at most {MAX_SOURCE_BYTES >> 20} MiB are read")
    return data.decode(errors="surrogateescape")
