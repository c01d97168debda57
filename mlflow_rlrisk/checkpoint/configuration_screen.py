"""What a configuration may not say: names of code, of files elsewhere, sizes without weights.

Pure checks over parsed JSON, done before transformers sees a folder. ``trust_remote_code=False``
alone is no boundary (CVE-2026-4372 ran code named by a private key of ``config.json``), and several
keys lead transformers on to files that nobody screened or hashed.
"""

import math
from collections.abc import Iterator
from typing import Any

from mlflow_rlrisk.errors import CheckpointError
from mlflow_rlrisk.plurals import counted

CODE_KEYS = frozenset({"auto_map", "trust_remote_code", "custom_pipelines", "custom_generate"})
DETOUR_KEYS = frozenset({"configuration_files", "fast_tokenizer_files", "transformers_weights"})
"""Keys that make transformers open other files than those that were screened and hashed."""
PRIVATE_KEYS_ALLOWED = frozenset(
    {
        "_name_or_path",
        "_commit_hash",
        "_attn_implementation_autoset",
        "_load_in_4bit",
        "_load_in_8bit",
        "_remove_final_layer_norm",
        "_sliding_window_pattern",
    }
)
"""Private keys that `save_pretrained` writes (the last two for OPT, Gemma 3); none names code."""
NUMBER_KEY, NUMBERS = "__float__", ("Infinity", "-Infinity", "NaN")
"""How transformers 5 writes what JSON has no number for, as Mamba's `time_step_limit` needs."""
LAYER_KEYS = frozenset(
    {"num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "encoder_layers"}
)
EXPERT_KEYS = frozenset({"num_experts", "num_local_experts", "n_routed_experts"})
MAX_EXPERTS = 65_536
WIDTH_KEYS = ("hidden_size", "n_embd", "d_model", "word_embed_proj_dim")
PACKED = 16
"""Numbers that quantized weights hold in one stored number, at most."""


def refuse_code(value: Any, where: str, *, allow_private: bool = False) -> None:
    """Refuse every way in which a configuration can name code or files of its own choice.

    Raises:
        CheckpointError: It does.
    """
    for key, item in _items(value):
        if key in CODE_KEYS:
            raise CheckpointError(f"{where}: key {key!r} asks to run code of the checkpoint")
        if key in DETOUR_KEYS:
            raise CheckpointError(f"{where}: key {key!r} leads to files that were not checked")
        is_known = key in PRIVATE_KEYS_ALLOWED or (key == NUMBER_KEY and item in NUMBERS)
        if key.startswith("_") and not is_known and not allow_private:
            raise CheckpointError(f"{where}: private key {key!r} is not allowed")
        names = list(_texts(item)) if key.endswith("_implementation") else []
        if any("/" in name for name in names):
            raise CheckpointError(f"{where}: key {key!r} names a kernel to download: {names[0]!r}")


def refuse_foreign_files(tokenizer_config: dict[str, Any], where: str) -> None:
    """Refuse a tokenizer whose vocabulary is read from a path of its own choice.

    Raises:
        CheckpointError: It does. ``special_tokens_map_file`` is a trace that nothing reads.
    """
    for key, value in tokenizer_config.items():
        is_read = key.endswith("_file") and key != "special_tokens_map_file"
        if is_read and isinstance(value, str) and ("/" in value or "\\" in value):
            raise CheckpointError(f"{where}: key {key!r} names a file outside of the checkpoint")


def refuse_absurd_sizes(config: dict[str, Any], num_tensors: int, num_parameters: int) -> None:
    """Refuse sizes that the stored weights cannot fill: building them would take all memory.

    Args:
        config: The parsed ``config.json``.
        num_tensors: Tensors in the weight files; every layer has at least one.
        num_parameters: Numbers in them; the embedding has vocabulary x width of them.

    Raises:
        CheckpointError: A size is beyond what is stored.
    """
    for key, value in _items(config):
        if not isinstance(value, int) or isinstance(value, bool):
            continue
        most = num_tensors if key in LAYER_KEYS else MAX_EXPERTS if key in EXPERT_KEYS else None
        if most is not None and value > most:
            raise CheckpointError(
                f"config.json: {key}={value:,}, but the weights have "
                f"{counted(num_tensors, 'tensor', spec=',')}"
            )
    for part in (config, config.get("text_config")):
        if isinstance(part, dict):
            _refuse_embedding(part, num_parameters)


def _refuse_embedding(config: dict[str, Any], num_parameters: int) -> None:
    widths = [config[key] for key in WIDTH_KEYS if isinstance(config.get(key), int)]
    words = config.get("vocab_size")
    if not isinstance(words, int) or not widths:
        return
    if math.prod((words, min(widths))) > PACKED * num_parameters:
        raise CheckpointError(
            f"config.json: an embedding of {words:,} x {min(widths):,}, but the weights hold "
            f"{num_parameters:,} numbers"
        )


def _items(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key with its value, however deep."""
    if isinstance(value, list):
        for item in value:
            yield from _items(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key, item
            yield from _items(item)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _texts(item)
