"""Scored completions against a float64 forward pass over each sequence alone, naive softmax."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from mlflow_rlrisk.errors import ConfigError, SamplerError
from mlflow_rlrisk.forward.teacher_forced import TeacherForcedScorer, score
from mlflow_rlrisk.samplers.exact_head import install_exact_head
from tests.samplers.test_architectures import BLOOM, DECODER, GEMMA, LONGROPE, OPT
from tests.tiny_models import write_gpt2, write_llama, write_neox

TOLERANCE_NATS = 1e-4
WORDS = 96
ARCHITECTURES: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "llama": (transformers.LlamaConfig, DECODER),
    "qwen2": (transformers.Qwen2Config, DECODER),
    "qwen2-tied": (transformers.Qwen2Config, {**DECODER, "tie_word_embeddings": True}),
    "mistral": (transformers.MistralConfig, {**DECODER, "sliding_window": 8}),
    "gemma2": (transformers.Gemma2Config, {**GEMMA, "final_logit_softcapping": 5.0}),
    "gemma3": (transformers.Gemma3TextConfig, GEMMA),
    "granite": (transformers.GraniteConfig, {**DECODER, "logits_scaling": 3.0}),
    "cohere": (transformers.CohereConfig, {**DECODER, "logit_scale": 0.25}),
    "phi": (transformers.PhiConfig, DECODER),  # its head has a bias
    "phi3": (transformers.Phi3Config, LONGROPE),  # sequences on both sides of its switch
    "opt": (transformers.OPTConfig, OPT),
    "bloom": (transformers.BloomConfig, BLOOM),
    "gpt2": (
        transformers.GPT2Config,
        {"n_embd": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.3},
    ),
    "neox": (
        transformers.GPTNeoXConfig,
        {**DECODER, "tie_word_embeddings": False, "use_parallel_residual": True},
    ),
}


def _model(name: str, dtype: torch.dtype = torch.float32) -> Any:
    config, settings = ARCHITECTURES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config(vocab_size=WORDS, **settings))
    model.config.pad_token_id = None
    head = model.get_output_embeddings()
    if head.bias is not None:
        torch.nn.init.normal_(head.bias, generator=torch.Generator().manual_seed(1))
    return model.to(dtype).eval()


def _sequences(count: int = 9, seed: int = 0) -> list[tuple[list[int], list[int]]]:
    rng = np.random.default_rng(seed)
    lengths = [(int(rng.integers(1, 20)), int(rng.integers(1, 25))) for _ in range(count)]
    return [
        (rng.integers(3, WORDS, prompt).tolist(), rng.integers(3, WORDS, completion).tolist())
        for prompt, completion in lengths
    ]


def _oracle(
    model: Any, prompt: list[int], completion: list[int], temperature: float
) -> tuple[Any, Any]:
    with torch.no_grad():
        logits = model.double()(torch.tensor([[*prompt, *completion]])).logits
    logs = torch.log_softmax(logits[0, len(prompt) - 1 : -1].double() / temperature, dim=-1)
    chosen = logs.gather(1, torch.tensor(completion)[:, None])[:, 0]
    return -(logs.exp() * logs).sum(dim=-1).numpy(), chosen.numpy()


@pytest.mark.parametrize("temperature", [0.7, 1.0])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_scores_agree_with_a_float64_forward_pass(name: str, temperature: float) -> None:
    sequences = _sequences()
    scorer = TeacherForcedScorer(_model(name))

    scores = scorer.score(sequences, temperature=temperature, batch_tokens=120)

    assert scorer.fallback_reason is None
    oracle = _model(name)
    for (prompt, completion), found in zip(sequences, scores, strict=True):
        entropies, logprobs = _oracle(oracle, prompt, completion, temperature)
        assert found.entropies.shape == found.logprobs.shape == (len(completion),)
        assert np.abs(found.entropies - entropies).max() < TOLERANCE_NATS
        assert np.abs(found.logprobs - logprobs).max() < TOLERANCE_NATS


def test_short_texts_of_longrope_are_scored_as_if_no_long_one_was_beside_them() -> None:
    prompts_and_answers = [([3, 4], [5, 6, 7]), ([8] * 9, [9] * 30), ([10] * 8, [11] * 8)]

    scores = score(_model("phi3"), prompts_and_answers, temperature=1.0)

    oracle = _model("phi3")
    for (prompt, completion), found in zip(prompts_and_answers, scores, strict=True):
        entropies, logprobs = _oracle(oracle, prompt, completion, 1.0)
        assert np.abs(found.entropies - entropies).max() < TOLERANCE_NATS
        assert np.abs(found.logprobs - logprobs).max() < TOLERANCE_NATS


def test_a_bfloat16_model_is_scored_from_its_own_hidden_states_without_rounding_logits() -> None:
    model = _model("llama", torch.bfloat16)
    (prompt, completion), *_ = sequences = _sequences(1)
    with torch.no_grad():
        output = model(torch.tensor([[*prompt, *completion]]), output_hidden_states=True)
    hidden = output.hidden_states[-1][0, len(prompt) - 1 : -1].double()
    logs = torch.log_softmax(hidden @ model.lm_head.weight.double().T, dim=-1)

    (found,) = score(model, sequences, temperature=1.0)

    entropies = -(logs.exp() * logs).sum(dim=-1).detach().numpy()
    assert np.abs(found.entropies - entropies).max() < 1e-5
    rounded = torch.log_softmax(output.logits[0, len(prompt) - 1 : -1].double(), dim=-1)
    assert (rounded - logs).abs().max() > 1e-2  # what the model's own logits would have cost


class _OtherHead(torch.nn.Linear):
    """A head of another kind, as quantized ones are."""


@pytest.mark.parametrize("kind", ["other head", "other logits"])
def test_an_architecture_that_is_not_understood_is_scored_from_full_logits(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = _model("llama")
    if kind == "other head":
        head = _OtherHead(32, WORDS, bias=False)
        head.weight = model.lm_head.weight
        model.lm_head = head
    else:
        plain = type(model).forward

        def centred(self: Any, *args: Any, **kwargs: Any) -> Any:
            output = plain(self, *args, **kwargs)
            # A word's logit depends on the others': nothing that goes word by word.
            output.logits = output.logits - 0.5 * output.logits.amax(-1, keepdim=True).abs() ** 0.5
            output.logits = output.logits.abs() * 0.3 - output.logits.mean(-1, keepdim=True)
            return output

        monkeypatch.setattr(type(model), "forward", centred)
    sequences = _sequences(4)
    scorer = TeacherForcedScorer(model)

    scores = scorer.score(sequences, temperature=0.8)

    assert scorer.fallback_reason is not None
    for (prompt, completion), found in zip(sequences, scores, strict=True):
        entropies, logprobs = _oracle(model, prompt, completion, 0.8)
        model.float()
        assert np.abs(found.entropies - entropies).max() < TOLERANCE_NATS
        assert np.abs(found.logprobs - logprobs).max() < TOLERANCE_NATS


def test_the_model_is_left_as_it_was() -> None:
    # The sampler replaces the head's forward, a trainer leaves dropout on: both must survive.
    model = _model("llama")
    install_exact_head(model)
    model.train()
    installed = model.lm_head.forward

    score(model, _sequences(2), temperature=1.0)

    assert model.lm_head.forward is installed
    assert model.training


def test_the_sequence_whose_hidden_states_are_not_finite_is_named() -> None:
    model = _model("llama")
    model.model.embed_tokens.weight.data[50] = float("nan")
    sequences = [([5, 6], [7, 8]), ([5, 6], [7, 50, 9]), ([5], [6, 7, 8])]

    with pytest.raises(SamplerError, match=r"sequence 1: token \d of 3"):
        score(model, sequences, temperature=1.0)


@pytest.mark.parametrize(
    ("sequences", "temperature", "message"),
    [
        ([([1], [2]), ([], [2])], 1.0, r"sequences\[1\]"),
        ([([1], [])], 1.0, r"sequences\[0\]"),
        ([([1], [WORDS])], 1.0, f"0..{WORDS - 1}"),
        ([([1], [-1])], 1.0, f"0..{WORDS - 1}"),
        ([([1], [2])], 0.0, "temperature"),
    ],
)
def test_what_cannot_be_scored_is_refused(sequences: Any, temperature: float, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        score(_model("llama"), sequences, temperature=temperature)


def test_a_sequence_longer_than_the_positions_is_refused() -> None:
    with pytest.raises(SamplerError, match="sequence 1 has 129 tokens and the model has 128"):
        score(_model("opt"), [([5], [6]), ([5] * 100, [6] * 29)], temperature=1.0)


def test_no_sequences_have_no_scores() -> None:
    assert score(_model("llama"), [], temperature=1.0) == []


@pytest.mark.parametrize("write", [write_llama, write_gpt2, write_neox])
def test_checkpoints_as_they_are_loaded_are_scored(
    tmp_path: Path, write: Callable[..., Path]
) -> None:
    model = AutoModelForCausalLM.from_pretrained(write(tmp_path)).eval()
    prompt, completion = [5, 6, 7], [8, 9]

    (found,) = score(model, [(prompt, completion)], temperature=1.0)

    entropies, _ = _oracle(model, prompt, completion, 1.0)
    assert np.abs(found.entropies - entropies).max() < TOLERANCE_NATS
