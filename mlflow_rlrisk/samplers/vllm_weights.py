"""What vLLM will read of a checkpoint's folder: it must be what was screened and hashed.

transformers loads ``model.safetensors`` or the shards that an index names, and so does our digest.
vLLM reads every ``*.safetensors`` of the folder, or, where an index lies there, the files that it
names, even beside a ``model.safetensors``: a base model's shards that were left in the folder of
its fine-tuned successor would be sampled instead.
"""

from glob import glob
from pathlib import Path

from mlflow_rlrisk.checkpoint import Checkpoint
from mlflow_rlrisk.checkpoint.files import SAFE_WEIGHTS, Layout, read_json, weight_files
from mlflow_rlrisk.checkpoint.safetensors_header import read_header
from mlflow_rlrisk.errors import CheckpointError

NO_WEIGHTS = ("training_args.bin", "optimizer.bin")
"""Pickled files that vLLM leaves out."""

CONFIG_FORMAT = "hf"
"""Left to itself, vLLM prefers a ``params.json`` in Mistral's format to ``config.json``."""


def load_format(checkpoint: Checkpoint) -> str:
    """The ``load_format`` of vLLM for the weights that are there."""
    return "auto" if checkpoint.num_parameters is None else "safetensors"


def refuse_other_weights(checkpoint: Checkpoint) -> None:
    """Refuse a folder of which vLLM would read other files than the digest covers.

    Raises:
        CheckpointError: It would.
    """
    own = {path.name for path in _own_files(checkpoint)}
    read = _read_by_vllm(_layout(checkpoint))
    if read != own:
        raise CheckpointError(
            f"{checkpoint.display_name}: its weights are {_listed(own)}, but vLLM would read "
            f"{_listed(read)} of its folder: move what does not belong to it away"
        )


def stored_kinds(checkpoint: Checkpoint) -> set[str]:
    """The dtypes of the tensors that are stored, in safetensors' names; empty for pickled ones."""
    if checkpoint.num_parameters is None:
        return set()
    headers = [read_header(path) for path in _own_files(checkpoint)]
    return {str(tensor["dtype"]) for header in headers for tensor in header.values()}


def _own_files(checkpoint: Checkpoint) -> list[Path]:
    files = weight_files(_layout(checkpoint), allow_pickle=checkpoint.allow_pickle)
    return [path for path in files if path.suffix != ".json"]


def _layout(checkpoint: Checkpoint) -> Layout:
    folder = checkpoint.model_path
    return Layout(root=folder, model_path=folder, tokenizer_path=folder)


def _read_by_vllm(layout: Layout) -> set[str]:
    folder = layout.model_path
    safe = set(glob("*.safetensors", root_dir=folder))
    if not safe:
        return {n for n in glob("*.bin", root_dir=folder) if not n.endswith(NO_WEIGHTS)}
    index = folder / SAFE_WEIGHTS[1]
    if not index.is_file():
        return safe
    return safe & {Path(str(name)).name for name in _named_by(layout, index)}


def _named_by(layout: Layout, index: Path) -> list[object]:
    named = read_json(layout, index).get("weight_map")
    return list(named.values()) if isinstance(named, dict) else []


def _listed(names: set[str]) -> str:
    shown = sorted(names)
    more = f" and {len(shown) - 3} more" if len(shown) > 3 else ""
    return (", ".join(shown[:3]) or "nothing") + more
