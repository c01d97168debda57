"""A causal model with a few words and random weights, for arithmetic that is checked by hand."""

from typing import Any

import torch

WORDS = 12


def untrained_llama(seed: int = 0, **settings: Any) -> Any:
    """The same weights for the same seed."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=WORDS,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
        initializer_range=0.2,
        **settings,
    )
    return AutoModelForCausalLM.from_config(config).eval()
