"""Settings of the Ray sampler, read from ``backend_options``."""

from typing import Annotated, Any

from pydantic import Field

from mlflow_rlrisk.config import AssessmentConfig, PositiveInt, Settings
from mlflow_rlrisk.config.settings import LARGEST_COUNT
from mlflow_rlrisk.errors import ConfigError
from mlflow_rlrisk.samplers.ray_cluster import Demand

INNER = "inner."
"""Options under this prefix go to the inner sampler, without it."""

Amount = Annotated[float, Field(ge=0.0)]
ShardSize = Annotated[int, Field(ge=0, le=LARGEST_COUNT)]


class RayOptions(Settings):
    """How the work is spread."""

    inner: Annotated[str, Field(min_length=1)] = "transformers"
    """Installed sampler that every worker runs."""
    num_workers: PositiveInt = 1
    """Workers, each with the model loaded once."""
    num_cpus_per_worker: Amount = 1.0
    """CPUs that Ray books for each; 0 where GPUs are counted."""
    num_gpus_per_worker: Amount = 0.0
    """GPUs of each, such as the tensor-parallel size."""
    address: str = ""
    """Of a running cluster; empty takes ``RAY_ADDRESS`` or starts one here."""
    prompts_per_shard: ShardSize = 0
    """Prompts that a worker samples at a time; 0 cuts the prompts into a few shards a worker. What
    a lost worker repeats is one shard."""
    samples_per_shard: ShardSize = 0
    """Samples per prompt in a shard; 0 takes all of them."""
    verify: bool = False
    """Grade in the workers instead of on this machine."""

    @classmethod
    def of(cls, config: AssessmentConfig) -> "RayOptions":
        """Read the options of a config.

        Raises:
            ConfigError: One is unknown, of a wrong type or too small.
        """
        own: dict[str, Any] = {
            k: v for k, v in config.backend_options.items() if not k.startswith(INNER)
        }
        for name in (name for name in own if name not in cls.model_fields):
            known = ", ".join([*cls.model_fields, f"{INNER}<option of the inner sampler>"])
            raise ConfigError(f"backend_options.{name}", own[name], f"unknown; known: {known}")
        if own.get("inner") in ("ray", "replay"):
            raise ConfigError("backend_options.inner", own["inner"], "a sampler with a model")
        try:
            return cls(**own)
        except ConfigError as error:
            name = f"backend_options.{error.field}"
            raise ConfigError(name, error.value, error.need) from error

    @property
    def demand(self) -> Demand:
        """What the workers claim of the cluster."""
        return Demand(
            num_workers=self.num_workers,
            num_cpus=self.num_cpus_per_worker,
            num_gpus=self.num_gpus_per_worker,
        )

    def config_for_worker(self, config: AssessmentConfig) -> AssessmentConfig:
        """The config that the inner sampler is built from."""
        given = config.backend_options.items()
        inner = {name.removeprefix(INNER): v for name, v in given if name.startswith(INNER)}
        return config.model_copy(update={"backend": self.inner, "backend_options": inner})
