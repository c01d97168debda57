"""An adapter's configuration is foreign text: what cannot be read ends in a sentence."""

from pathlib import Path

import pytest

from mlflow_rlrisk.errors import CheckpointError
from mlflow_rlrisk.samplers.lora_adapter import open_adapter


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    import torch
    from safetensors.torch import save_file

    save_file({"lora_A.weight": torch.zeros(2, 2)}, tmp_path / "adapter_model.safetensors")
    return tmp_path


@pytest.mark.parametrize(
    "config",
    [
        '{"peft_type": "LORA", "r": 8, "rank_pattern": [16]}',
        '{"peft_type": "LORA", "r": 8, "rank_pattern": "q_proj"}',
        '{"peft_type": "LORA", "r": 8, "rank_pattern": {"q_proj": null}}',
        '{"peft_type": "LORA", "r": 1e999}',
        '{"peft_type": "LORA", "r": {}}',
        '{"peft_type": "LORA"}',
        "[]",
        "{",
    ],
)
def test_a_configuration_that_cannot_be_read_is_refused_by_name(folder: Path, config: str) -> None:
    (folder / "adapter_config.json").write_text(config, encoding="utf-8")

    with pytest.raises(CheckpointError, match=r"adapter_config\.json is damaged"):
        open_adapter(folder)


def test_the_rank_is_the_largest_of_any_layer(folder: Path) -> None:
    config = '{"peft_type": "LORA", "r": 8, "rank_pattern": {"q_proj": 16, "v_proj": 4}}'
    (folder / "adapter_config.json").write_text(config, encoding="utf-8")

    assert open_adapter(folder).rank == 16
