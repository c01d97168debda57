"""The files of a checkpoint: where they lie, whether they are safe, what they hash to.

Everything is read as data, before transformers sees the folder.
"""

import json
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mlflow_rlrisk.checkpoint.configuration_screen import (
    refuse_absurd_sizes,
    refuse_code,
    refuse_foreign_files,
)
from mlflow_rlrisk.checkpoint.safetensors_header import count_parameters, read_header, unique_keys
from mlflow_rlrisk.content import content_digest, file_entry
from mlflow_rlrisk.errors import CheckpointError, ModelReferenceError

MAX_JSON_BYTES = 200 * 2**20
"""Tokenizers with large vocabularies take tens of megabytes; beyond this it is no such file."""

MAX_TEMPLATE_BYTES = 2**20
MAX_ENTRIES = 100_000
"""Files and folders of a checkpoint; the largest models have a few hundred."""

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
ADAPTER = "adapter_config.json"
"""transformers would load what it names, from anywhere, instead of or on top of the folder."""
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
    _refuse_special_files(root)
    if (root / ADAPTER).exists():
        raise CheckpointError(f"{folder} has {ADAPTER}: merge the adapter and save the model whole")
    if (root / "config.json").is_file():
        return Layout(root=root, model_path=root, tokenizer_path=root)
    flavor = _transformers_flavor(root)
    if flavor is None:
        inside = ", ".join(sorted(path.name for path in root.iterdir())[:12]) or "nothing"
        raise CheckpointError(f"{folder} has no config.json; it contains {inside}")
    if "peft_adaptor" in flavor or (root / "peft").is_dir():
        raise CheckpointError(f"{folder} is an adapter without its base: merge and log it whole")
    model_path = root / "model"
    if (model_path / ADAPTER).exists():
        raise CheckpointError(f"{folder} holds an adapter: merge it and log the model whole")
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
    _refuse_size(path, MAX_TEMPLATE_BYTES)
    _inside(Layout(root=root, model_path=root, tokenizer_path=root), path)
    try:
        description = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path.name} cannot be read: {error}") from error
    flavors = description.get("flavors") if isinstance(description, dict) else None
    if not isinstance(flavors, dict):
        raise CheckpointError("MLmodel has no flavors")
    flavor = flavors.get("transformers")
    if not isinstance(flavor, dict):
        names = sorted(map(str, flavors))[:12]
        raise CheckpointError(f"MLmodel has flavors {names}; transformers is needed")
    return flavor


def _refuse_special_files(root: Path) -> None:
    """A pipe or a device among the files would block or feed whoever opens it.

    Raises:
        CheckpointError: There is one, or there are more entries than any checkpoint has.
    """
    for number, path in enumerate(root.rglob("*")):
        if number >= MAX_ENTRIES:
            raise CheckpointError(f"{root} has more than {MAX_ENTRIES:,} entries")
        mode = path.lstat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode)):
            raise CheckpointError(f"{path.name} is no plain file")
        if stat.S_ISLNK(mode) and path.exists() and not (path.is_file() or path.is_dir()):
            raise CheckpointError(f"{path.name} is a link to no plain file")


def read_config(layout: Layout) -> dict[str, Any]:
    """Read ``config.json`` and refuse every way in which a configuration can name code.

    Raises:
        CheckpointError: Unreadable, without ``model_type``, or it names code.
    """
    config = read_json(layout, layout.model_path / "config.json")
    if not isinstance(config.get("model_type"), str):
        raise CheckpointError("config.json has no model_type")
    refuse_code(config, "config.json")
    generation = layout.model_path / "generation_config.json"
    if generation.is_file():
        refuse_code(read_json(layout, generation), generation.name, allow_private=True)
    tokenizer = layout.tokenizer_path / "tokenizer_config.json"
    if tokenizer.is_file():
        found = read_json(layout, tokenizer)
        refuse_code(found, tokenizer.name, allow_private=True)
        refuse_foreign_files(found, tokenizer.name)
    return config


def read_json(layout: Layout, path: Path) -> dict[str, Any]:
    """Read a JSON object that lies inside the checkpoint.

    Raises:
        CheckpointError: It lies outside, is too large or is no JSON object.
    """
    _inside(layout, path)
    _refuse_size(path, MAX_JSON_BYTES)
    try:
        value = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path.name} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path.name} is no JSON object")
    return value


def screen_weights(layout: Layout, config: dict[str, Any], *, allow_pickle: bool) -> int | None:
    """Check that the weights are there, whole, not pickled, and fill what the config says.

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
    num_parameters = sum(count_parameters(header) for header in headers.values())
    refuse_absurd_sizes(config, sum(map(len, headers.values())), num_parameters)
    return num_parameters


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
        if index.name == SAFE_WEIGHTS[1] and not shard.endswith(".safetensors"):
            raise CheckpointError(f"{index.name} names {shard!r}, which is no safetensors file")
    return weight_map


def read_template(layout: Layout) -> str | None:
    """The default chat template as transformers will pick it; ``None`` where there is none."""
    path = layout.tokenizer_path / "chat_template.jinja"
    if path.is_file():
        return _read_text(layout, path)
    for name in ("chat_template.json", "tokenizer_config.json"):
        path = layout.tokenizer_path / name
        if not path.is_file():
            continue
        template = read_json(layout, path).get("chat_template")
        if isinstance(template, list):
            entries = [entry for entry in template if isinstance(entry, dict)]
            named = {str(entry.get("name")): entry.get("template") for entry in entries}
            template = named.get("default")
        if isinstance(template, str):
            return template
    return None


def _read_text(layout: Layout, path: Path) -> str:
    _refuse_size(path, MAX_TEMPLATE_BYTES)
    try:
        return _inside(layout, path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path.name} is no UTF-8 text: {error}") from error


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
                _refuse_size(path, MAX_JSON_BYTES)  # before hours are spent on its digest
                yield path.relative_to(folder).as_posix(), _inside(layout, path)


def _refuse_size(path: Path, most: int) -> None:
    if (size := path.stat().st_size) > most:
        raise CheckpointError(f"{path.name} has {size} bytes; that is no such file")


def _inside(layout: Layout, path: Path) -> Path:
    if not path.resolve().is_relative_to(layout.root):
        raise CheckpointError(f"{path.name} is a link out of the checkpoint folder")
    return path


def hash_files(files: list[tuple[str, Path]]) -> str:
    """The content digest of files given as (name, path)."""
    return content_digest(file_entry(name, path) for name, path in files)
