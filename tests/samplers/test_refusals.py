"""Checkpoints that would be sampled into plausible nonsense are refused with their reason."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mlflow_rlrisk.config import AssessmentConfig, SamplingConfig
from mlflow_rlrisk.errors import CheckpointError, SamplerError
from mlflow_rlrisk.records import Message, Prompt
from mlflow_rlrisk.samplers.transformers import TransformersSampler
from tests.tiny_models import write_gpt2, write_llama

CONFIG = AssessmentConfig(sampling=SamplingConfig(num_samples=2, max_new_tokens=4), device="cpu")
PROMPT = Prompt(id="p0", content="1 + 2 = ?")


def _sample(folder: Path, *prompts: Prompt) -> None:
    list(TransformersSampler(folder, CONFIG).sample(prompts or (PROMPT,)))


def _edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def _edit_weights(folder: Path, change: Any) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def _write_bpe_qwen2(folder: Path) -> None:
    """A checkpoint of model_type qwen2 whose own tokenizer keeps words of one character."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    write_llama(folder)
    config = Qwen2Config(
        vocab_size=83,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        eos_token_id=2,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)


def test_a_healthy_checkpoint_is_sampled(tmp_path: Path) -> None:
    _sample(write_llama(tmp_path))


def test_the_tokenizer_that_transformers_puts_in_place_for_qwen2_is_caught(tmp_path: Path) -> None:
    # transformers 5 loads Qwen2Tokenizer for model_type qwen2, whatever tokenizer is stored.
    _write_bpe_qwen2(tmp_path)

    with pytest.raises(CheckpointError, match="tokenizer"):
        _sample(tmp_path)


def test_a_qwen2_checkpoint_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    # Here AutoTokenizer returns an empty tokenizer instead of failing.
    _write_bpe_qwen2(tmp_path)
    for path in tmp_path.glob("tokenizer*"):
        path.unlink()

    with pytest.raises(CheckpointError, match="no tokenizer"):
        _sample(tmp_path)


def test_a_tokenizer_with_more_words_than_the_embedding_is_refused(tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "small")
    other = write_llama(tmp_path / "large", vocab_size=200)
    shutil.copy(other / "tokenizer.json", folder)

    with pytest.raises(CheckpointError, match="200 words, the model's embedding 83 rows"):
        _sample(folder)


def test_a_prompt_with_unknown_characters_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not know parts of prompt p1"):
        _sample(write_llama(tmp_path), PROMPT, Prompt(id="p1", content="1 + ∞"))


def test_a_tokenizer_that_lowercases_is_refused_and_shows_both_texts(tmp_path: Path) -> None:
    folder = write_llama(tmp_path)
    _edit(folder / "tokenizer.json", normalizer={"type": "Lowercase"})

    with pytest.raises(CheckpointError, match="round-trip prompt p1: 'ABC' comes back as 'abc'"):
        _sample(folder, Prompt(id="p1", content="ABC"))


def test_an_empty_prompt_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"prompt p1 .* into no tokens"):
        _sample(write_llama(tmp_path), Prompt(id="p1", content=""))


def test_a_chat_without_a_template_is_refused(tmp_path: Path) -> None:
    chat = Prompt(id="p1", content=(Message(role="user", content="1+1?"),))

    with pytest.raises(
        CheckpointError, match="p1 is a chat and the tokenizer has no chat template"
    ):
        _sample(write_llama(tmp_path), chat)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('no system turns') }}", "fails on prompt p1: no system turns"),
        ("{{ messages[0]['content'] + 1 }}", "fails on prompt p1"),
        (
            "{% for m in messages if m['role'] == 'user' %}{{ m['content'] }}{% endfor %}.",
            r"leaves out the last turn of prompt p1 \(role 'human': '1\+1\?'\)",
        ),
    ],
)
def test_a_template_that_raises_or_drops_the_question_is_refused(
    tmp_path: Path, template: str, message: str
) -> None:
    folder = write_llama(tmp_path, template=template)
    chat = Prompt(id="p1", content=(Message(role="human", content=" 1+1?"),))

    with pytest.raises(CheckpointError, match=message):
        _sample(folder, chat)


@pytest.mark.parametrize("value", ["2", True, 2.0, [2, None], -1, [2, 2**31], 2**70])
def test_a_stop_token_that_is_no_token_id_is_refused(tmp_path: Path, value: object) -> None:
    folder = write_llama(tmp_path)
    _edit(folder / "generation_config.json", eos_token_id=value)

    with pytest.raises(CheckpointError, match="eos_token_id of its generation_config is"):
        _sample(folder)


