"""The tokens that end a completion, by the file that names them."""

from collections.abc import Mapping, Sequence
from typing import Any

from mlflow_rlrisk.checkpoint import Checkpoint
from mlflow_rlrisk.errors import CheckpointError
from mlflow_rlrisk.samplers.model_loading import load_config

LARGEST_ID = 2**31 - 1
"""Ids beyond the vocabulary may stand for padded words; no vocabulary reaches this one, and engines
keep ids in 32 bits."""


def stop_ids(config: Any, generation_config: Any, tokenizer: Any) -> dict[str, list[int]]:
    """Stop tokens by their source; the union of all ends a rollout.

    Args:
        config: The model's configuration, a ``PreTrainedConfig``.
        generation_config: Its ``GenerationConfig``; of it only the stop tokens take part.
        tokenizer: The tokenizer.

    Raises:
        CheckpointError: One of them names something that is no token id.
    """
    sources = {
        "config": getattr(config.get_text_config(), "eos_token_id", None),
        "generation_config": getattr(generation_config, "eos_token_id", None),
        "tokenizer": tokenizer.eos_token_id,
    }
    return {name: _token_ids(name, ids) for name, ids in sources.items()}


def _token_ids(name: str, given: Any) -> list[int]:
    ids = [] if given is None else given if isinstance(given, list | tuple) else [given]
    is_known = (type(each) is int and 0 <= each <= LARGEST_ID for each in ids)
    if not all(is_known):  # a type of its own, because True would pass for token 1
        raise CheckpointError(
            f"eos_token_id of its {name} is {given!r}; token ids in 0..{LARGEST_ID} are needed"
        )
    return sorted(ids)


def stored_stop_ids(checkpoint: Checkpoint, tokenizer: Any) -> dict[str, list[int]]:
    """`stop_ids` of a checkpoint whose model is not loaded by transformers."""
    from transformers import GenerationConfig

    config = load_config(checkpoint)
    try:
        generation_config = GenerationConfig.from_pretrained(
            checkpoint.model_path, local_files_only=True
        )
    except OSError:  # no generation_config.json: transformers derives one, so do we
        generation_config = GenerationConfig.from_model_config(config)
    return stop_ids(config, generation_config, tokenizer)


def all_stop_ids(checkpoint: Checkpoint, tokenizer: Any) -> list[int]:
    """Every token that ends a rollout of a checkpoint, whichever file names it."""
    return union(stored_stop_ids(checkpoint, tokenizer))


def union(by_source: Mapping[str, Sequence[int]], num_words: int = LARGEST_ID + 1) -> list[int]:
    """The tokens of all sources, ascending, of those that a head of so many words can draw."""
    found = {token for ids in by_source.values() for token in ids}
    return sorted(token for token in found if token < num_words)
