"""``rlrisk serve-vllm``: the command that starts a vLLM server with exact entropies in band."""

import os
import shlex
import signal
import subprocess
from typing import TYPE_CHECKING, Any, Literal

import click

from mlflow_rlrisk import console
from mlflow_rlrisk.commands.options import allow_pickle_option, json_option
from mlflow_rlrisk.commands.output import OK, tell
from mlflow_rlrisk.errors import ConfigError

if TYPE_CHECKING:
    from mlflow_rlrisk.samplers.endpoint.vllm_server import ServerCommand

ENDING = (signal.SIGINT, signal.SIGTERM)
SIGNALLED = 128
"""Plus a signal's number: the exit code of a process that it ended, as shells count."""


@click.command("serve-vllm", context_settings={"ignore_unknown_options": True})
@click.argument("model")
@click.argument("vllm_options", nargs=-1, type=click.UNPROCESSED)
@click.option("--name", default=None, help="Name that requests give; default: the model's own.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True)
@click.option(
    "--runner",
    type=click.Choice(["auto", "v1", "v2"]),
    default="auto",
    show_default=True,
    help="vLLM's model runner; auto asks the vLLM that is installed here.",
)
@click.option("--python", default=None, help="Interpreter of vLLM's environment.")
@click.option(
    "--dtype",
    type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
    default="auto",
    show_default=True,
    help="Of the weights; auto: as they are stored.",
)
@allow_pickle_option
@click.option("--run", "is_run", is_flag=True, help="Start the server instead of printing.")
@json_option
def serve_vllm(
    model: str,
    vllm_options: tuple[str, ...],
    name: str | None,
    host: str,
    port: int,
    runner: Literal["auto", "v1", "v2"],
    python: str | None,
    dtype: str,
    allow_pickle: bool,
    is_run: bool,
    as_json: bool,
) -> int:
    """Print the command of a vLLM server for MODEL whose tokens bring their exact entropy.

    Further VLLM_OPTIONS are passed on. Its environment needs vllm and mlflow-rlrisk.
    """
    from mlflow_rlrisk.checkpoint import open_checkpoint
    from mlflow_rlrisk.model_reference import resolve_reference
    from mlflow_rlrisk.samplers.endpoint.vllm_server import server_command

    if not host.strip():
        raise ConfigError("host", host, "an address to listen on is needed")
    if resolve_reference(model).local_path is None and not is_run:
        raise ConfigError(
            "model",
            model,
            "its files are not on this machine; --run fetches them and keeps them while it serves",
        )
    checkpoint = open_checkpoint(model, allow_pickle=allow_pickle)
    served = name or checkpoint.display_name
    command = server_command(
        checkpoint,
        name=served,
        host=host,
        port=port,
        runner=runner,
        python=python,
        dtype=dtype,
        extra=vllm_options,
    )
    _say_spare_word(checkpoint)
    options = (f"base_url=http://{host}:{port}/v1", f"model={served}")
    words = ["rlrisk", "assess", model, "--backend", "openai"]
    words += [word for option in options for word in ("--backend-option", option)]
    console.say(f"then        {shlex.join(words)} ...")
    if is_run:
        return _serve(command)
    found = {
        "command": list(command.arguments),
        "environment": command.environment,
        "shell": str(command),
        "served_model": served,
    }
    tell(found, str(command), as_json=as_json)
    return OK


def _serve(command: "ServerCommand") -> int:
    """Run the server until it ends; whoever ends this command ends the server first.

    The checkpoint's files may be a copy that goes with this process.
    """
    environment = {**os.environ, **command.environment}
    try:
        server = subprocess.Popen(command.arguments, env=environment)
    except OSError as error:
        raise ConfigError("python", command.arguments[0], f"does not start: {error}") from error

    def end(*_: object) -> None:
        server.terminate()

    before = {number: signal.signal(number, end) for number in ENDING}
    try:
        code = server.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return code if code >= 0 else SIGNALLED - code


def _say_spare_word(checkpoint: Any) -> None:
    """Warn where entropies cannot travel in band; needs the tokenizer, which is optional here."""
    from mlflow_rlrisk.config import SamplingConfig
    from mlflow_rlrisk.errors import MissingDependencyError
    from mlflow_rlrisk.samplers.endpoint.local_model import LocalModel

    try:
        if LocalModel(checkpoint, SamplingConfig(max_new_tokens=1)).entropy_id is None:
            console.say(
                "warning: every word of the model is the tokenizer's, so none is left to carry "
                "entropies: `assess` will get bounds and estimates only, unless backend option "
                "entropy_token_id names a word that is never used"
            )
    except MissingDependencyError:
        pass
