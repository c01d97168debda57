"""What RL then does: GRPO of one rung with TRL, on the prompts that were assessed.

The settings are the same for every rung. A finished run is used again as long as its start, its
settings and its result have the digests of its record.
"""

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

from mlflow_rlrisk.content import file_entry, json_digest
from mlflow_rlrisk.demo.ladder import read_record
from mlflow_rlrisk.demo.make_base import digests
from mlflow_rlrisk.demo.make_data import RL
from mlflow_rlrisk.demo.task import MAX_NEW_TOKENS, reward
from mlflow_rlrisk.demo.tokenizer import load_tokenizer
from mlflow_rlrisk.demo.train import single_thread
from mlflow_rlrisk.rollouts.shards import write_text_atomically

GROUP_SIZE = 8
PROMPTS_PER_STEP = 32
NUM_STEPS = 150
LEARNING_RATE = 1.5e-4
SEED = 0
CHECKPOINT = "final"
RECORD = "rl.json"


class RlRun(NamedTuple):
    """A finished GRPO run.

    Attributes:
        folder: The trained checkpoint.
        reward: Mean reward of every step, over the prompts it trained on.
        frac_reward_zero_std: Share of groups without a reward difference, of every step.
        entropy: Mean token entropy of every step (nats).
    """

    folder: Path
    reward: list[float]
    frac_reward_zero_std: list[float]
    entropy: list[float]


def train_grpo(checkpoint: Path, folder: Path) -> RlRun:
    """Train ``checkpoint`` with GRPO (groups of 8, 32 prompts a step, no KL), or find the run.

    Args:
        checkpoint: Folder of the rung.
        folder: Gets the trained checkpoint and the history of the run.
    """
    key = _key(checkpoint)
    stored = _stored_run(folder, key)
    if stored is not None:
        return stored
    history = _train(checkpoint, folder)
    columns = {
        name: [entry[name] for entry in history]
        for name in ("reward", "frac_reward_zero_std", "entropy")
    }
    record = {"key": key, "sha256": digests(folder / CHECKPOINT), "history": columns}
    write_text_atomically(folder / RECORD, json.dumps(record) + "\n")
    return RlRun(folder / CHECKPOINT, **columns)


def _train(checkpoint: Path, folder: Path) -> list[dict[str, float]]:
    """Run the trainer; returns what it logged, one entry per step."""
    import trl
    from datasets import Dataset
    from transformers import LlamaForCausalLM
    from transformers.trainer_callback import PrinterCallback

    single_thread()
    rows = [json.loads(line) for line in RL.read_text(encoding="utf-8").splitlines()]
    library: Any = trl  # its exports are resolved at run time
    trainer = library.GRPOTrainer(
        model=LlamaForCausalLM.from_pretrained(checkpoint),
        reward_funcs=reward,
        args=library.GRPOConfig(output_dir=str(folder), **_settings()),
        train_dataset=Dataset.from_list([{"prompt": row["prompt"]} for row in rows]),
        processing_class=load_tokenizer(checkpoint),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_progress_bar())
    trainer.train()
    trainer.save_model(str(folder / CHECKPOINT))
    return [entry for entry in trainer.state.log_history if "reward" in entry]


def _settings() -> dict[str, Any]:
    return {
        "num_generations": GROUP_SIZE,
        "per_device_train_batch_size": GROUP_SIZE * PROMPTS_PER_STEP,
        "max_completion_length": MAX_NEW_TOKENS,
        "max_steps": NUM_STEPS,
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "temperature": 1.0,
        "top_k": 0,
        "beta": 0.0,
        "seed": SEED,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "dataloader_pin_memory": False,
        "log_level": "error",
    }


def _key(checkpoint: Path) -> str:
    """Digest of everything a run depends on."""
    import torch
    import trl

    parts = {
        "start": digests(checkpoint),
        "prompts": file_entry(RL.name, RL).sha256,
        "settings": _settings(),
        "torch": torch.__version__,
        "trl": trl.__version__,
    }
    return json_digest(parts)


def _stored_run(folder: Path, key: str) -> RlRun | None:
    record = read_record(folder / RECORD, key)
    final = folder / CHECKPOINT
    if record is None or not final.is_dir() or digests(final) != record["sha256"]:
        return None
    return RlRun(final, **record["history"])


def _progress_bar() -> Any:
    """A trainer callback: one bar with the running reward."""
    from tqdm import tqdm
    from transformers import TrainerCallback

    class Bar(TrainerCallback):
        bar = tqdm(
            total=NUM_STEPS,
            unit="step",
            file=sys.stderr,
            mininterval=0.5 if sys.stderr.isatty() else 10.0,
        )

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if "reward" in logs:
                self.bar.update()
                zero = logs["frac_reward_zero_std"]
                text = f"reward {logs['reward']:.2f}, zero-std {zero:.2f}"
                self.bar.set_postfix_str(text, refresh=False)

        def on_train_end(self, *_: Any, **__: Any) -> None:
            self.bar.close()

    return Bar()
