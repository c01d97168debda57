"""The SFT depth ladder: one fine-tuning run on the expert set, kept at several depths.

A finished ladder is used again as long as everything it depends on (base, expert set, settings,
library versions) and the weights themselves still have the digests of its record.
"""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from mlflow_rlrisk.demo.make_base import BASE, digests
from mlflow_rlrisk.demo.make_data import EXPERT
from mlflow_rlrisk.demo.tokenizer import load_tokenizer
from mlflow_rlrisk.demo.train import read_examples, shuffled_epochs, single_thread, train_epoch

DEPTHS = (1, 5, 25, 125)
"""Epochs over the expert set."""
LEARNING_RATE = 2e-4
BATCH_SIZE = 16
SEED = 0
RECORD = "ladder.json"

Progress = Callable[[int, float], None]
"""Called after every epoch with its number and its mean loss (nats per answer token)."""


class Rung(NamedTuple):
    """One depth of the ladder."""

    epochs: int
    folder: Path
    loss: float


def train_ladder(folder: Path, progress: Progress) -> list[Rung]:
    """Train the ladder in ``folder``, or use the one that is there.

    Args:
        folder: Gets one checkpoint folder per depth and the record.
        progress: Not called where nothing has to be trained.

    Returns:
        The rungs, shallowest first.
    """
    stored = stored_ladder(folder)
    if stored:
        return stored
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    rungs = _train(folder, progress)
    record = {
        "key": _key(),
        "rungs": [
            {"epochs": rung.epochs, "loss": rung.loss, "sha256": digests(rung.folder)}
            for rung in rungs
        ],
    }
    (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return rungs


def stored_ladder(folder: Path) -> list[Rung]:
    """The ladder in ``folder``; empty where it is incomplete, changed or made of other things."""
    record_file = folder / RECORD
    if not record_file.is_file():
        return []
    record = json.loads(record_file.read_text(encoding="utf-8"))
    if record["key"] != _key():
        return []
    rungs = []
    for entry in record["rungs"]:
        rung = Rung(entry["epochs"], _rung_folder(folder, entry["epochs"]), entry["loss"])
        if not rung.folder.is_dir() or digests(rung.folder) != entry["sha256"]:
            return []
        rungs.append(rung)
    return rungs


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
        "expert": hashlib.sha256(EXPERT.read_bytes()).hexdigest(),
        "depths": DEPTHS,
        "learning_rate": LEARNING_RATE,
        "batch_size": BATCH_SIZE,
        "seed": SEED,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
