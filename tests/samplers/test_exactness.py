"""Entropies and logprobs against a recomputation that shares nothing with the sampler.

The oracle is the whole forward pass over prompt and completion, without a cache, in float64.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from mlflow_rlrisk.config import AssessmentConfig, SamplingConfig
from mlflow_rlrisk.records import Prompt, RolloutGroup
from mlflow_rlrisk.samplers.exact_head import install_exact_head
from mlflow_rlrisk.samplers.transformers import TransformersSampler
from tests.tiny_models import write_gpt2, write_llama, write_neox

TOLERANCE_NATS = 1e-5
TEXTS = ["12+3=", "what is 12 + 3?", "a", "12 * 3 - 4 is even, 12 * 3 - 5 is not.\n", "a = b"]
WRITERS = {"llama": write_llama, "gpt2": write_gpt2, "neox": write_neox}


def _sample(folder: Path, *, batch_size: int, **sampling: Any) -> list[RolloutGroup]:
    settings = SamplingConfig(**{"num_samples": 8, "max_new_tokens": 24, **sampling})
    config = AssessmentConfig(sampling=settings, batch_size=batch_size, device="cpu")
    prompts = [Prompt(id=f"p{i}", content=text) for i, text in enumerate(TEXTS)]
    return list(TransformersSampler(folder, config).sample(prompts))


def _log_softmax(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    return torch.log_softmax(logits.double() / temperature, dim=-1)


def _worst_errors(groups: list[RolloutGroup], log_probabilities: Any) -> tuple[float, float, int]:
    """Largest error of entropy and logprob, and how many tokens were compared."""
    worst_entropy = worst_logprob = 0.0
    compared = 0
    for group in groups:
        for rollout in group.rollouts:
            logs = log_probabilities(group.prompt.content, rollout.token_ids)
            entropies = -(logs.exp() * logs).sum(dim=-1).numpy()
            logprobs = logs.gather(1, torch.tensor(rollout.token_ids)[:, None])[:, 0].numpy()
            worst_entropy = max(worst_entropy, np.abs(entropies - rollout.entropies).max())
            worst_logprob = max(worst_logprob, np.abs(logprobs - rollout.logprobs).max())
            compared += len(logs)
    return worst_entropy, worst_logprob, compared


@pytest.mark.parametrize("batch_size", [1, 64])
@pytest.mark.parametrize("temperature", [0.7, 1.0])
@pytest.mark.parametrize("architecture", WRITERS)
def test_entropy_and_logprob_agree_with_a_float64_forward_pass(
    tmp_path: Path, architecture: str, temperature: float, batch_size: int
) -> None:
    folder = WRITERS[architecture](tmp_path, initializer_range=0.2)
    model = AutoModelForCausalLM.from_pretrained(folder).double()
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def log_probabilities(text: str, token_ids: Any) -> torch.Tensor:
        ids = tokenizer(text)["input_ids"]
        with torch.no_grad():
            logits = model(torch.tensor([[*ids, *token_ids.tolist()]])).logits
        return _log_softmax(logits[0, len(ids) - 1 : -1], temperature)

    groups = _sample(folder, batch_size=batch_size, temperature=temperature)

    entropy, logprob, compared = _worst_errors(groups, log_probabilities)
    assert compared > 200
    assert entropy < TOLERANCE_NATS
    assert logprob < TOLERANCE_NATS


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_the_head_of_a_half_precision_model_is_computed_in_float32(
    tmp_path: Path, architecture: str, dtype: str
) -> None:
    # Compared on the same hidden states: the model's own bfloat16 body is what will be trained,
    # only the rounding of its logits is not. One-token rollouts share their prefill exactly.
    folder = WRITERS[architecture](tmp_path, dtype=dtype, hidden=64)
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rounding = 0.0

    def log_probabilities(text: str, token_ids: Any) -> torch.Tensor:
        nonlocal rounding
        with torch.no_grad():
            output = model(torch.tensor([tokenizer(text)["input_ids"]]), output_hidden_states=True)
            hidden = output.hidden_states[-1][0, -1:].double()
            exact = _log_softmax(hidden @ model.get_output_embeddings().weight.double().T, 1.0)
        rounded = _log_softmax(output.logits[0, -1:], 1.0)
        rounding = max(rounding, (exact - rounded).abs().max().item())
        return exact

    groups = _sample(folder, batch_size=1, max_new_tokens=1, num_samples=2)

    entropy, logprob, _ = _worst_errors(groups, log_probabilities)
    assert entropy < TOLERANCE_NATS
    assert logprob < TOLERANCE_NATS
    assert rounding > 50 * TOLERANCE_NATS  # what the model's own logits would have cost


def test_a_narrow_head_whose_logits_the_architecture_upcasts_is_computed_in_float32() -> None:
    # Mamba says float32 of logits that its bfloat16 head has rounded.
    from transformers import MambaConfig, MambaForCausalLM

    torch.manual_seed(0)
    config = MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, state_size=4)
    model = MambaForCausalLM(config).bfloat16().eval()
    ids = torch.arange(1, 5)[None]

    assert install_exact_head(model) == "float32"
    with torch.no_grad():
        found = model(input_ids=ids, use_cache=False).logits[0, -1]
        hidden = model.backbone(input_ids=ids, use_cache=False).last_hidden_state[0, -1]
    exact = hidden.bfloat16().double() @ model.lm_head.weight.double().T
    assert (found - exact).abs().max() < 1e-5
    assert (exact.bfloat16() - exact).abs().max() > 1e-4

    class Quantized(torch.nn.Linear):
        """No plain matrix: what it gives stays as rounded as it is."""

    model.lm_head = Quantized(32, 64, bias=False, dtype=torch.bfloat16)
    assert install_exact_head(model) == "bfloat16"


def test_logits_that_the_architecture_rescales_stay_right(tmp_path: Path) -> None:
    # Granite divides its logits after the head: the replaced head must not skip that.
    from transformers import GraniteConfig, GraniteForCausalLM

    folder = write_llama(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    config = GraniteConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        logits_scaling=3.0,
        initializer_range=0.3,
        eos_token_id=2,
        pad_token_id=0,
        bos_token_id=1,
    )
    torch.manual_seed(0)
    GraniteForCausalLM(config).save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).double()

    def log_probabilities(text: str, token_ids: Any) -> torch.Tensor:
        ids = tokenizer(text)["input_ids"]
        with torch.no_grad():
            logits = model(torch.tensor([[*ids, *token_ids.tolist()]])).logits
        return _log_softmax(logits[0, len(ids) - 1 : -1], 1.0)

    entropy, logprob, _ = _worst_errors(_sample(folder, batch_size=16), log_probabilities)

    assert entropy < TOLERANCE_NATS
    assert logprob < TOLERANCE_NATS
