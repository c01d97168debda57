"""A float64 forward pass over the tokens that an engine drew."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.tiny_models import write_llama


def write_model(folder: Path, **settings: Any) -> Path:
    """A small Llama whose heads are as wide as vLLM's CPU attention needs."""
    values = {"vocab_size": 320, "hidden": 128, "initializer_range": 0.12}
    return write_llama(folder, **{**values, **settings})


def reference(folder: Path, adapter: Path | None = None) -> Any:
    """The model in float64, with an adapter or without."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    if adapter is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(adapter)).double()
    return model.eval()


def penalise(logits: torch.Tensor, prompt: list[int], tokens: list[int], penalty: float) -> None:
    """The repetition penalty on the logits ``[T, V]`` that tokens were drawn from, in place."""
    for place, row in enumerate(logits):
        for word in {*prompt, *tokens[:place]}:
            row[word] *= penalty if row[word] < 0 else 1 / penalty


def worst_differences(
    answer: dict[str, Any],
    model: Any,
    temperature: float = 0.7,
    top_k: int | None = None,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
) -> tuple[float, float, int]:
    """Largest differences of entropy and logprob (nats) over all tokens, and how many these are.

    Entropies are of the full softmax, logprobs of the words that ``top_k`` and ``min_p`` leave of
    what ``repetition_penalty`` makes of it. A token without an entropy or logprob makes them
    NaN.
    """
    entropy = logprob = 0.0
    num_tokens = 0
    for rollout in answer["rollouts"]:
        prompt, tokens = answer["prompt_ids"][rollout["prompt_id"]], rollout["token_ids"]
        with torch.no_grad():
            logits = model(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
        logs = (logits / temperature).log_softmax(-1)
        expected = -(logs.exp() * logs).sum(-1).numpy()
        penalise(logits, prompt, tokens, repetition_penalty)
        logs = (logits / temperature).log_softmax(-1)
        kept = logs if top_k is None else logs.topk(top_k, dim=-1).values
        kept = kept.masked_fill(
            kept < kept.amax(-1, keepdim=True) + np.log(min_p or 1e-99), -np.inf
        )
        own = logs.gather(1, torch.tensor(tokens)[:, None])[:, 0]
        least = kept.masked_fill(kept == -np.inf, np.inf).amin(-1)
        assert (own > least - 1e-4).all(), "a token was drawn that had been cut away"
        chosen = (own - kept.logsumexp(-1)).numpy()
        entropy = np.maximum(entropy, np.abs(expected - rollout["entropies"]).max())
        logprob = np.maximum(logprob, np.abs(chosen - rollout["logprobs"]).max())
        num_tokens += len(tokens)
    return float(entropy), float(logprob), num_tokens
