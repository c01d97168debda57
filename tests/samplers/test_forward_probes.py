"""Architectures that run and are sampled wrongly, or do not run at all, are refused beforehand."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from mlflow_rlrisk.config import AssessmentConfig, SamplingConfig
from mlflow_rlrisk.errors import CheckpointError, RLRiskError, SamplerError
from mlflow_rlrisk.forward.probe import refuse_acausal, refusing
from mlflow_rlrisk.forward.teacher_forced import TeacherForcedScorer
from mlflow_rlrisk.records import Prompt
from mlflow_rlrisk.samplers.transformers import TransformersSampler
from tests.samplers.test_architectures import BLOOM, DECODER, GEMMA, OPT
from tests.tiny_models import character_tokenizer, write_gpt2, write_llama

WORDS = 83
SETTINGS = {**DECODER, "vocab_size": WORDS}
BART = {
    "vocab_size": WORDS,
    "d_model": 32,
    "encoder_layers": 2,  # a cache has as many
    "decoder_layers": 2,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 128,
    "init_std": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
EXPERTS = {**DECODER, "num_local_experts": 4, "num_experts_per_tok": 2}


def _config(dtype: Any = "auto", **sampling: Any) -> AssessmentConfig:
    settings = SamplingConfig(**{"num_samples": 2, "max_new_tokens": 4, **sampling})
    return AssessmentConfig(sampling=settings, device="cpu", dtype=dtype)


def _model(config: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config).eval()


def _write(folder: Path, config: Any) -> Path:
    write_llama(folder)
    _model(config).save_pretrained(folder)
    return folder


def _edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def _bidirectional_llama(folder: Path) -> Path:
    write_llama(folder)
    _edit(folder / "config.json", is_causal=False)
    return folder


def _bert(folder: Path) -> Path:
    return _write(folder, transformers.BertConfig(**SETTINGS))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("write", [_bidirectional_llama, _bert])
def test_a_model_that_looks_ahead_is_neither_sampled_nor_scored(
    tmp_path: Path, write: Callable[[Path], Path], dtype: str
) -> None:
    folder = write(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)

    with pytest.raises(CheckpointError, match="depend on the tokens that follow"):
        TransformersSampler(folder, _config(dtype))
    with pytest.raises(CheckpointError, match="depend on the tokens that follow"):
        TeacherForcedScorer(model)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "config",
    [
        transformers.BartConfig(**BART),
        transformers.MBartConfig(**BART),
        transformers.RobertaConfig(**SETTINGS, is_decoder=True),
    ],
    ids=lambda config: config.model_type,
)
def test_a_decoder_that_ignores_position_ids_is_refused(
    tmp_path: Path, config: Any, dtype: str
) -> None:
    # Padded on the left, a shorter prompt would be read as if it began further on.
    folder = _write(tmp_path, config)

    with pytest.raises(CheckpointError, match="different lengths together"):
        TransformersSampler(folder, _config(dtype))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize(
    "config",
    [
        transformers.MixtralConfig(**EXPERTS, vocab_size=WORDS),
        transformers.MistralConfig(**SETTINGS, sliding_window=2),
        transformers.Gemma3TextConfig(**GEMMA, vocab_size=WORDS),
        transformers.OPTConfig(**OPT, vocab_size=WORDS),
        transformers.BloomConfig(**BLOOM, vocab_size=WORDS),
        transformers.BertConfig(**SETTINGS, is_decoder=True),
        # Its configuration takes no pad id but a number.
        transformers.ModernBertDecoderConfig(**SETTINGS, cls_token_id=1, sep_token_id=2),
    ],
    ids=lambda config: config.model_type,
)
def test_a_healthy_decoder_is_refused_in_no_dtype(tmp_path: Path, config: Any, dtype: str) -> None:
    sampler = TransformersSampler(_write(tmp_path, config), _config(dtype))

    TeacherForcedScorer(AutoModelForCausalLM.from_pretrained(tmp_path, dtype=dtype))
    prompts = [Prompt(id="a", content="1"), Prompt(id="b", content="1 + 2 + 3")]
    assert len(list(sampler.sample(prompts))) == 2


def test_a_deep_model_in_low_precision_is_not_refused(tmp_path: Path) -> None:
    folder = write_llama(tmp_path, layers=24, initializer_range=0.6)

    for dtype in ("bfloat16", "float16"):
        TransformersSampler(folder, _config(dtype))


def test_a_model_of_four_positions_is_probed_within_them(tmp_path: Path) -> None:
    folder = write_gpt2(tmp_path, n_positions=4)
    sampler = TransformersSampler(folder, _config(max_new_tokens=2))

    assert len(list(sampler.sample([Prompt(id="a", content="12")]))) == 1


def test_a_vocabulary_of_two_words_is_probed() -> None:
    settings = {**DECODER, "vocab_size": 2, "eos_token_id": 1}
    causal, acausal = (
        _model(transformers.LlamaConfig(**settings, is_causal=is_causal))
        for is_causal in (True, False)
    )

    refuse_acausal(causal, "llama")
    with pytest.raises(CheckpointError, match="llama: its predictions depend"):
        refuse_acausal(acausal, "llama")


def test_a_configuration_that_cannot_be_run_is_refused_with_its_reason(tmp_path: Path) -> None:
    folder = write_llama(tmp_path)
    _edit(folder / "config.json", return_dict=False)

    with pytest.raises(CheckpointError, match=r"cannot be sampled: AttributeError: 'tuple'"):
        TransformersSampler(folder, _config())
    with pytest.raises(CheckpointError, match=r"cannot be scored: AttributeError: 'tuple'"):
        TeacherForcedScorer(AutoModelForCausalLM.from_pretrained(folder))


@pytest.mark.parametrize(
    "config",
    [
        transformers.OpenAIGPTConfig(
            vocab_size=WORDS, n_embd=32, n_layer=2, n_head=4, initializer_range=0.3
        ),
        transformers.RwkvConfig(
            vocab_size=WORDS, hidden_size=32, num_hidden_layers=2, attention_hidden_size=32
        ),
    ],
    ids=lambda config: config.model_type,
)
def test_an_architecture_that_leaves_the_cache_empty_is_refused(
    tmp_path: Path, config: Any
) -> None:
    folder = _write(tmp_path, config)
    assert config.vocab_size == len(character_tokenizer())

    with pytest.raises(RLRiskError, match="does not use the key-value cache"):
        TransformersSampler(folder, _config())


def test_no_memory_for_a_probe_is_no_fault_of_the_checkpoint() -> None:
    with (
        pytest.raises(SamplerError, match="llama: no memory for a probe"),
        refusing("llama", "cannot be sampled"),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory")
