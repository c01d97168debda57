"""Which vLLM is here, what its environment must say, and which model runner it will use.

vLLM reads environment variables when it is imported and again in its worker processes, so what is
set here stays set.
"""

import os
import re
from importlib.util import find_spec
from typing import Any

from mlflow_rlrisk.errors import ConfigError, MissingDependencyError, SamplerError
from mlflow_rlrisk.samplers.vllm_options import VllmOptions
from mlflow_rlrisk.samplers.vllm_recorder import RECORDER, Runner

OLDEST = (0, 26)
V2_INTERFACE = "vllm.v1.worker.gpu.sample.logits_processor"
RUNNER_VARIABLE = "VLLM_USE_V2_MODEL_RUNNER"
PROCESS_VARIABLE = "VLLM_ENABLE_V1_MULTIPROCESSING"

_DEFAULTS = {
    "VLLM_NO_USAGE_STATS": "1",
    # Without it the question below whether there is a GPU starts CUDA's driver in this process, and
    # the engine's own, which vLLM forks from it, cannot use a GPU any more. vLLM sets it as well.
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    # The standard output belongs to the report; vLLM would log there.
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    # Binding threads to cores would bind the verifiers too, which inherit it.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}


def prepare_vllm() -> str:
    """Set the environment, import vLLM and check its version.

    Returns:
        The version.

    Raises:
        MissingDependencyError: vLLM is not installed.
        SamplerError: It is older than the oldest supported version.
    """
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    if find_spec("vllm") is None or find_spec("torch") is None:
        raise MissingDependencyError("sampling with vLLM", "vllm")
    import torch

    if not torch.cuda.is_available():
        # Compiling the ranks of logprobs takes half a minute on a CPU, for nothing.
        os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
    import vllm

    found = re.match(r"(\d+)\.(\d+)", vllm.__version__)
    if found is not None and (int(found[1]), int(found[2])) < OLDEST:
        raise SamplerError(
            f"vllm {vllm.__version__}: needs {OLDEST[0]}.{OLDEST[1]} or later, whose logits "
            "processors are those that record entropies here"
        )
    return str(vllm.__version__)


def is_on_cpu() -> bool:
    """True where the installed vLLM runs on the CPU."""
    from vllm.platforms import current_platform

    return bool(current_platform.is_cpu())


def check_device(name: str) -> str:
    """The device that vLLM runs on.

    Raises:
        ConfigError: Another one was asked for: vLLM's build decides, and ``CUDA_VISIBLE_DEVICES``.
    """
    from vllm.platforms import current_platform

    device = str(current_platform.device_type)
    if not device:
        raise ConfigError("backend", "vllm", "the installed vLLM finds no device it was built for")
    if name not in ("auto", device):
        raise ConfigError(
            "device",
            name,
            f"the installed vLLM runs on {device}; choose GPUs with CUDA_VISIBLE_DEVICES",
        )
    return device


def choose_process(options: VllmOptions) -> bool:
    """Set whether the engine has a process of its own, and say it."""
    wanted = options.multiprocessing
    if wanted is None and is_on_cpu() and options.tensor_parallel_size == 1:
        wanted = False
    if wanted is not None:
        os.environ[PROCESS_VARIABLE] = "1" if wanted else "0"
    return os.environ.get(PROCESS_VARIABLE, "1") != "0"


def choose_runner(options: VllmOptions, arguments: dict[str, Any]) -> Runner:
    """Set the model runner, or ask the engine which one it will use.

    Args:
        options: May name one.
        arguments: The engine's other arguments.

    Raises:
        ConfigError: V2 is asked for and this vLLM records on V1 only.
        SamplerError: vLLM refuses the arguments.
    """
    has_v2 = _has_v2_interface()
    if options.runner == "v2" and not has_v2:
        raise ConfigError("runner", "v2", "this vLLM takes processors on V1 only; 0.31 is needed")
    if options.runner != "auto" or not has_v2:
        runner: Runner = "v2" if options.runner == "v2" else "v1"
        os.environ[RUNNER_VARIABLE] = "1" if runner == "v2" else "0"
        return runner
    from vllm.engine.arg_utils import EngineArgs

    try:
        asked = EngineArgs(**arguments, logits_processors=[RECORDER["v2"]])
        config = asked.create_engine_config()
    except Exception as error:  # the sampler boundary: vLLM raises whatever its checks do
        raise SamplerError(f"vLLM does not start: {error}") from error
    return "v2" if config.use_v2_model_runner else "v1"


def _has_v2_interface() -> bool:
    try:
        return find_spec(V2_INTERFACE) is not None
    except ModuleNotFoundError:  # a parent package is not there
        return False
