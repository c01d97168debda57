"""Make the base checkpoint: ``python -m mlflow_rlrisk.demo.make_base`` rewrites ``base/``.

The base stands for a pretrained model: it has seen 170 000 chains of every style, many of them
wrong, as in a crawl. So it knows many ways to a target and makes many mistakes. Making it takes
four to seven minutes on one core. The seed fixes data, order and initial weights, so that the same
library versions on the same kind of machine give the same file.
"""

import hashlib
import json
import random
import time
from collections.abc import Set
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_rlrisk.demo.make_data import DATA, Pair, draw_sets
from mlflow_rlrisk.demo.task import (
    MAX_VALUE,
    OPERATIONS,
    Step,
    render_chain,
    render_prompt,
    steps_from,
)
from mlflow_rlrisk.demo.tokenizer import build_tokenizer, vocabulary
from mlflow_rlrisk.demo.train import Example, answer_loss, collate, single_thread

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

BASE = Path(__file__).parent / "base"
RECORD = DATA / "base_record.json"
"""SHA-256 of every file of the base and how it was made."""

SEED = 1
NUM_STEPS = 3600
WARMUP_STEPS = 100
BATCH_SIZE = 48
LEARNING_RATE = 2.5e-3
CHAIN_LENGTHS = (2, 3, 3, 3, 4)
OFF_TARGET_SHARE = 0.12
"""Share of chains that end somewhere near the target and claim nothing else."""
SLIP_SHARE = 0.06
"""Share of chains with one miscalculated step."""


@cache
def _steps_by_operation(value: int) -> tuple[tuple[Step, ...], ...]:
    kinds = (tuple(s for s in steps_from(value) if s.operation == op) for op in OPERATIONS)
    return tuple(kind for kind in kinds if kind)


def random_walk(rng: random.Random, start: int, num_steps: int) -> list[Step]:
    """Right steps at random: first the operation, then the operand."""
    chain: list[Step] = []
    value = start
    for _ in range(num_steps):
        step = rng.choice(rng.choice(_steps_by_operation(value)))
        chain.append(step)
        value = step.result
    return chain


def _with_slip(rng: random.Random, chain: list[Step]) -> list[Step]:
    place = rng.randrange(len(chain))
    wrong = chain[place].result + rng.choice((-2, -1, 1, 2))
    wrong = min(max(wrong, 1), MAX_VALUE)
    slipped = chain[place]._replace(result=wrong)
    return [*chain[:place], slipped, *random_walk(rng, wrong, len(chain) - place - 1)]


def crawl_example(rng: random.Random, unseen: Set[Pair]) -> Example:
    """One chain as a crawl might hold it: any style, right or wrong, no pair of ``unseen``."""
    while True:
        start = rng.randint(1, MAX_VALUE)
        chain = random_walk(rng, start, rng.choice(CHAIN_LENGTHS))
        fate = rng.random()
        if fate < SLIP_SHARE:
            chain = _with_slip(rng, chain)
        target = chain[-1].result
        if SLIP_SHARE <= fate < SLIP_SHARE + OFF_TARGET_SHARE:
            target += rng.choice((-1, 1)) * rng.randint(1, 12)
        if 1 <= target <= MAX_VALUE and target != start and (start, target) not in unseen:
            return Example(render_prompt(start, target), render_chain(chain))


def new_model() -> "LlamaForCausalLM":
    """The untrained model: Llama architecture, about 0.34 M parameters."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(SEED)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(vocabulary()),
            hidden_size=96,
            intermediate_size=256,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=64,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=vocabulary().index("<eos>"),
            pad_token_id=vocabulary().index("<pad>"),
        )
    )


def learning_rate(step: int) -> float:
    """Linear warm-up, then linear decay to 2 % of the peak."""
    return LEARNING_RATE * min((step + 1) / WARMUP_STEPS, max(0.02, 1 - step / NUM_STEPS))


def train_base() -> "LlamaForCausalLM":
    """Train on the crawl; prints the loss every 200 steps."""
    import torch

    single_thread()
    sets = draw_sets()
    unseen = frozenset(sets.rl) | frozenset(sets.heldout)
    rng = random.Random(SEED)
    tokenizer, model = build_tokenizer(), new_model()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01
    )
    for step in range(NUM_STEPS):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step)
        batch = collate([crawl_example(rng, unseen) for _ in range(BATCH_SIZE)], tokenizer)
        loss: Any = answer_loss(model, batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 200 == 199:
            print(f"step {step + 1}/{NUM_STEPS}  loss {loss.item():.3f}", flush=True)
    return model


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file in ``folder``."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
        if path.is_file()
    }


def main() -> None:
    """Train, save and record."""
    import torch
    import transformers

    started = time.monotonic()
    model = train_base()
    model.save_pretrained(BASE)
    build_tokenizer().save_pretrained(BASE)
    record = {
        "sha256": digests(BASE),
        "num_parameters": sum(p.numel() for p in model.parameters()),
        "num_steps": NUM_STEPS,
        "batch_size": BATCH_SIZE,
        "seed": SEED,
        "seconds": round(time.monotonic() - started),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    RECORD.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
