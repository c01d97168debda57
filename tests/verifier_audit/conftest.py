import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlflow_rlrisk.cli import run

REWARDS = r"""
import re


def strict(completion, answer):
    found = re.search(r"\\boxed\{(.*?)\}", completion)
    return float(found is not None and found[1] == answer)


def everything(completion, answer):
    return 1.0


def nothing(completion, answer):
    return 0.0


def partial(completion, answer):
    return 1.0 if completion.strip() == answer else 0.1


def broken(completion, answer):
    raise ValueError("no")


def fragile(completion, answer):
    return float(int(completion) == int(answer))
"""
ROWS = [{"question": f"{i}+{i}", "answer": str(2 * i)} for i in range(1, 13)]
Audit = Callable[..., tuple[int, dict[str, Any]]]
"""Gives the exit code and what was found."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "rewards.py").write_text(REWARDS)
    write(tmp_path / "p.jsonl", ROWS)
    return tmp_path


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def audit(folder: Path, capsys: pytest.CaptureFixture[str]) -> Audit:
    """Audits on the prompts in the folder, or others."""

    def command(*arguments: str, prompts: str = f"{folder}/p.jsonl") -> tuple[int, dict[str, Any]]:
        with pytest.raises(SystemExit) as stopped:
            run(["audit-verifier", "--prompts", prompts, "--json", *arguments])
        out = json.loads(capsys.readouterr().out)
        return int(stopped.value.code or 0), out

    return command
