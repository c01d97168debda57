"""Settings of the Ray sampler, read from ``backend_options``."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from mlflow_rlrisk.config import AssessmentConfig
from mlflow_rlrisk.errors import ConfigError
from mlflow_rlrisk.samplers.ray_cluster import Demand

INNER = "inner."
"""Options under this prefix go to the inner sampler, without it."""

_MINIMUM = {
    "num_workers": 1,
    "num_cpus_per_worker": 0,
    "num_gpus_per_worker": 0,
    "prompts_per_shard": 0,
    "samples_per_shard": 0,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RayOptions:
    """How the work is spread.

    Attributes:
        inner: Installed sampler that every worker runs.
        num_workers: Workers, each with the model loaded once.
        num_cpus_per_worker: CPUs that Ray books for each; 0 where GPUs are counted.
        num_gpus_per_worker: GPUs of each, such as the tensor-parallel size.
        address: Of a running cluster; empty takes ``RAY_ADDRESS`` or starts one here.
        prompts_per_shard: Prompts that a worker samples at a time; 0 cuts the prompts into a few
            shards a worker. What a lost worker repeats is one shard.
        samples_per_shard: Samples per prompt in a shard; 0 takes all of them.
        verify: Grade in the workers instead of on this machine.
        inner_options: Settings of the inner sampler.
    """

    inner: str = "transformers"
    num_workers: int = 1
    num_cpus_per_worker: float = 1
    num_gpus_per_worker: float = 0
    address: str = ""
    prompts_per_shard: int = 0
    samples_per_shard: int = 0
    verify: bool = False
    inner_options: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, config: AssessmentConfig) -> "RayOptions":
        """Read the options of a config.

        Raises:
            ConfigError: One is unknown, of a wrong type or too small.
        """
        given: Mapping[str, Any] = config.backend_options
        own = {each.name: each.type for each in fields(cls) if each.name != "inner_options"}
        inner = {name.removeprefix(INNER): v for name, v in given.items() if name.startswith(INNER)}
        values = {name: v for name, v in given.items() if not name.startswith(INNER)}
        for name, value in values.items():
            if name not in own:
                known = ", ".join([*own, f"{INNER}<option of the inner sampler>"])
                raise ConfigError(f"backend_options.{name}", value, f"unknown; known: {known}")
            _check(name, value, type(getattr(cls(), name)))
        if values.get("inner") in ("ray", "replay"):
            raise ConfigError("backend_options.inner", values["inner"], "a sampler with a model")
        return cls(**values, inner_options=inner)

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
        changes = {"backend": self.inner, "backend_options": self.inner_options}
        return config.model_copy(update=changes)


def _check(name: str, value: Any, kind: type) -> None:
    is_number = name in ("num_cpus_per_worker", "num_gpus_per_worker")
    is_right = isinstance(value, int | float if is_number else kind)
    if not is_right or isinstance(value, bool) != (kind is bool):
        raise ConfigError(f"backend_options.{name}", value, f"must be {kind.__name__}")
    if name in _MINIMUM and float(value) < _MINIMUM[name]:
        raise ConfigError(f"backend_options.{name}", value, f"must be at least {_MINIMUM[name]}")
