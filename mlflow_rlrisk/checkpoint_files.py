"""The files of a checkpoint: where they lie, whether they are safe, what they hash to.

Everything is read as data, before transformers sees the folder: ``trust_remote_code=False`` alone
is no boundary (CVE-2026-4372 ran code named by a private key of ``config.json``).
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mlflow_rlrisk.content import content_digest, file_entry
from mlflow_rlrisk.errors import CheckpointError, ModelReferenceError
from mlflow_rlrisk.safetensors_header import count_parameters, read_header

MAX_JSON_BYTES = 200 * 2**20
"""Tokenizers with large vocabularies take tens of megabytes; beyond this it is no such file."""

CODE_KEYS = frozenset({"auto_map", "trust_remote_code", "custom_pipelines", "custom_generate"})
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

TOKENIZER_PATTERNS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "*.model",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/*.jinja",
)
MODEL_PATTERNS = ("config.json", "generation_config.json")
SAFE_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
PICKLED_WEIGHTS = ("pytorch_model.bin", "pytorch_model.bin.index.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where the parts of a checkpoint lie; all inside ``root``."""

    root: Path
    model_path: Path
    tokenizer_path: Path


def find_layout(folder: Path) -> Layout:
    """Recognise a raw Hugging Face folder or what ``mlflow.transformers`` writes.

    Raises:
        ModelReferenceError: There is no such folder.
        CheckpointError: It is neither, or it refers to weights that lie elsewhere.
    """
    if not folder.is_dir():
        raise ModelReferenceError(f"{folder} is not a folder")
    root = folder.resolve()
    if (root / "config.json").is_file():
        return Layout(root=root, model_path=root, tokenizer_path=root)
    flavor = _transformers_flavor(root)
    if flavor is None:
        inside = ", ".join(sorted(path.name for path in root.iterdir())[:12]) or "nothing"
        raise CheckpointError(f"{folder} has no config.json; it contains {inside}")
    if "peft_adaptor" in flavor or (root / "peft").is_dir():
        raise CheckpointError(f"{folder} is an adapter without its base: merge and log it whole")
    model_path = root / "model"
    if not (model_path / "config.json").is_file():
        hub_name = flavor.get("source_model_name")
        where = f": it only names {hub_name}" if hub_name else ""
        raise CheckpointError(f"{folder} holds no weights{where}; log it with save_pretrained=True")
    tokenizer_path = root / "components" / "tokenizer"
    if not tokenizer_path.is_dir():
        tokenizer_path = model_path
    return Layout(root=root, model_path=model_path, tokenizer_path=tokenizer_path)


def _transformers_flavor(root: Path) -> Mapping[str, Any] | None:
    path = root / "MLmodel"
    if not path.is_file():
        return None
    try:
        description = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path.name} cannot be read: {error}") from error
    flavors = description.get("flavors", {}) if isinstance(description, dict) else {}
    flavor = flavors.get("transformers")
    if flavor is None:
        raise CheckpointError(f"MLmodel has flavors {sorted(flavors)}; transformers is needed")
    return dict(flavor)


def read_config(layout: Layout) -> dict[str, Any]:
    """Read ``config.json`` and refuse every way in which a configuration can name code.

    Raises:
        CheckpointError: Unreadable, without ``model_type``, or it names code.
    """
    config = read_json(layout, layout.model_path / "config.json")
    if not isinstance(config.get("model_type"), str):
        raise CheckpointError("config.json has no model_type")
    _refuse_code(config, "config.json")
    for path in (
        layout.model_path / "generation_config.json",
        layout.tokenizer_path / "tokenizer_config.json",
    ):
        if path.is_file():
            _refuse_code(read_json(layout, path), path.name, allow_private=True)
    return config


def _refuse_code(value: Any, where: str, *, allow_private: bool = False) -> None:
    if isinstance(value, list):
        for item in value:
            _refuse_code(item, where, allow_private=allow_private)
    if not isinstance(value, dict):
        return
    for key, item in value.items():
        if key in CODE_KEYS:
            raise CheckpointError(f"{where}: key {key!r} asks to run code of the checkpoint")
        if key.startswith("_") and key not in PRIVATE_KEYS_ALLOWED and not allow_private:
            raise CheckpointError(f"{where}: private key {key!r} is not allowed")
        _refuse_code(item, where, allow_private=allow_private)


