"""Positions, windows and caps that differ between architectures, each against a float64 forward.

Prompts of different lengths are decoded together, so left padding meets learned positions (OPT),
ALiBi (Bloom), and sliding windows shorter than prompt and completion (Mistral, Gemma).
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

from mlflow_rlrisk.config import AssessmentConfig, SamplingConfig
from mlflow_rlrisk.errors import SamplerError
from mlflow_rlrisk.records import Prompt, RolloutGroup
from mlflow_rlrisk.samplers.transformers import TransformersSampler
from tests.tiny_models import write_llama

TOLERANCE_NATS = 1e-5
TEXTS = ["12+3=", "12 * 3 - 4 is even, 12 * 3 - 5 is not.\n", "a"]
IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
DECODER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
    **IDS,
}
GEMMA = {**DECODER, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 8}
OPT = {
    "hidden_size": 32,
    "word_embed_proj_dim": 32,
    "ffn_dim": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "init_std": 0.3,
    **IDS,
}
LONGROPE = {
    **DECODER,
    "original_max_position_embeddings": 16,
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * 4,
        "long_factor": [4.0, 3.0, 2.0, 2.0],
    },
}
"""As of Phi-3 and Phi-4-mini, where longer texts turn all positions otherwise."""
BLOOM = {"hidden_size": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.3, **IDS}


@pytest.mark.parametrize(
    ("config", "settings"),
    [
        (transformers.MistralConfig, {**DECODER, "sliding_window": 8}),
        (transformers.Gemma2Config, {**GEMMA, "final_logit_softcapping": 5.0}),
        (transformers.Gemma3TextConfig, GEMMA),
        (transformers.OPTConfig, OPT),
        (transformers.BloomConfig, BLOOM),
    ],
)
def test_padded_batches_sample_from_the_distribution_of_each_prompt_alone(
    tmp_path: Path, config: Callable[..., Any], settings: dict[str, Any]
) -> None:
    folder = _written(tmp_path, config, settings)

    groups = _sampled(folder, TEXTS, max_new_tokens=24)

    _require_exact(folder, groups)
    assert sum(rollout.token_ids.size for group in groups for rollout in group.rollouts) > 100


@pytest.mark.parametrize(
    ("texts", "max_new_tokens"),
    [(["1+1=", "a", "12 * 3 ="], 8), (["12 * 3 - 4 is even", "12 * 3 - 4 is even, but odd"], 12)],
)
def test_texts_on_one_side_of_longrope_are_sampled_exactly(
    tmp_path: Path, texts: list[str], max_new_tokens: int
) -> None:
    folder = _written(tmp_path, transformers.Phi3Config, LONGROPE)

    _require_exact(folder, _sampled(folder, texts, max_new_tokens))


@pytest.mark.parametrize(
    ("texts", "max_new_tokens"),
    [(["1+1="], 20), (["1+1=", "12 * 3 - 4 is even"], 6), (["12 * 3 = 36 or 37"[:16]], 1)],
)
def test_texts_on_both_sides_of_longrope_are_refused(
    tmp_path: Path, texts: list[str], max_new_tokens: int
) -> None:
    # Decoded together, or from a cache, they were off by a nat of entropy.
    folder = _written(tmp_path, transformers.Phi3Config, LONGROPE)

    with pytest.raises(SamplerError, match=rf"16 tokens on.*max_new_tokens={max_new_tokens}"):
        _sampled(folder, texts, max_new_tokens)


def _written(folder: Path, config: Callable[..., Any], settings: dict[str, Any]) -> Path:
    write_llama(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    made = AutoModelForCausalLM.from_config(config(vocab_size=len(tokenizer), **settings))
    made.save_pretrained(folder)
    return folder


def _sampled(folder: Path, texts: Sequence[str], max_new_tokens: int) -> list[RolloutGroup]:
    sampling = SamplingConfig(num_samples=4, max_new_tokens=max_new_tokens)
    assessment = AssessmentConfig(sampling=sampling, batch_size=64, device="cpu")
    prompts = [Prompt(id=f"p{i}", content=text) for i, text in enumerate(texts)]
    return list(TransformersSampler(folder, assessment).sample(prompts))


def _require_exact(folder: Path, groups: Sequence[RolloutGroup]) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder).double()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for group in groups:
        ids = tokenizer(group.prompt.content)["input_ids"]
        for rollout in group.rollouts:
            with torch.no_grad():
                logits = model(torch.tensor([[*ids, *rollout.token_ids.tolist()]])).logits
            logs = torch.log_softmax(logits[0, len(ids) - 1 : -1], dim=-1)
            entropies = -(logs.exp() * logs).sum(dim=-1).numpy()
            logprobs = logs.gather(1, torch.tensor(rollout.token_ids)[:, None])[:, 0].numpy()
            assert np.abs(entropies - rollout.entropies).max() < TOLERANCE_NATS
            assert np.abs(logprobs - rollout.logprobs).max() < TOLERANCE_NATS