def test_a_stop_token_beyond_the_vocabulary_may_stand_for_a_padded_word(tmp_path: Path) -> None:
    folder = write_llama(tmp_path)
    _edit(folder / "generation_config.json", eos_token_id=[2, 2**31 - 1])

    _sample(folder)


def test_a_missing_weight_is_refused_instead_of_filled_at_random(tmp_path: Path) -> None:
    folder = write_llama(tmp_path)
    _edit_weights(folder, lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"))

    with pytest.raises(CheckpointError, match=r"1 weight is missing.*layers\.1\.mlp\.up_proj"):
        _sample(folder)


def test_a_weight_of_another_shape_is_refused(tmp_path: Path) -> None:
    folder = write_llama(tmp_path)
    name = "model.layers.0.mlp.up_proj.weight"
    _edit_weights(folder, lambda tensors: tensors.update({name: torch.zeros(3, 5)}))

    with pytest.raises(CheckpointError, match="up_proj"):
        _sample(folder)


def test_weights_of_an_injected_adapter_are_refused(tmp_path: Path) -> None:
    # mlflow writes a PEFT base with its layers renamed: the real ones would be random.
    folder = write_llama(tmp_path)

    def rename(tensors: dict[str, torch.Tensor]) -> None:
        weight = tensors.pop("model.layers.0.self_attn.q_proj.weight")
        tensors["model.layers.0.self_attn.q_proj.base_layer.weight"] = weight

    _edit_weights(folder, rename)

    with pytest.raises(CheckpointError, match="q_proj"):
        _sample(folder)


def test_a_tied_head_is_no_missing_weight(tmp_path: Path) -> None:
    _sample(write_gpt2(tmp_path / "gpt2"))
    _sample(write_llama(tmp_path / "llama", tie_word_embeddings=True))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    folder = write_llama(tmp_path)
    _edit_weights(
        folder, lambda tensors: tensors["model.layers.1.mlp.down_proj.weight"][3].fill_(value)
    )

    with pytest.raises(CheckpointError, match=r"layers\.1\.mlp\.down_proj\.weight has values"):
        _sample(folder)


def test_finite_weights_with_logits_that_overflow_are_refused(tmp_path: Path) -> None:
    folder = write_llama(tmp_path)
    _edit_weights(folder, lambda tensors: tensors["lm_head.weight"].fill_(3e38))

    with pytest.raises(CheckpointError, match="logits are not finite"):
        _sample(folder)


def test_a_vocabulary_of_one_word_is_refused(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = write_llama(tmp_path)
    config = LlamaConfig(
        vocab_size=1, hidden_size=32, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=4, pad_token_id=None, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)

    with pytest.raises(CheckpointError, match="vocabulary has 1 token"):
        _sample(folder)


def test_an_unknown_architecture_is_refused(tmp_path: Path) -> None:
    folder = write_llama(tmp_path)
    _edit(folder / "config.json", model_type="nosuch")

    with pytest.raises(CheckpointError, match="nosuch"):
        _sample(folder)


def test_an_architecture_without_keys_and_values_is_refused(tmp_path: Path) -> None:
    from transformers import MambaConfig, MambaForCausalLM

    folder = write_llama(tmp_path)
    config = MambaConfig(vocab_size=83, hidden_size=32, num_hidden_layers=1, state_size=4)
    MambaForCausalLM(config).save_pretrained(folder)

    with pytest.raises((SamplerError, CheckpointError)):
        _sample(folder)


def test_a_replaced_tokenizer_is_caught_by_its_decoder_where_the_prompts_encode_alike(
    tmp_path: Path,
) -> None:
    # Completions hold tokens that no prompt does: here those that stand for single bytes.
    _write_bpe_qwen2(tmp_path)
    stored = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    words = stored["model"]["vocab"]
    letters = {word for word in words if len(word) == 1 and word.isascii() and word.isalpha()}
    stored["model"]["vocab"] = {
        f"<0x{ord(word):02X}>" if word in letters else word: i for word, i in words.items()
    }
    stored["decoder"] = {"type": "ByteFallback"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(stored), encoding="utf-8")

    with pytest.raises(CheckpointError, match=r"which decodes \d+ of \d+ tokens otherwise"):
        _sample(tmp_path)
