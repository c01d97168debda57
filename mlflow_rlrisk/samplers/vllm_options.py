"""Settings of the vllm backend alone, as ``--backend-option KEY=VALUE`` gives them."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from mlflow_rlrisk.config import AssessmentConfig, PositiveInt, Settings
from mlflow_rlrisk.errors import ConfigError

LOWEST_TEMPERATURE = 0.01
"""vLLM samples at 0.01 whatever lower temperature is asked for."""

_SPECULATIVE = "speculative decoding has rows for rejected drafts, so entropies would be wrong"
_PARALLEL = "start one job a replica: vLLM returns the records of its first engine only"
REFUSED = {
    "speculative_config": _SPECULATIVE,
    "speculative_model": _SPECULATIVE,
    "num_speculative_tokens": _SPECULATIVE,
    "data_parallel_size": _PARALLEL,
    "generation_config": "sampling is what the assessment says, never the checkpoint's defaults",
    "trust_remote_code": "code of a checkpoint under test is never run",
}
"""Settings of vLLM that would make a figure wrong, with the reason."""


class VllmOptions(Settings):
    """What ``--backend-option`` may set; left out, vLLM's default stands unless stated."""

    runner: Literal["auto", "v1", "v2"] = "auto"
    """Model runner; ``auto`` is the one that the engine chooses for the model."""
    tensor_parallel_size: PositiveInt = 1
    """GPUs that share each layer."""
    gpu_memory_utilization: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    """Share of the GPU's memory that vLLM takes."""
    kv_cache_memory_bytes: PositiveInt | None = None
    """Size of the key-value cache; 1 GiB where vLLM runs on the CPU."""
    max_model_len: PositiveInt | None = None
    """Longest prompt and completion together."""
    max_num_seqs: PositiveInt | None = None
    """Sequences decoded together; ``batch_size`` of the assessment if left out."""
    max_num_batched_tokens: PositiveInt | None = None
    """Tokens of one step; longer prompts are filled in over several."""
    block_size: PositiveInt | None = None
    """Tokens of a block of the key-value cache."""
    enable_prefix_caching: bool | None = None
    """Fill in the prompt of a group once."""
    enforce_eager: bool | None = None
    """No CUDA graphs and no compilation; true where vLLM runs on the CPU."""
    quantization: str | None = None
    """Quantize the weights on loading, in vLLM's words (``fp8``, ``bitsandbytes``, ...)."""
    lora_adapter: str | None = None
    """Folder of a PEFT LoRA adapter: the policy is the checkpoint with it."""
    logits_dtype: Literal["auto", "float32", "model"] = "auto"
    """``auto`` multiplies the output head into float32 where this vLLM and the weights allow it;
    ``model`` rounds logits to the dtype of the weights, as a plain server does."""
    seeded: bool = True
    """Every rollout has a seed of its own. ``false`` is faster on the V1 runner and cannot be
    repeated."""
    multiprocessing: bool | None = None
    """Run the engine in a process of its own; false where vLLM runs on the CPU with one rank."""
    self_check: bool = True
    """Compare with a plain forward pass at the start: loads the checkpoint once more, on the
    CPU."""

    @classmethod
    def of(cls, config: AssessmentConfig) -> "VllmOptions":
        """Read and check the options of an assessment.

        Raises:
            ConfigError: One is unknown, unusable, or would make a figure wrong.
        """
        given: Mapping[str, Any] = config.backend_options
        for name, reason in REFUSED.items():
            if name in given:
                raise ConfigError(name, given[name], reason)
        if config.sampling.temperature < LOWEST_TEMPERATURE:
            raise ConfigError(
                "temperature",
                config.sampling.temperature,
                f"vLLM samples at {LOWEST_TEMPERATURE} at least; greedy decoding has no entropy",
            )
        return cls(**given)
