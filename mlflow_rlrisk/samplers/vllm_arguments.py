"""What vLLM's ``LLM`` is called with for a checkpoint, an assessment and its backend options."""

from typing import Any

from mlflow_rlrisk.checkpoint import Checkpoint
from mlflow_rlrisk.config import AssessmentConfig
from mlflow_rlrisk.errors import CheckpointError, ConfigError
from mlflow_rlrisk.samplers.lora_adapter import LoraAdapter
from mlflow_rlrisk.samplers.vllm_environment import is_on_cpu
from mlflow_rlrisk.samplers.vllm_options import VllmOptions
from mlflow_rlrisk.samplers.vllm_weights import CONFIG_FORMAT, load_format, stored_kinds

CPU_CACHE_BYTES = 2**30
"""vLLM would take most of the machine's memory for its key-value cache."""

LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM's ``max_lora_rank`` may be."""

STORED = {"F32": "float32", "BF16": "bfloat16", "F16": "float16", "F64": "float64"}
"""The dtypes of safetensors that a model may be run in, by their names there."""

_PASSED_ON = (
    "tensor_parallel_size",
    "gpu_memory_utilization",
    "max_model_len",
    "max_num_batched_tokens",
    "block_size",
    "enable_prefix_caching",
    "quantization",
)


def resolve_dtype(checkpoint: Checkpoint, wanted: str) -> str:
    """The dtype of the weights; ``auto`` is the checkpoint's own.

    vLLM's ``auto`` would round a float32 checkpoint to 16 bits.

    Raises:
        ConfigError: The checkpoint's dtype is none of those that can be sampled in.
    """
    if wanted != "auto":
        return wanted
    config = checkpoint.config
    text = config.get("text_config") or {}
    named = config.get("dtype") or config.get("torch_dtype") or text.get("dtype")
    dtype = _stored_dtype(checkpoint) if named is None else str(named).removeprefix("torch.")
    if dtype not in ("float32", "bfloat16", "float16"):
        raise ConfigError("dtype", dtype, "name one: float32, bfloat16 or float16")
    return dtype


def _stored_dtype(checkpoint: Checkpoint) -> str:
    """The dtype that the weights are stored in; several are told as they are."""
    found = {STORED.get(kind) for kind in stored_kinds(checkpoint)} - {None}
    return " and ".join(sorted(map(str, found))) or "unknown"


def engine_arguments(
    checkpoint: Checkpoint,
    config: AssessmentConfig,
    options: VllmOptions,
    *,
    dtype: str,
    adapter: LoraAdapter | None,
) -> dict[str, Any]:
    """Keyword arguments of ``LLM``, but for the runner's processor.

    Raises:
        CheckpointError: The adapter's rank is larger than vLLM supports.
    """
    arguments: dict[str, Any] = {
        "model": str(checkpoint.model_path),
        "tokenizer": str(checkpoint.tokenizer_path),
        # Prompts are encoded here, as for every other sampler; stop strings are text.
        "skip_tokenizer_init": not config.sampling.stop,
        "dtype": dtype,
        "config_format": CONFIG_FORMAT,
        "load_format": load_format(checkpoint),
        "trust_remote_code": False,
        "generation_config": "vllm",
        "logprobs_mode": "processed_logprobs",
        "max_num_seqs": options.max_num_seqs or config.batch_size,
        "seed": config.sampling.seed % 2**31,
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
    }
    for name in _PASSED_ON:
        if (value := getattr(options, name)) is not None:
            arguments[name] = value
    on_cpu = is_on_cpu()
    cache_bytes = options.kv_cache_memory_bytes or (CPU_CACHE_BYTES if on_cpu else None)
    if cache_bytes is not None:
        arguments["kv_cache_memory_bytes"] = cache_bytes
    eager = on_cpu if options.enforce_eager is None else options.enforce_eager
    arguments["enforce_eager"] = eager
    if takes_float32_head(checkpoint, options, dtype):
        arguments["hf_overrides"] = {"head_dtype": "float32"}
    if adapter is not None:
        arguments |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": _lora_rank(adapter)}
    return arguments


def takes_float32_head(checkpoint: Checkpoint, options: VllmOptions, dtype: str) -> bool:
    """Whether the output head is multiplied into float32.

    Raises:
        ConfigError: That is asked for and cannot be.
    """
    if dtype == "float32" or options.logits_dtype == "model":
        return False
    from vllm.model_executor.layers.logits_processor import LogitsProcessor

    is_plain = not (options.quantization or checkpoint.config.get("quantization_config"))
    is_able = is_plain and hasattr(LogitsProcessor, "_apply_head")
    if options.logits_dtype == "float32" and not is_able:
        raise ConfigError(
            "logits_dtype", "float32", "needs weights that are not quantized and a newer vLLM"
        )
    return is_able


def avoid_partial_prefill(arguments: dict[str, Any]) -> None:
    """Keep vLLM's V1 runner on the CPU from a step that would kill it, in place.

    With a seed a request it sets the offset of a generator that a CPU has none of, as soon as a
    prompt is filled in over two steps. Without chunked prefill a prompt waits for a whole step.

    Raises:
        ConfigError: A step is set to be smaller than the longest prompt.
    """
    limit, longest = arguments.get("max_num_batched_tokens"), arguments.get("max_model_len")
    if limit is not None and (longest is None or limit < longest):
        raise ConfigError(
            "max_num_batched_tokens",
            limit,
            "vLLM's V1 runner cannot fill in a prompt over several steps on the CPU when requests "
            f"have seeds: set max_model_len to at most {limit}, seeded=false or runner=v2",
        )
    arguments["enable_chunked_prefill"] = False


def _lora_rank(adapter: LoraAdapter) -> int:
    for rank in LORA_RANKS:
        if adapter.rank <= rank:
            return rank
    raise CheckpointError(
        f"LoRA adapter {adapter.path}: rank {adapter.rank}, vLLM takes {LORA_RANKS[-1]} at most"
    )
