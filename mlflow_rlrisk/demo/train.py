"""Supervised fine-tuning on plain (prompt, answer) pairs: the loop behind base and ladder.

Only answer tokens and the end token carry loss. One torch thread: the model is so small that
more of them cost time.
"""

import json
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mlflow_rlrisk.demo.tokenizer import load_tokenizer

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM

IGNORED = -100
"""Label of tokens without loss, as in torch's cross entropy."""


class Example(NamedTuple):
    """One prompt with the answer to imitate."""

    prompt: str
    answer: str


class Batch(NamedTuple):
    """Right-padded token ids and labels, both ``[B, T]``."""

    ids: "torch.Tensor"
    labels: "torch.Tensor"


def read_examples(path: Path) -> list[Example]:
    """The pairs of a JSONL file with the columns ``prompt`` and ``solution``."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [Example(row["prompt"], row["solution"]) for row in rows]


def single_thread() -> None:
    """Keep torch to one thread in this process."""
    import torch

    torch.set_num_threads(1)


def collate(examples: Sequence[Example], tokenizer: Any) -> Batch:
    """Encode a batch; padding is on the right, where a causal model never looks back at it."""
    import torch

    prompts = tokenizer([e.prompt for e in examples], add_special_tokens=False)["input_ids"]
    answers = tokenizer([e.answer for e in examples], add_special_tokens=False)["input_ids"]
    rows, labels = [], []
    for prompt, answer in zip(prompts, answers, strict=True):
        ended = [*answer, tokenizer.eos_token_id]
        rows.append(prompt + ended)
        labels.append([IGNORED] * len(prompt) + ended)
    width = max(map(len, rows))
    return Batch(
        torch.tensor([row + [tokenizer.pad_token_id] * (width - len(row)) for row in rows]),
        torch.tensor([label + [IGNORED] * (width - len(label)) for label in labels]),
    )


def answer_loss(model: "LlamaForCausalLM", batch: Batch) -> "torch.Tensor":
    """Mean negative log likelihood of the answer tokens, nats per token."""
    from torch.nn.functional import cross_entropy

    logits = model(input_ids=batch.ids).logits[:, :-1]
    targets = batch.labels[:, 1:]
    return cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)


def shuffled_epochs(
    examples: Sequence[Example], num_epochs: int, seed: int
) -> Iterator[list[Example]]:
    """The examples in a fresh order for every epoch; the orders depend on ``seed`` alone."""
    order = random.Random(seed)
    for _ in range(num_epochs):
        epoch = list(examples)
        order.shuffle(epoch)
        yield epoch


def train_epoch(
    model: "LlamaForCausalLM",
    optimizer: "torch.optim.Optimizer",
    examples: Sequence[Example],
    tokenizer: Any,
    batch_size: int,
) -> float:
    """One pass over ``examples`` in the order given; returns the mean loss of its batches."""
    losses: list[float] = []
    model.train()
    for first in range(0, len(examples), batch_size):
        batch = collate(examples[first : first + batch_size], tokenizer)
        loss: Any = answer_loss(model, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return sum(losses) / len(losses)


def seconds_per_step(checkpoint: Path, data: Path, batch_size: int) -> float:
    """Time of one training step on this machine, measured on a copy that is thrown away."""
    import torch
    from transformers import LlamaForCausalLM

    single_thread()
    model = LlamaForCausalLM.from_pretrained(checkpoint)
    tokenizer = load_tokenizer(checkpoint)
    optimizer = torch.optim.AdamW(model.parameters())
    examples = read_examples(data)[:batch_size]
    train_epoch(model, optimizer, examples, tokenizer, batch_size)  # the first one allocates
    started = time.perf_counter()
    num_steps = 10
    for _ in range(num_steps):
        train_epoch(model, optimizer, examples, tokenizer, batch_size)
    return (time.perf_counter() - started) / num_steps
