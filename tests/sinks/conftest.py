from pathlib import Path

import pytest


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A folder shaped like a trainer's output; nothing may load it, so the weights are bytes."""
    folder = tmp_path / "sft" / "checkpoint-64"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "tokenizer.json").write_text("{}")
    (folder / "optimizer.pt").write_bytes(b"twice the weights")
    (folder / "training_args.bin").write_bytes(b"pickle")
    (folder / "extra").mkdir()
    (folder / "extra" / "special.json").write_text("{}")
    return folder
