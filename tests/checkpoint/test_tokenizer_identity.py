"""One tokenizer saved twice is one tokenizer; another one is another."""

import json
import shutil
from pathlib import Path

import pytest

from mlflow_rlrisk.checkpoint import open_checkpoint
from tests.tiny_models import CHAT_TEMPLATE, character_tokenizer, write_llama


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_llama(tmp_path / "model")


def changed(model: Path, name: str, **changes: object) -> Path:
    copy = model.with_name("copy")
    shutil.copytree(model, copy)
    path = copy / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}, indent=3))
    return copy


def test_saving_a_tokenizer_again_keeps_its_digest(model: Path) -> None:
    from transformers import AutoTokenizer

    before = open_checkpoint(model)
    AutoTokenizer.from_pretrained(model, local_files_only=True).save_pretrained(model)

    assert open_checkpoint(model).tokenizer_digest == before.tokenizer_digest


@pytest.mark.parametrize(
    ("name", "changes", "is_same"),
    [
        ("tokenizer_config.json", {"is_local": True, "padding_side": "left"}, True),
        ("tokenizer_config.json", {"eos_token": "<bos>"}, False),
        ("tokenizer_config.json", {"tokenizer_class": "LlamaTokenizer"}, False),
        ("tokenizer.json", {"truncation": {"max_length": 5}}, True),
        ("tokenizer.json", {"normalizer": {"type": "Lowercase"}}, False),
    ],
)
def test_only_what_changes_tokens_changes_the_digest(
    model: Path, name: str, changes: dict[str, object], is_same: bool
) -> None:
    copy = changed(model, name, **changes)

    equal = open_checkpoint(copy).tokenizer_digest == open_checkpoint(model).tokenizer_digest

    assert equal == is_same


def test_another_vocabulary_is_another_tokenizer_and_a_template_is_not(
    tmp_path: Path, model: Path
) -> None:
    base = open_checkpoint(model)
    other, templated = tmp_path / "other", tmp_path / "templated"
    for folder in (other, templated):
        shutil.copytree(model, folder)
    character_tokenizer(vocab_size=90).save_pretrained(other)
    character_tokenizer(template=CHAT_TEMPLATE).save_pretrained(templated)

    assert open_checkpoint(other).tokenizer_digest != base.tokenizer_digest
    assert open_checkpoint(templated).tokenizer_digest == base.tokenizer_digest
    assert open_checkpoint(templated).template_digest != base.template_digest
    assert open_checkpoint(templated).digest != base.digest
