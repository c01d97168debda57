"""Local folders: layouts, digests, and what is refused before anything is loaded."""

import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mlflow_rlrisk.checkpoint import open_checkpoint
from mlflow_rlrisk.errors import CheckpointError, ModelReferenceError
from tests.tiny_models import CHAT_TEMPLATE, write_llama


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_llama(tmp_path / "model", template=CHAT_TEMPLATE)


def _edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def _shard(folder: Path) -> Path:
    """Split the weights into two shards with an index."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    weight_map = {}
    for number, part in enumerate((names[:10], names[10:]), start=1):
        shard = f"model-0000{number}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, folder / shard, {"format": "pt"})
        weight_map.update(dict.fromkeys(part, shard))
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return index


def test_a_raw_folder_is_opened_and_counted(folder: Path) -> None:
    checkpoint = open_checkpoint(folder)

    expected = sum(t.numel() for t in load_file(folder / "model.safetensors").values())
    assert checkpoint.num_parameters == expected
    assert checkpoint.model_path == checkpoint.tokenizer_path == folder
    assert checkpoint.model_type == "llama"
    assert checkpoint.template_digest is not None
    assert len(checkpoint.digest) == 64


def test_opening_a_checkpoint_loads_no_model_library(folder: Path) -> None:
    script = (
        "import sys; from mlflow_rlrisk.checkpoint import open_checkpoint;"
        f"open_checkpoint({str(folder)!r});"
        "print(sorted({'torch', 'transformers', 'mlflow'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == "[]"


def test_the_digest_is_of_the_content_and_not_of_the_place(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(folder, copy)
    (copy / "README.md").write_text("notes")
    (copy / "training_args.bin").write_bytes(b"not weights")

    assert open_checkpoint(copy).digest == open_checkpoint(folder).digest


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "generation_config.json", "tokenizer.json",
             "tokenizer_config.json", "chat_template.jinja"],
)  # fmt: skip
def test_one_changed_byte_changes_the_digest(folder: Path, name: str) -> None:
    before = open_checkpoint(folder)
    path = folder / name
    content = bytearray(path.read_bytes())
    if name == "model.safetensors":
        content[-1] ^= 1
    else:
        content += b" "
    path.write_bytes(content)

    after = open_checkpoint(folder)

    assert after.digest != before.digest
    # A space in a JSON file changes nothing that the tokenizer does.
    assert after.tokenizer_digest == before.tokenizer_digest
    assert (after.template_digest != before.template_digest) == (name == "chat_template.jinja")


def test_the_layout_of_mlflow_transformers_is_recognised(folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "logged"
    (root / "components" / "tokenizer").mkdir(parents=True)
    shutil.copytree(folder, root / "model")
    for path in (*(root / "model").glob("tokenizer*"), root / "model" / "chat_template.jinja"):
        path.rename(root / "components" / "tokenizer" / path.name)
    (root / "MLmodel").write_text("flavors:\n  transformers: {task: text-generation}\n")

    checkpoint = open_checkpoint(root)

    assert checkpoint.model_path == root / "model"
    assert checkpoint.tokenizer_path == root / "components" / "tokenizer"
    assert checkpoint.digest == open_checkpoint(folder).digest


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ("flavors: {sklearn: {}}", "transformers is needed"),
        ("flavors: {transformers: {source_model_name: org/base}}", "only names org/base"),
        ("flavors: {transformers: {peft_adaptor: peft}}", "adapter without its base"),
        ("flavors: [", "cannot be read"),
    ],
)
def test_a_logged_model_without_its_weights_is_refused(
    tmp_path: Path, description: str, message: str
) -> None:
    (tmp_path / "MLmodel").write_text(description)

    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(tmp_path)


def test_shards_are_followed_and_a_missing_one_is_named(folder: Path) -> None:
    whole = open_checkpoint(folder)
    _shard(folder)
    assert open_checkpoint(folder).num_parameters == whole.num_parameters

    (folder / "model-00002-of-00002.safetensors").unlink()

    with pytest.raises(CheckpointError, match=r"'model-00002-of-00002\.safetensors', which"):
        open_checkpoint(folder)


def test_a_shard_that_lacks_what_the_index_promises_is_refused(folder: Path) -> None:
    index = _shard(folder)
    shard = folder / "model-00002-of-00002.safetensors"
    tensors = load_file(shard)
    lost = sorted(tensors)[0]
    del tensors[lost]
    save_file(tensors, shard)

    with pytest.raises(CheckpointError, match=lost.replace(".", r"\.")):
        open_checkpoint(index.parent)


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "sub/x.safetensors", 3])
def test_an_index_that_points_elsewhere_is_refused(folder: Path, name: object) -> None:
    index = _shard(folder)
    _edit(index, weight_map={"lm_head.weight": name})

    with pytest.raises(CheckpointError, match="no file beside it"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    "values",
    [
        {"auto_map": {"AutoModelForCausalLM": "evil.Model"}},
        {"trust_remote_code": True},
        {"_attn_implementation_internal": "org/kernel"},
        {"text_config": {"auto_map": {"AutoConfig": "evil.Config"}}},
        {"layers": [{"custom_pipelines": {}}]},
        {"model_type": None},
    ],
)
def test_a_configuration_that_names_code_is_refused(folder: Path, values: dict[str, Any]) -> None:
    _edit(folder / "config.json", **values)

    with pytest.raises(CheckpointError, match=r"config\.json"):
        open_checkpoint(folder)


def test_a_tokenizer_that_names_code_is_refused(folder: Path) -> None:
    _edit(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Tokenizer", None]})

    with pytest.raises(CheckpointError, match="auto_map"):
        open_checkpoint(folder)


@pytest.mark.parametrize("text", ["{", "[]", "[" * 100_000, "\x00"])
def test_a_configuration_that_is_no_object_is_refused(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)

    with pytest.raises(CheckpointError, match=r"config\.json"):
        open_checkpoint(folder)


def test_pickled_weights_need_the_operators_word(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()

    with pytest.raises(CheckpointError, match="pickled and can run code"):
        open_checkpoint(folder)
    assert open_checkpoint(folder, allow_pickle=True).num_parameters is None


def test_a_folder_without_weights_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()

    with pytest.raises(CheckpointError, match="has no weights"):
        open_checkpoint(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_link_out_of_the_folder_is_refused(folder: Path, tmp_path: Path, name: str) -> None:
    outside = tmp_path / name
    (folder / name).rename(outside)
    (folder / name).symlink_to(outside)

    with pytest.raises(CheckpointError, match=f"{name} is a link out of"):
        open_checkpoint(folder)


def _header(folder: Path, change: Any) -> None:
    """Rewrite the safetensors header; ``change`` gets the parsed one."""
    path = folder / "model.safetensors"
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    change(header)
    raw = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + content[8 + length :])


def _first(header: dict[str, Any]) -> dict[str, Any]:
    entry: dict[str, Any] = next(v for k, v in header.items() if k != "__metadata__")
    return entry


@pytest.mark.parametrize(
    "change",
    [
        lambda header: _first(header).update(data_offsets=[0, 10**12]),
        lambda header: _first(header).update(data_offsets=[-4, 0]),
        lambda header: _first(header).update(data_offsets="0"),
        lambda header: _first(header).update(shape=[10**9]),
        lambda header: _first(header).update(shape=[-1]),
        lambda header: _first(header).update(dtype="OBJECT"),
        lambda header: header.popitem(),
    ],
)
def test_a_header_that_does_not_tile_the_data_is_refused(folder: Path, change: Any) -> None:
    _header(folder, change)

    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        open_checkpoint(folder)


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_a_cut_weight_file_is_refused(folder: Path, keep: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])

    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        open_checkpoint(folder)


def test_a_huge_header_length_is_refused_without_reading_it(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(struct.pack("<Q", 2**62) + path.read_bytes()[8:])

    with pytest.raises(CheckpointError, match="cut or damaged"):
        open_checkpoint(folder)


@pytest.mark.parametrize("reference", ["", "   ", "no/such/folder"])
def test_a_folder_that_is_not_there_is_a_wrong_reference(reference: str) -> None:
    with pytest.raises(ModelReferenceError, match="no such folder"):
        open_checkpoint(reference)
