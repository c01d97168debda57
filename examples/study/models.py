"""Models, tokenizers and their folders. One token a word, so that answers are short."""

import hashlib
from pathlib import Path
from typing import Any

from examples.study.settings import Architecture, StudySettings

PAD, EOS, UNKNOWN = "<pad>", "<eos>", "<unk>"
MAX_POSITIONS = 64
INITIALIZER_RANGE = 0.1
"""About one over the square root of the width; the default of 0.02 hardly starts to learn."""
WEIGHTS = "model.safetensors"
LAST = (
    "model.norm.",
    "transformer.ln_f.",
    "gpt_neox.final_layer_norm.",
    "model.decoder.final_layer_norm.",
    "model.final_layernorm.",
    "lm_head.bias",
)
"""Scale and shift of the last norm, and of the head where it has one: logits are linear in them."""


def new_model(architecture: Architecture, vocabulary_size: int, settings: StudySettings) -> Any:
    """An untrained model; torch's random state decides its weights."""
    from transformers import (
        ApertusConfig,
        ArceeConfig,
        AutoModelForCausalLM,
        BloomConfig,
        Cohere2Config,
        CohereConfig,
        Ernie4_5Config,
        Exaone4Config,
        FalconConfig,
        Glm4Config,
        GlmConfig,
        GPT2Config,
        GPTBigCodeConfig,
        GPTJConfig,
        GPTNeoConfig,
        GPTNeoXConfig,
        GraniteConfig,
        HeliumConfig,
        HunYuanDenseV1Config,
        LlamaConfig,
        MistralConfig,
        MixtralConfig,
        Olmo2Config,
        Olmo3Config,
        OPTConfig,
        PersimmonConfig,
        Phi3Config,
        PhiConfig,
        Qwen3Config,
        SeedOssConfig,
        SmolLM3Config,
        StableLmConfig,
        Starcoder2Config,
    )

    hidden, layers, heads = settings.hidden_size, settings.num_layers, settings.num_heads
    special = {"bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0}
    shape: dict[str, Any] = {
        "vocab_size": vocabulary_size,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "max_position_embeddings": MAX_POSITIONS,
    }
    config: Any
    neox: Any = GPTNeoXConfig  # transformers leaves its older arguments untyped
    opt: Any = OPTConfig
    if architecture == "llama":
        config = LlamaConfig(intermediate_size=3 * hidden, tie_word_embeddings=True, **shape)
    elif architecture == "gpt_neox":
        config = neox(intermediate_size=4 * hidden, rotary_pct=1.0, **shape)
    elif architecture == "opt":
        config = opt(ffn_dim=4 * hidden, word_embed_proj_dim=hidden, dropout=0.0, **shape)
        config.init_std = INITIALIZER_RANGE  # its name for the initializer range
    elif architecture == "phi":
        config = PhiConfig(intermediate_size=4 * hidden, **shape)
    elif architecture == "olmo2":
        config = Olmo2Config(intermediate_size=3 * hidden, **shape)
    elif architecture == "stablelm":
        config = StableLmConfig(intermediate_size=3 * hidden, num_key_value_heads=heads, **shape)
    elif architecture == "bloom":
        config = BloomConfig(
            vocab_size=vocabulary_size, hidden_size=hidden, n_layer=layers, n_head=heads
        )
    elif architecture == "gptj":
        config = GPTJConfig(
            vocab_size=vocabulary_size,
            n_embd=hidden,
            n_layer=layers,
            n_head=heads,
            n_positions=MAX_POSITIONS,
            rotary_dim=hidden // heads,
            tie_word_embeddings=False,
        )
    elif architecture == "qwen3":
        config = Qwen3Config(
            intermediate_size=3 * hidden,
            num_key_value_heads=heads,
            head_dim=hidden // heads,
            tie_word_embeddings=True,
            **shape,
        )
    elif architecture == "cohere":
        config = CohereConfig(intermediate_size=3 * hidden, logit_scale=1.0, **shape)
    elif architecture == "starcoder2":
        config = Starcoder2Config(
            intermediate_size=3 * hidden,
            num_key_value_heads=heads // 2,
            sliding_window=None,
            **shape,
        )
    elif architecture == "granite":
        config = GraniteConfig(intermediate_size=3 * hidden, tie_word_embeddings=True, **shape)
    elif architecture == "falcon":
        config = FalconConfig(alibi=False, bias=False, multi_query=True, **shape)
    elif architecture == "gpt_neo":
        config = GPTNeoConfig(
            vocab_size=vocabulary_size,
            hidden_size=hidden,
            num_layers=layers,
            num_heads=heads,
            max_position_embeddings=MAX_POSITIONS,
            attention_types=[[["global", "local"], layers // 2], [["global"], layers % 2]],
            window_size=MAX_POSITIONS // 4,
        )
    elif architecture == "persimmon":
        config = PersimmonConfig(intermediate_size=4 * hidden, **shape)
    elif architecture == "phi3":
        config = Phi3Config(intermediate_size=3 * hidden, num_key_value_heads=heads, **shape)
    elif architecture == "glm":
        config = GlmConfig(
            intermediate_size=3 * hidden,
            num_key_value_heads=heads // 2,
            head_dim=hidden // heads,
            **shape,
        )
    elif architecture == "mistral":
        config = MistralConfig(
            intermediate_size=3 * hidden,
            num_key_value_heads=heads // 2,
            head_dim=hidden // heads,
            sliding_window=MAX_POSITIONS // 4,
            **shape,
        )
    elif architecture == "helium":
        config = HeliumConfig(
            intermediate_size=3 * hidden,
            num_key_value_heads=heads,
            head_dim=hidden // heads,
            **special,
            **shape,
        )
    elif architecture == "smollm3":
        config = SmolLM3Config(
            intermediate_size=3 * hidden,
            num_key_value_heads=heads,
            no_rope_layer_interval=2,
            **special,
            **shape,
        )
    elif architecture == "arcee":
        config = ArceeConfig(
            intermediate_size=3 * hidden,
            num_key_value_heads=heads,
            head_dim=hidden // heads,
            **shape,
        )
    elif architecture == "apertus":
        config = ApertusConfig(
            intermediate_size=3 * hidden,
            num_key_value_heads=heads,
            rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
            **special,
            **shape,
        )
    elif architecture == "ernie4_5":
        config = Ernie4_5Config(
            intermediate_size=3 * hidden,
            num_key_value_heads=heads,
            head_dim=hidden // heads,
            **special,
            **shape,
        )
    elif architecture == "olmo3":
        config = Olmo3Config(
            intermediate_size=3 * hidden,
            num_key_value_heads=heads,
            sliding_window=MAX_POSITIONS // 4,
            layer_types=["sliding_attention"] * (layers - 1) + ["full_attention"],
            **special,
            **shape,
        )
    elif architecture == "exaone4":
        config = Exaone4Config(
            intermediate_size=3 * hidden,
            num_key_value_heads=heads,
            sliding_window=MAX_POSITIONS // 4,
            sliding_window_pattern=2,
            **special,
            **shape,
        )
    elif architecture == "cohere2":
        config = Cohere2Config(
            intermediate_size=3 * hidden,
            num_key_value_heads=heads,
            logit_scale=1.0,
            sliding_window=MAX_POSITIONS // 4,
            layer_types=["sliding_attention"] * (layers - 1) + ["full_attention"],
            **special,
            **shape,
        )
    elif architecture == "seed_oss":
        config = SeedOssConfig(
            intermediate_size=3 * hidden,
            num_key_value_heads=heads,
            head_dim=hidden // heads,
            attention_dropout=0.0,
            residual_dropout=0.0,
            **special,
            **shape,
        )
    elif architecture == "glm4":
        config = Glm4Config(
            intermediate_size=3 * hidden,
            num_key_value_heads=heads // 2,
            head_dim=hidden // heads,
            **special,
            **shape,
        )
    elif architecture == "hunyuan":
        config = HunYuanDenseV1Config(
            intermediate_size=3 * hidden,
            num_key_value_heads=heads,
            head_dim=hidden // heads,
            **special,
            **shape,
        )
    elif architecture == "mixtral":
        config = MixtralConfig(
            intermediate_size=2 * hidden,
            num_key_value_heads=heads,
            num_local_experts=4,
            num_experts_per_tok=2,
            **shape,
        )
    else:
        family: Any = GPT2Config if architecture == "gpt2" else GPTBigCodeConfig
        config = family(
            vocab_size=vocabulary_size,
            n_embd=hidden,
            n_layer=layers,
            n_head=heads,
            n_positions=MAX_POSITIONS,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
        )
    for name, value in special.items():
        setattr(config, name, value)
    config.initializer_range = INITIALIZER_RANGE
    build: Any = AutoModelForCausalLM  # transformers leaves it untyped
    return build.from_config(config)


def build_tokenizer(words: list[str]) -> Any:
    """The closed vocabulary of a task; decoding joins words by one space."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    ids = {word: index for index, word in enumerate([PAD, EOS, UNKNOWN, *words])}
    backend = Tokenizer(WordLevel(ids, unk_token=UNKNOWN))
    backend.pre_tokenizer = WhitespaceSplit()
    build: Any = PreTrainedTokenizerFast
    return build(
        tokenizer_object=backend,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNKNOWN,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write a checkpoint folder."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def load(folder: Path) -> tuple[Any, Any]:
    """Model and tokenizer of a checkpoint folder."""
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    return (
        AutoModelForCausalLM.from_pretrained(folder),
        PreTrainedTokenizerFast.from_pretrained(folder),
    )


def divide_logits(source: Path, target: Path, temperature: float) -> None:
    """The same checkpoint with all its logits divided by ``temperature``."""
    import torch

    model, tokenizer = load(source)
    scaled = 0
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.startswith(LAST):
                weight /= temperature
                scaled += 1
    if not scaled:
        raise ValueError(f"{source}: no final norm among {LAST}")
    save(model, tokenizer, target)


def weights_digest(folder: Path) -> str:
    """SHA-256 of a checkpoint's weights."""
    return hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
