"""What a client knows of a served model from its files."""

import json
from pathlib import Path

from mlflow_rlrisk.checkpoint import open_checkpoint
from mlflow_rlrisk.config import SamplingConfig
from mlflow_rlrisk.samplers.endpoint.local_model import LocalModel
from tests.tiny_models import write_llama


def test_a_server_is_told_no_stop_token_beyond_the_vocabulary(tmp_path: Path) -> None:
    model = write_llama(tmp_path / "model", vocab_size=120)
    (model / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 7, 120]}))

    local = LocalModel(open_checkpoint(model), SamplingConfig(max_new_tokens=4))

    assert local.stop_ids == (2, 7)  # vLLM refuses a request that names 120
