"""The tokens that end a completion, by the file that names them."""

from typing import Any

from mlflow_rlrisk.checkpoint import Checkpoint


def stop_ids(config: Any, generation_config: Any, tokenizer: Any) -> dict[str, list[int]]:
    """Stop tokens by their source; the union of all ends a rollout.

    Args:
        config: The model's configuration, a ``PreTrainedConfig``.
        generation_config: Its ``GenerationConfig``; of it only the stop tokens take part.
        tokenizer: The tokenizer.
    """
    sources = {
        "config": getattr(config.get_text_config(), "eos_token_id", None),
        "generation_config": getattr(generation_config, "eos_token_id", None),
        "tokenizer": tokenizer.eos_token_id,
    }
    return {
        name: [] if ids is None else [ids] if isinstance(ids, int) else sorted(ids)
        for name, ids in sources.items()
    }


def stored_stop_ids(checkpoint: Checkpoint, tokenizer: Any) -> dict[str, list[int]]:
    """`stop_ids` of a checkpoint whose model is not loaded by transformers."""
    from transformers import AutoConfig, GenerationConfig

    config = AutoConfig.from_pretrained(checkpoint.model_path, local_files_only=True)
    try:
        generation_config = GenerationConfig.from_pretrained(
            checkpoint.model_path, local_files_only=True
        )
    except OSError:  # no generation_config.json: transformers derives one, so do we
        generation_config = GenerationConfig.from_model_config(config)
    return stop_ids(config, generation_config, tokenizer)
