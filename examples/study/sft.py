"""Supervised fine-tuning: the base of a lineage and the ladders that start from it."""

import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from examples.study.models import build_tokenizer, load, new_model, save
from examples.study.prompts import draw_sets
from examples.study.settings import LineageSettings, StudySettings
from examples.study.tasks import TASKS
from mlflow_rlrisk.demo.train import IGNORED, Batch, Example, collate, single_thread

WARMUP_STEPS = 100
SFT_WARMUP_STEPS = 20


def train_base(lineage: LineageSettings, settings: StudySettings, folder: Path) -> list[float]:
    """Train a base from scratch on noisy material; returns the loss of every step."""
    import torch

    single_thread()
    torch.manual_seed(lineage.base_seed)
    task = TASKS[lineage.task]
    unseen = draw_sets(task, settings).unseen
    tokenizer = build_tokenizer(task.words())
    model = new_model(lineage.architecture, len(tokenizer), settings)
    rng = random.Random(lineage.base_seed)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.01)
    losses = []
    for step in range(lineage.base_steps):
        left = max(0.02, 1 - step / lineage.base_steps)
        for group in optimizer.param_groups:
            group["lr"] = settings.base_learning_rate * min((step + 1) / WARMUP_STEPS, left)
        examples = [
            task.crawl_example(rng, unseen, settings, lineage.walk_lengths)
            for _ in range(settings.base_batch)
        ]
        losses.append(train_step(model, optimizer, collate(examples, tokenizer)))
    save(model, tokenizer, folder)
    return losses


def train_ladder(
    base: Path,
    examples: list[Example],
    steps_to: dict[int, Path],
    *,
    settings: StudySettings,
    learning_rate: float,
    seed: int,
    label_smoothing: float = 0.0,
) -> None:
    """Fine-tune ``base`` once and keep it after each number of steps in ``steps_to``."""
    import torch

    single_thread()
    torch.manual_seed(seed)
    model, tokenizer = load(base)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.0)
    batches = islice(_batches(examples, settings.sft_batch, seed), max(steps_to))
    for number, batch in enumerate(batches, start=1):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * min(1.0, number / SFT_WARMUP_STEPS)
        train_step(model, optimizer, collate(batch, tokenizer), label_smoothing)
        if number in steps_to:
            save(model, tokenizer, steps_to[number])


def _batches(examples: list[Example], size: int, seed: int) -> Iterator[list[Example]]:
    """Full batches for ever, in a fresh order for every epoch."""
    order = random.Random(seed)
    while True:
        epoch = list(examples)
        order.shuffle(epoch)
        for first in range(0, len(epoch) - size + 1, size):
            yield epoch[first : first + size]


def train_step(model: Any, optimizer: Any, batch: Batch, label_smoothing: float = 0.0) -> float:
    """One optimizer step on the answer tokens; returns the loss, nats a token."""
    import torch
    from torch.nn.functional import cross_entropy

    logits = model(input_ids=batch.ids).logits[:, :-1]
    loss: Any = cross_entropy(
        logits.flatten(0, 1),
        batch.labels[:, 1:].flatten(),
        ignore_index=IGNORED,
        label_smoothing=label_smoothing,
    )
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return float(loss.item())
