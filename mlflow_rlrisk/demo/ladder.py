"""The SFT depth ladder: one fine-tuning run on the expert set, kept at several depths.

A finished ladder is used again as long as everything it depends on (base, expert set, settings,
library versions) and the weights themselves still have the digests of its record.
"""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from mlflow_rlrisk.content import file_entry, json_digest
from mlflow_rlrisk.demo.make_base import BASE, digests
from mlflow_rlrisk.demo.make_data import EXPERT
from mlflow_rlrisk.demo.tokenizer import load_tokenizer
from mlflow_rlrisk.demo.train import read_examples, shuffled_epochs, single_thread, train_epoch
from mlflow_rlrisk.errors import ConfigError
from mlflow_rlrisk.plurals import counted
from mlflow_rlrisk.rollouts.shards import write_text_atomically

DEPTHS = (1, 5, 25, 125)
"""Epochs over the expert set."""
LEARNING_RATE = 2e-4
BATCH_SIZE = 16
SEED = 0
RECORD = "ladder.json"
_OWN = re.compile(r"epochs-\d{3,}|\.?ladder\.json.*")
"""Names of what a ladder writes."""

Progress = Callable[[int, float], None]
"""Called after every epoch with its number and its mean loss (nats per answer token)."""


class Rung(NamedTuple):
    """One depth of the ladder."""

    epochs: int
    folder: Path
    loss: float

    @property
    def depth(self) -> str:
        """The epochs in words."""
        return counted(self.epochs, "epoch")


def train_ladder(folder: Path, progress: Progress) -> list[Rung]:
    """Train the ladder in ``folder``, or use the one that is there.

    Args:
        folder: Gets one checkpoint folder per depth and the record.
        progress: Not called where nothing has to be trained.

    Returns:
        The rungs, shallowest first.

    Raises:
        ConfigError: The folder holds something that no ladder has: it is somebody else's.
    """
    stored = stored_ladder(folder)
    if stored:
        return stored
    _clear(folder)
    rungs = _train(folder, progress)
    record = {
        "key": _key(),
        "rungs": [
            {"epochs": rung.epochs, "loss": rung.loss, "sha256": digests(rung.folder)}
            for rung in rungs
        ],
    }
    write_text_atomically(folder / RECORD, json.dumps(record, indent=2) + "\n")
    return rungs


def _clear(folder: Path) -> None:
    """Make the folder empty, if nothing but what a broken off or other ladder left is in it."""
    folder.mkdir(parents=True, exist_ok=True)
    foreign = [
        path.name for path in folder.iterdir() if not _OWN.fullmatch(path.name) or path.is_symlink()
    ]
    if foreign:
        raise ConfigError("out", folder, f"needs a folder without {min(foreign)!r}: it is not ours")
    shutil.rmtree(folder)
    folder.mkdir()


def stored_ladder(folder: Path) -> list[Rung]:
    """The ladder in ``folder``; empty where it is incomplete, changed or made of other things."""
    record = read_record(folder / RECORD, _key())
    if record is None:
        return []
    rungs = []
    for entry in record["rungs"]:
        rung = Rung(entry["epochs"], _rung_folder(folder, entry["epochs"]), entry["loss"])
        if not rung.folder.is_dir() or digests(rung.folder) != entry["sha256"]:
            return []
        rungs.append(rung)
    return rungs


def read_record(file: Path, key: str) -> dict[str, Any] | None:
    """What was recorded under ``key``; ``None`` where nothing was, or it is damaged."""
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and record.get("key") == key else None


def _train(folder: Path, progress: Progress) -> list[Rung]:
    import torch
    from transformers import LlamaForCausalLM

    single_thread()
    torch.manual_seed(SEED)
    tokenizer = load_tokenizer(BASE)
    model = LlamaForCausalLM.from_pretrained(BASE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    rungs = []
    epochs = shuffled_epochs(read_examples(EXPERT), max(DEPTHS), SEED)
    for number, examples in enumerate(epochs, start=1):
        loss = train_epoch(model, optimizer, examples, tokenizer, BATCH_SIZE)
        progress(number, loss)
        if number in DEPTHS:
            rung = Rung(number, _rung_folder(folder, number), loss)
            model.save_pretrained(rung.folder)
            tokenizer.save_pretrained(rung.folder)
            rungs.append(rung)
    return rungs


def _rung_folder(folder: Path, epochs: int) -> Path:
    return folder / f"epochs-{epochs:03d}"


def _key() -> str:
    """Digest of everything the ladder depends on."""
    import torch
    import transformers

    parts: dict[str, Any] = {
        "base": digests(BASE),
        "expert": file_entry(EXPERT.name, EXPERT).sha256,
        "depths": DEPTHS,
        "learning_rate": LEARNING_RATE,
        "batch_size": BATCH_SIZE,
        "seed": SEED,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    return json_digest(parts)
