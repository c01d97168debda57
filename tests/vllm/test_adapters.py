"""The policy may be a checkpoint with a LoRA adapter."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from mlflow_rlrisk.errors import CheckpointError
from mlflow_rlrisk.samplers.lora_adapter import open_adapter
from tests.vllm.draw import draw
from tests.vllm.oracle import reference, worst_differences, write_model

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model")


@pytest.fixture
def adapter(model: Path, tmp_path: Path) -> Path:
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    config = LoraConfig(
        r=4, lora_alpha=16, target_modules=["q_proj", "v_proj", "up_proj"], init_lora_weights=False
    )
    torch.manual_seed(0)
    peft_model = get_peft_model(base, config)
    for name, parameter in peft_model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    peft_model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_entropies_and_logprobs_are_those_of_checkpoint_and_adapter(
    model: Path, adapter: Path, tmp_path: Path
) -> None:
    (answer,) = draw(
        tmp_path,
        model=str(model),
        prompts=["1+2=", "a", "b2" * 20],
        sampling={"num_samples": 8, "max_new_tokens": 16},
        options={"lora_adapter": str(adapter)},
    )

    entropy, logprob, _ = worst_differences(answer, reference(model, adapter))
    without, _, _ = worst_differences(answer, reference(model))

    assert entropy <= 1e-4
    assert logprob <= 1e-4
    assert without > 0.1  # an adapter that does nothing would pass above
    assert answer["describe"]["identity"]["adapter"] == open_adapter(adapter).digest


def test_a_changed_adapter_has_another_digest(adapter: Path) -> None:
    before = open_adapter(adapter)
    config = adapter / "adapter_config.json"
    text = config.read_text(encoding="utf-8")
    config.write_text(text.replace('"lora_alpha": 16', '"lora_alpha": 8'), encoding="utf-8")

    assert before.rank == 4
    assert open_adapter(adapter).digest != before.digest


def test_an_adapter_without_safetensors_is_refused(adapter: Path) -> None:
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")

    with pytest.raises(CheckpointError, match=r"no adapter_model\.safetensors"):
        open_adapter(adapter)
