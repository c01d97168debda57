"""How far the weights of two checkpoints are apart, read tensor by tensor from safetensors."""

import re
from collections import defaultdict
from contextlib import ExitStack
from os.path import commonpath
from pathlib import Path
from typing import Any

import numpy as np

from mlflow_rlrisk.checkpoint import Checkpoint
from mlflow_rlrisk.checkpoint.files import Layout, weight_files
from mlflow_rlrisk.errors import CheckpointError
from mlflow_rlrisk.lineage.drift import WeightDrift

_PARTS = (
    ("norms", re.compile(r"norm|(^|\.)ln_", re.IGNORECASE)),
    ("head", re.compile(r"lm_head|embed_out|(^|\.)output\.")),
    ("embeddings", re.compile(r"embed|(^|\.)wte|(^|\.)wpe")),
    ("attention", re.compile(r"attn|attention")),
    ("feed-forward", re.compile(r"mlp|ffn|feed_forward|expert")),
)
_BUFFERS = re.compile(r"(^|\.)((attn|attention)\.bias|masked_bias|inv_freq)$")
"""Causal masks (GPT-2, GPT-NeoX), what they fill in (-1e9) and rotary frequencies, which older
checkpoints store beside their weights: nobody trains them, and a mask would outweigh all else."""
_BLOCK = 1 << 22
"""Numbers compared at once."""


def weight_drift(before: Checkpoint, after: Checkpoint) -> WeightDrift:
    """Compare the weights of two checkpoints, in float64 sums over their stored numbers.

    Files that are not loaded, and constants stored beside the weights, are left out.

    Args:
        before: The earlier checkpoint.
        after: The later one.

    Raises:
        CheckpointError: One has no safetensors weights, they share no tensor, or one holds numbers
            that are not finite.
    """
    with ExitStack() as stack:
        first, second = (_tensors(stack, checkpoint) for checkpoint in (before, after))
        shared = [name for name in first if name in second]
        changes: dict[str, float] = defaultdict(float)
        norms: dict[str, float] = defaultdict(float)
        only_after = [name for name in second if name not in first]
        unchanged = compared = 0
        for name in shared:
            old, new = _read(first[name], name), _read(second[name], name)
            if old.shape != new.shape:
                only_after.append(name)
                continue
            compared += 1
            unchanged += bool((old == new).all())
            part = part_of(name)
            for start in range(0, old.size, _BLOCK):
                block = old.ravel()[start : start + _BLOCK].astype(np.float64)
                change = new.ravel()[start : start + _BLOCK].astype(np.float64) - block
                norms[part] += float(block @ block)
                changes[part] += float(change @ change)
            if not np.isfinite(norms[part] + changes[part]):
                raise CheckpointError(f"{name} holds numbers that are not finite")
    if not compared:
        raise CheckpointError(
            f"{before.display_name} and {after.display_name} share no tensor to compare"
        )
    total = _relative(sum(changes.values()), sum(norms.values()))
    return WeightDrift(
        total=total,
        by_part={part: _relative(changes[part], norms[part]) for part in sorted(norms)},
        num_unchanged=unchanged,
        num_tensors=compared,
        only_before=tuple(sorted(name for name in first if name not in second)),
        only_after=tuple(sorted(only_after)),
    )


def part_of(name: str) -> str:
    """The part of the network that a tensor belongs to, by its name.

    >>> part_of("model.layers.0.self_attn.q_proj.weight")
    'attention'
    """
    return next((part for part, pattern in _PARTS if pattern.search(name)), "other")


def _relative(change: float, norm: float) -> float:
    """Norm of the change over the norm before; the norm itself where there was nothing before."""
    return float(np.sqrt(change / norm)) if norm > 0.0 else float(np.sqrt(change))


def _tensors(stack: ExitStack, checkpoint: Checkpoint) -> dict[str, Any]:
    from safetensors import safe_open

    folders = checkpoint.model_path, checkpoint.tokenizer_path
    root = Path(commonpath(folders))
    layout = Layout(root=root, model_path=folders[0], tokenizer_path=folders[1])
    loaded = weight_files(layout, allow_pickle=checkpoint.allow_pickle)
    files = [path for path in loaded if path.suffix == ".safetensors"]
    if not files:
        raise CheckpointError(f"{checkpoint.display_name}: no safetensors weights to compare")
    found = {}
    for file in files:
        opened = stack.enter_context(safe_open(file, framework="pt", device="cpu"))
        names = [name for name in opened.keys() if not _BUFFERS.search(name)]  # noqa: SIM118
        found.update(dict.fromkeys(names, opened))
    return found


def _read(opened: Any, name: str) -> "np.ndarray[Any, Any]":
    tensor = opened.get_tensor(name)
    return np.asarray((tensor.float() if tensor.is_floating_point() else tensor).numpy())
