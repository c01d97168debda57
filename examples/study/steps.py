"""A step's result is used again as long as what it was made from has the digest it had then."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any


def digest_of(*parts: Any) -> str:
    """SHA-256 of JSON values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def sources_digest() -> str:
    """SHA-256 of the sources that outcomes depend on."""
    folder = Path(__file__).parent
    names = ("assessing", "grpo", "layout", "models", "prompts", "sampling", "sft", "tasks/*")
    paths = sorted(path for name in names for path in folder.glob(f"{name}.py"))
    return digest_of([hashlib.sha256(path.read_bytes()).hexdigest() for path in paths])


def write_atomically(path: Path, text: str) -> None:
    """All of the text or none of it, whenever the process ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def is_done(folder: Path, key: str) -> bool:
    """Whether the step in ``folder`` was finished from the same inputs."""
    record = folder / "step.json"
    return record.is_file() and json.loads(record.read_text(encoding="utf-8"))["key"] == key


def mark_done(folder: Path, key: str, **facts: Any) -> None:
    """Say so, with facts about how it went."""
    write_atomically(folder / "step.json", json.dumps({"key": key, **facts}))
