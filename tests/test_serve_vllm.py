"""The command that is printed for a server is complete, and says what it cannot do."""

import itertools
import json
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from mlflow_rlrisk.checkpoint import open_checkpoint
from mlflow_rlrisk.cli import cli
from mlflow_rlrisk.errors import ConfigError
from mlflow_rlrisk.samplers.endpoint.vllm_server import server_command
from mlflow_rlrisk.samplers.vllm_recorder.in_band import IN_BAND
from tests.tiny_models import character_tokenizer, write_llama


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_llama(tmp_path_factory.mktemp("a model"), vocab_size=120)
    character_tokenizer(vocab_size=100).save_pretrained(folder)
    return folder


def _serve(folder: Path, *options: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(cli, ["serve-vllm", str(folder), *options], standalone_mode=False)
    if done.exception is not None:
        raise done.exception
    return done.return_value, done.stdout, done.stderr


@pytest.mark.parametrize("runner", ["v1", "v2"])
def test_the_printed_line_names_the_processor_of_the_runner(folder: Path, runner: str) -> None:
    options = ("--runner", runner, "--port", "8001", "--name", "toy", "--max-model-len", "64")

    code, out, err = _serve(folder, *options)

    assert code == 0, err
    words = shlex.split(out)
    assert f"VLLM_USE_V2_MODEL_RUNNER={int(runner == 'v2')}" in words
    after = dict(itertools.pairwise(words))
    assert after["--logits-processors"] == IN_BAND[runner]  # type: ignore[index]
    assert after["--model"] == str(folder)
    assert after["--logprobs-mode"] == "processed_logprobs"
    assert after["--generation-config"] == "vllm"
    assert after["--dtype"] == "float32"  # vLLM's own default would round these weights
    assert after["--max-model-len"] == "64"
    assert "model=toy" in err
    assert "warning" not in err


def test_as_json_it_is_data_for_a_launcher(folder: Path) -> None:
    code, out, _ = _serve(folder, "--json", "--python", "py")

    assert code == 0
    answer = json.loads(out)
    assert answer["command"][:3] == ["py", "-m", "vllm.entrypoints.openai.api_server"]
    assert answer["environment"]


def test_the_next_command_can_be_copied_whatever_the_names_are(folder: Path) -> None:
    _, _, err = _serve(folder, "--name", "my model; $(x)")

    line = next(line for line in err.splitlines() if line.startswith("then "))
    words = shlex.split(line)
    assert "model=my model; $(x)" in words
    assert str(folder) in words  # which has a space in it
    with pytest.raises(ConfigError, match="host=''"):
        _serve(folder, "--host", "")


def test_a_model_without_a_spare_word_is_told(tmp_path: Path) -> None:
    code, _, err = _serve(write_llama(tmp_path / "full"))

    assert code == 0
    assert "none is left to carry entropies" in err


def test_an_interpreter_that_is_not_there_is_named(folder: Path) -> None:
    with pytest.raises(ConfigError, match="python='/no/such/python': does not start"):
        _serve(folder, "--run", "--python", "/no/such/python")


def test_weights_of_16_bits_get_logits_of_32(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_llama(tmp_path / "half", dtype="bfloat16"))

    command = server_command(
        checkpoint,
        name="half",
        host="0.0.0.0",
        port=1,
        runner="v1",
        python=None,
        dtype="auto",
        extra=(),
    )

    after = dict(itertools.pairwise(command.arguments))
    assert after["--dtype"] == "bfloat16"
    assert json.loads(after["--hf-overrides"]) == {"head_dtype": "float32"}
