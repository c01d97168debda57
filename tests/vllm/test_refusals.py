"""What cannot be sampled rightly is refused by name, and what can be is not."""

import json
from pathlib import Path
from typing import Any

import pytest

from mlflow_rlrisk.errors import SamplerError
from mlflow_rlrisk.samplers.vllm_environment import choose_runner, prepare_vllm
from mlflow_rlrisk.samplers.vllm_options import VllmOptions
from tests.vllm.draw import draw
from tests.vllm.oracle import reference, worst_differences, write_model

pytestmark = pytest.mark.timeout(600)

DEFAULT_WORDS = 32_000
"""Of a Llama whose configuration does not say how many words it has."""


def _drawn(folder: Path, model: Path, **options: Any) -> dict[str, Any]:
    sampling = {"num_samples": 2, "max_new_tokens": 4}
    answers: Any = draw(
        folder, model=str(model), prompts=["1+2="], sampling=sampling, options=options
    )
    return dict(answers[0])


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ({"quantization": "squeezed"}, "Unknown quantization method: squeezed"),
        ({"max_model_len": 10**6}, "max_model_len"),
    ],
)
def test_what_vllm_refuses_is_told_in_one_error(
    setting: dict[str, Any], told: str, tmp_path: Path
) -> None:
    prepare_vllm()
    arguments = {"model": str(write_model(tmp_path / "model")), "skip_tokenizer_init": True}

    with pytest.raises(SamplerError, match=f"vLLM does not start: .*(?s:.*){told}"):
        choose_runner(VllmOptions(), arguments | setting)


def test_a_context_too_short_for_the_check_is_refused(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")

    with pytest.raises(AssertionError, match="max_model_len=5: at least 6 positions are needed"):
        _drawn(tmp_path, model, max_model_len=5)


def test_what_a_configuration_leaves_out_is_what_transformers_fills_in(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", vocab_size=DEFAULT_WORDS)
    config = json.loads((model / "config.json").read_text())
    del config["vocab_size"], config["dtype"]
    (model / "config.json").write_text(json.dumps(config))

    answer = _drawn(tmp_path, model)

    assert answer["describe"]["vocab_size"] == DEFAULT_WORDS
    assert answer["describe"]["dtype"] == "float32"
    entropy, logprob, _ = worst_differences(answer, reference(model))
    assert max(entropy, logprob) <= 1e-4


def test_stop_tokens_that_no_model_of_this_size_draws_are_left_out(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    (model / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 320]}))

    answer = _drawn(tmp_path, model)

    assert len(answer["rollouts"]) == 2
    assert answer["describe"]["stop_token_ids"]["generation_config"] == [2, 320]