def read_json(layout: Layout, path: Path) -> dict[str, Any]:
    """Read a JSON object that lies inside the checkpoint.

    Raises:
        CheckpointError: It lies outside, is too large or is no JSON object.
    """
    _inside(layout, path)
    if path.stat().st_size > MAX_JSON_BYTES:
        raise CheckpointError(f"{path.name} has {path.stat().st_size} bytes; that is no such file")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path.name} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path.name} is no JSON object")
    return value


def screen_weights(layout: Layout, *, allow_pickle: bool) -> int | None:
    """Check that the weights are there, whole and not pickled.

    Returns:
        How many numbers the safetensors files hold; ``None`` for pickled weights.

    Raises:
        CheckpointError: Weights are missing, damaged or pickled.
    """
    files = weight_files(layout, allow_pickle=allow_pickle)
    shards = [path for path in files if path.suffix == ".safetensors"]
    if not shards:
        return None
    headers = {path.name: read_header(_inside(layout, path)) for path in shards}
    index = layout.model_path / SAFE_WEIGHTS[1]
    if index in files:
        for tensor, shard in _weight_map(layout, index).items():
            if tensor not in headers[shard]:
                raise CheckpointError(f"{shard} lacks the tensor {tensor!r} that the index names")
    return sum(count_parameters(header) for header in headers.values())


def weight_files(layout: Layout, *, allow_pickle: bool) -> list[Path]:
    """The weight files that transformers will load, index included.

    Raises:
        CheckpointError: There are none, a shard is missing, or they are pickled.
    """
    for name in SAFE_WEIGHTS + (PICKLED_WEIGHTS if allow_pickle else ()):
        path = layout.model_path / name
        if not path.is_file():
            continue
        if not name.endswith(".index.json"):
            return [path]
        shards = sorted(set(_weight_map(layout, path).values()))
        for shard in shards:
            if not (layout.model_path / shard).is_file():
                raise CheckpointError(f"{name} names {shard!r}, which is missing")
        return [path, *(layout.model_path / shard for shard in shards)]
    pickled = [name for name in PICKLED_WEIGHTS if (layout.model_path / name).is_file()]
    if pickled:
        raise CheckpointError(
            f"{pickled[0]} is pickled and can run code: convert it to safetensors or set "
            "allow_pickle"
        )
    raise CheckpointError(f"{layout.model_path} has no weights: model.safetensors is missing")


def _weight_map(layout: Layout, index: Path) -> dict[str, str]:
    weight_map = read_json(layout, index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index.name} has no weight_map")
    for shard in weight_map.values():
        if not isinstance(shard, str) or Path(shard).name != shard:
            raise CheckpointError(f"{index.name} names {shard!r}, which is no file beside it")
    return weight_map


def read_template(layout: Layout) -> str | None:
    """The default chat template as transformers will pick it; ``None`` where there is none."""
    path = layout.tokenizer_path / "chat_template.jinja"
    if path.is_file():
        return _inside(layout, path).read_text(encoding="utf-8")
    for name in ("chat_template.json", "tokenizer_config.json"):
        path = layout.tokenizer_path / name
        if not path.is_file():
            continue
        template = read_json(layout, path).get("chat_template")
        if isinstance(template, list):
            named = {entry.get("name"): entry.get("template") for entry in template}
            template = named.get("default")
        if isinstance(template, str):
            return template
    return None


def tokenizer_files(layout: Layout) -> list[tuple[str, Path]]:
    """The tokenizer's files as (name, path)."""
    return sorted(_matching(layout, layout.tokenizer_path, TOKENIZER_PATTERNS))


def matter_of(layout: Layout, *, allow_pickle: bool) -> list[tuple[str, Path]]:
    """Every file that can change a rollout, as (name, path)."""
    weights = [
        (path.name, _inside(layout, path))
        for path in weight_files(layout, allow_pickle=allow_pickle)
    ]
    configuration = list(_matching(layout, layout.model_path, MODEL_PATTERNS))
    return sorted([*weights, *configuration, *tokenizer_files(layout)])


def _matching(
    layout: Layout, folder: Path, patterns: tuple[str, ...]
) -> Iterator[tuple[str, Path]]:
    for pattern in patterns:
        for path in folder.glob(pattern):
            if path.is_file():
                yield path.relative_to(folder).as_posix(), _inside(layout, path)


def _inside(layout: Layout, path: Path) -> Path:
    if not path.resolve().is_relative_to(layout.root):
        raise CheckpointError(f"{path.name} is a link out of the checkpoint folder")
    return path


def hash_files(files: list[tuple[str, Path]]) -> str:
    """The content digest of files given as (name, path)."""
    return content_digest(file_entry(name, path) for name, path in files)
