"""How often a model solves prompts: sampled passes at the RL settings, and greedy."""

from typing import Any

from examples.study.rows import Passes
from examples.study.tasks.base import Task
from mlflow_rlrisk.statistics.passk import pass_at_ks

MAX_SEQUENCES = 1024
"""Sequences generated together."""


def count_correct(
    model: Any, tokenizer: Any, task: Task[Any], prompts: list[str], num_samples: int
) -> list[int]:
    """Right answers of each prompt among ``num_samples`` drawn at temperature 1.

    The random numbers are torch's; ``num_samples`` of 0 stands for the one greedy answer.
    """
    import torch

    counts: list[int] = []
    repeats = max(num_samples, 1)
    per_batch = max(1, MAX_SEQUENCES // repeats)
    how: dict[str, Any] = {"do_sample": False}
    if num_samples:
        how = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    was_training = model.training
    model.eval()
    for first in range(0, len(prompts), per_batch):
        part = prompts[first : first + per_batch]
        encoded = tokenizer(part, return_tensors="pt", add_special_tokens=False)
        ids = encoded["input_ids"].repeat_interleave(repeats, 0)
        with torch.no_grad():
            drawn = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=task.max_new_tokens,
                pad_token_id=tokenizer.pad_token_id,
                eos_token_id=tokenizer.eos_token_id,
                **how,
            )
        texts = tokenizer.batch_decode(drawn[:, ids.shape[1] :], skip_special_tokens=True)
        for place, prompt in enumerate(part):
            answers = texts[place * repeats : (place + 1) * repeats]
            counts.append(sum(task.is_solution(prompt, answer) for answer in answers))
    model.train(was_training)
    return counts


def sampled_passes(
    model: Any, tokenizer: Any, task: Task[Any], prompts: list[str], num_samples: int, seed: int
) -> Passes:
    """Unbiased pass@1 and pass@10 over ``prompts``; leaves torch's random state as it was."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        counts = count_correct(model, tokenizer, task, prompts, num_samples)
    found = pass_at_ks(counts, [num_samples] * len(counts), [1, 10])
    return {"pass_at_1": float(found[1].mean()), "pass_at_10": float(found[10].mean())}
