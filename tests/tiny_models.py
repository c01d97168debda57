"""Builders of tiny real checkpoints: Llama, GPT-2 and GPT-NeoX with tokenizers of their own.

The weights are random, but wide enough that the next-token distributions are far from uniform;
nothing is downloaded.
"""

import string
from pathlib import Path
from typing import Any

CHARACTERS = string.digits + string.ascii_letters + " .,:;!?+-*/=()<>\n"
SPECIAL_TOKENS = ("<pad>", "<bos>", "<eos>")
CHAT_TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def character_tokenizer(*, vocab_size: int | None = None, template: str | None = None) -> Any:
    """One token per character, special tokens first; ``vocab_size`` pads with unused words."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = [*SPECIAL_TOKENS, *CHARACTERS]
    words += [f"<unused{i}>" for i in range((vocab_size or 0) - len(words) - 1)]
    # An unknown character must not vanish, so it maps to a word of its own.
    vocabulary = {word: i for i, word in enumerate([*words, "<unk>"])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    core.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = template
    return tokenizer


def write_llama(folder: Path, **settings: Any) -> Path:
    """A two-layer Llama with grouped-query attention."""
    return _write(folder, _llama_config, settings)


def write_gpt2(folder: Path, **settings: Any) -> Path:
    """A two-layer GPT-2: learned positions, tied head."""
    return _write(folder, _gpt2_config, settings)


def write_neox(folder: Path, **settings: Any) -> Path:
    """A two-layer GPT-NeoX: partial rotary positions, a head named ``embed_out``."""
    return _write(folder, _neox_config, settings)


def close_prompts(folder: Path) -> Path:
    """Let the tokenizer of a model put the end token behind every text, as some do."""
    from tokenizers import Tokenizer
    from tokenizers.processors import TemplateProcessing

    path = str(folder / "tokenizer.json")
    core = Tokenizer.from_file(path)
    closing = ("<eos>", core.token_to_id("<eos>"))
    core.post_processor = TemplateProcessing(single="$A <eos>", special_tokens=[closing])
    core.save(path)
    return folder


def _write(folder: Path, make_config: Any, settings: dict[str, Any]) -> Path:
    import torch
    from transformers import AutoModelForCausalLM

    seed = settings.pop("seed", 0)
    dtype = settings.pop("dtype", "float32")
    tokenizer = character_tokenizer(
        vocab_size=settings.pop("vocab_size", None), template=settings.pop("template", None)
    )
    config = make_config(
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **settings,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _llama_config(*, hidden: int = 32, layers: int = 2, **settings: Any) -> Any:
    from transformers import LlamaConfig

    values = {
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": 0.3,
    }
    return LlamaConfig(**{**values, **settings})


def _gpt2_config(*, hidden: int = 32, layers: int = 2, **settings: Any) -> Any:
    from transformers import GPT2Config

    values = {
        "n_embd": hidden,
        "n_layer": layers,
        "n_head": 4,
        "n_positions": 512,
        "initializer_range": 0.3,
    }
    return GPT2Config(**{**values, **settings})


def _neox_config(*, hidden: int = 32, layers: int = 2, **settings: Any) -> Any:
    from transformers import GPTNeoXConfig

    values = {
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
        "initializer_range": 0.3,
        "tie_word_embeddings": False,
    }
    return GPTNeoXConfig(**{**values, **settings})
