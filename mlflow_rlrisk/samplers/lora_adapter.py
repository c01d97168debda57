"""A LoRA adapter beside a checkpoint: found, screened and hashed, as the checkpoint itself is."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow_rlrisk.checkpoint.files import hash_files
from mlflow_rlrisk.checkpoint.safetensors_header import read_header
from mlflow_rlrisk.errors import CheckpointError, MissingDependencyError

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraAdapter:
    """A local, screened adapter folder.

    Attributes:
        path: The folder.
        digest: SHA-256 over its configuration and weights.
        rank: Its largest rank.
    """

    path: Path
    digest: str
    rank: int


def open_adapter(folder: str | Path) -> LoraAdapter:
    """Screen and hash a PEFT adapter.

    Raises:
        CheckpointError: Files are missing or damaged, weights are pickled, or it is no LoRA.
    """
    path = Path(folder).resolve()
    for name in (CONFIG, WEIGHTS):
        if not (path / name).is_file():
            raise CheckpointError(f"LoRA adapter {folder}: it has no {name}")
    damage = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)
    try:
        config: Any = json.loads((path / CONFIG).read_text(encoding="utf-8"))
        kind, rank = config["peft_type"], int(config["r"])
        ranks = [rank, *(int(r) for r in (config.get("rank_pattern") or {}).values())]
    except damage as error:
        raise CheckpointError(f"LoRA adapter {folder}: {CONFIG} is damaged: {error}") from error
    if kind != "LORA":
        raise CheckpointError(f"LoRA adapter {folder}: its peft_type is {kind!r}, not LORA")
    read_header(path / WEIGHTS)
    digest = hash_files([(name, path / name) for name in (CONFIG, WEIGHTS)])
    return LoraAdapter(path=path, digest=digest, rank=max(ranks))


def with_adapter(model: Any, adapter: LoraAdapter) -> Any:
    """A transformers model with the adapter merged into its weights.

    Raises:
        CheckpointError: The adapter does not fit the model.
        MissingDependencyError: PEFT is not installed.
    """
    try:
        from peft import PeftModel
    except ImportError as error:
        raise MissingDependencyError("checking a LoRA adapter", "vllm") from error
    try:
        return PeftModel.from_pretrained(model, str(adapter.path)).merge_and_unload()
    except (ValueError, RuntimeError, KeyError, TypeError) as error:
        raise CheckpointError(f"LoRA adapter {adapter.path}: does not fit: {error}") from error
