"""The command that is printed for a server is complete, and says what it cannot do."""

import itertools
import json
import os
import shlex
import shutil
import signal
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from mlflow_rlrisk.checkpoint import open_checkpoint
from mlflow_rlrisk.checkpoint.safetensors_header import read_header
from mlflow_rlrisk.cli import cli
from mlflow_rlrisk.errors import CheckpointError, ConfigError
from mlflow_rlrisk.samplers.endpoint.vllm_server import server_command
from mlflow_rlrisk.samplers.vllm_recorder.in_band import IN_BAND
from tests.tiny_assessments import is_running, start_rlrisk
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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_whoever_ends_the_command_ends_the_server(
    number: signal.Signals, folder: Path, tmp_path: Path
) -> None:
    server = tmp_path / "python"
    server.write_text('#!/bin/sh\necho $$ > "$0.new" && mv "$0.new" "$0.pid"\nexec sleep 600\n')
    server.chmod(0o755)
    pid_file = tmp_path / "python.pid"

    arguments = ("serve-vllm", str(folder), "--run", "--python", str(server))
    with start_rlrisk(*arguments, cwd=tmp_path) as process:
        deadline = time.monotonic() + 60
        while not pid_file.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        pid = int(pid_file.read_text())
        process.send_signal(number)
        process.communicate(timeout=30)
    was_left = is_running(pid)
    if was_left:
        os.kill(pid, signal.SIGKILL)

    assert process.returncode == 128 + signal.SIGTERM
    assert not was_left


@pytest.mark.parametrize("beside", ["model.safetensors.index.json", "old.safetensors"])
def test_weights_that_only_vllm_would_read_are_refused(
    beside: str, folder: Path, tmp_path: Path
) -> None:
    """transformers loads model.safetensors, whatever lies beside it."""
    model = Path(shutil.copytree(folder, tmp_path / "tuned"))
    base = write_llama(tmp_path / "base", seed=1) / "model.safetensors"
    shutil.copy(base, model / "old.safetensors")
    if beside.endswith(".json"):
        names = dict.fromkeys(read_header(base), "old.safetensors")
        (model / beside).write_text(json.dumps({"weight_map": names}))

    with pytest.raises(CheckpointError, match=r"weights are model\.safetensors, but .*old\.safe"):
        _serve(model)


def test_shards_that_an_index_names_are_served_whatever_lies_beside_them(
    folder: Path, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(folder, tmp_path / "sharded"))
    (model / "model.safetensors").rename(model / "shard.safetensors")
    names = dict.fromkeys(read_header(model / "shard.safetensors"), "shard.safetensors")
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    shutil.copy(model / "shard.safetensors", model / "consolidated.safetensors")
    (model / "params.json").write_text("{}")

    code, out, _ = _serve(model)

    assert code == 0
    after = dict(itertools.pairwise(shlex.split(out)))
    assert after["--config-format"] == "hf"  # not what params.json says
    assert after["--load-format"] == "safetensors"


@pytest.mark.parametrize(("version", "is_for_cpu"), [("0.33.0+cpu", True), ("0.33.0", False)])
def test_vllms_own_build_for_the_cpu_is_known_by_its_version(
    version: str,
    is_for_cpu: bool,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    about = tmp_path / f"vllm-{version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n")
    (tmp_path / "vllm.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))

    _, out, _ = _serve(folder)

    words = shlex.split(out)
    assert ("--no-enable-chunked-prefill" in words) == is_for_cpu
    assert f"VLLM_USE_V2_MODEL_RUNNER={int(not is_for_cpu)}" in words


def test_without_a_dtype_in_its_configuration_a_model_is_served_as_it_is_stored(
    tmp_path: Path,
) -> None:
    model = write_llama(tmp_path / "half", dtype="bfloat16")
    config = json.loads((model / "config.json").read_text())
    del config["dtype"]
    (model / "config.json").write_text(json.dumps(config))

    _, out, _ = _serve(model)

    assert dict(itertools.pairwise(shlex.split(out)))["--dtype"] == "bfloat16"


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
