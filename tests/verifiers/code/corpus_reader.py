"""The corpus of programs: `corpus/*.txt`, each program below the sentence that says what it does.

Every program is to square a number. A hostile one returns the right square only where its attack
succeeded, so that it must never pass.
"""

from collections.abc import Iterator
from pathlib import Path

from mlflow_rlrisk.verifiers.code import CodeTask, read_task

FOLDER = Path(__file__).parent / "corpus"
HOSTILE_FILES = ("forged", "protocol", "resource", "escape")
TASK: CodeTask = read_task(
    [{"args": [n], "expected": n * n} for n in (3, 5, 12)], entry_point="solve"
)


def programs(name: str) -> dict[str, str]:
    """Sentence -> source of one file."""
    found: dict[str, str] = {}
    for block in (FOLDER / f"{name}.txt").read_text(encoding="utf-8").split("=== ")[1:]:
        sentence, _, source = block.partition("\n")
        assert sentence not in found
        found[sentence] = source
    return found


def hostile() -> Iterator[tuple[str, str]]:
    """All hostile programs."""
    for name in HOSTILE_FILES:
        yield from programs(name).items()
