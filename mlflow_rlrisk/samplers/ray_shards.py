"""The unit of work on a cluster, and the worker that does it: (prompts, range of samples)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import pyarrow as pa

from mlflow_rlrisk.checkpoint import Checkpoint
from mlflow_rlrisk.config import AssessmentConfig
from mlflow_rlrisk.errors import CheckpointError, SamplerError
from mlflow_rlrisk.records import Prompt, RolloutGroup
from mlflow_rlrisk.rollouts.shards import GRADE_SCHEMA, grade_table, rollout_table
from mlflow_rlrisk.samplers import Sampler, draws_ranges, load_sampler
from mlflow_rlrisk.samplers.ray_cluster import require_ray
from mlflow_rlrisk.verifiers import VerifierPool

SHARDS_PER_WORKER = 4
"""Shards cut for each worker where nothing else is asked: few loads to even out, little to lose."""

GRADE_COLUMNS = [name for name in GRADE_SCHEMA.names if name not in ("prompt_id", "sample_index")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """Work that is done or lost as a whole; sampling it again gives the same rollouts."""

    prompts: tuple[Prompt, ...]
    samples: range


def cut_shards(
    prompts: Sequence[Prompt],
    samples: range,
    *,
    num_workers: int,
    prompts_per_shard: int = 0,
    samples_per_shard: int = 0,
) -> list[Shard]:
    """Cut the work so that prompts of like length go together, the longest first.

    Args:
        prompts: Prompts to sample.
        samples: Samples to draw of each.
        num_workers: Workers to keep busy.
        prompts_per_shard: Prompts in a shard; 0 makes `SHARDS_PER_WORKER` shards a worker.
        samples_per_shard: Samples in a shard; 0 means all.
    """
    width = prompts_per_shard or -(-len(prompts) // (num_workers * SHARDS_PER_WORKER)) or 1
    depth = samples_per_shard or len(samples)
    ordered = sorted(prompts, key=lambda prompt: -len(prompt.text))
    return [
        Shard(prompts=tuple(ordered[place : place + width]), samples=samples[first : first + depth])
        for place in range(0, len(ordered), width)
        for first in range(0, len(samples), depth)
    ]


def build_inner(
    source: Checkpoint, config: AssessmentConfig, *, node: str, needs_ranges: bool
) -> Sampler:
    """Build the inner sampler in a worker.

    Args:
        source: The checkpoint as it was screened where the assessment was started.
        config: Settings, with the inner backend and its options.
        node: Name of the machine, for the error.
        needs_ranges: Groups are split over shards.

    Raises:
        CheckpointError: The checkpoint cannot be read from here.
        SamplerError: The inner sampler cannot split groups.
    """
    if not (source.model_path / "config.json").is_file():
        raise CheckpointError(
            f"{source.display_name}: {source.model_path} cannot be read on node {node}; put the "
            "checkpoint where every node sees it under the same path"
        )
    inner = load_sampler(config.backend)(source, config)
    if needs_ranges and not draws_ranges(inner):
        raise SamplerError(
            f"the sampler {config.backend} cannot draw a part of a group: set no samples_per_shard"
        )
    return inner


class Describer:
    """An actor that says what the inner sampler is, before anything is sampled.

    It builds the sampler in its first call: Ray hands on what a call raises, of a constructor
    that fails it only says that the actor died. `ShardWorker` does the same.
    """

    def __init__(self, source: Checkpoint, config: AssessmentConfig, needs_ranges: bool) -> None:
        self._build = partial(build_inner, source, config, needs_ranges=needs_ranges)

    @cached_property
    def _inner(self) -> Sampler:
        return self._build(node=_node())

    def describe(self) -> dict[str, Any]:
        """As the sampler says."""
        return self._inner.describe()

    def can_draw_ranges(self) -> bool:
        """Whether groups may be split."""
        return draws_ranges(self._inner)

    def template(self, prompts: Sequence[Prompt]) -> str:
        """As the sampler says."""
        return self._inner.template(prompts)

    def estimate_s(self, prompts: Sequence[Prompt]) -> float | None:
        """As the sampler says, of one worker."""
        return self._inner.estimate_s(prompts)


class ShardWorker:
    """The actor of Ray Data: a batch of one shard in, the table of its rollouts out.

    Args:
        source: The checkpoint.
        config: Settings, with the inner backend and its options.
        verifier: Spec of the verifier that grades here; ``None`` leaves that to the caller.
    """

    def __init__(
        self, source: Checkpoint, config: AssessmentConfig, verifier: str | None = None
    ) -> None:
        self._config = config
        self._verifier = verifier
        self._build = partial(build_inner, source, config, needs_ranges=False)

    @cached_property
    def _inner(self) -> Sampler:
        return self._build(node=_node())

    @cached_property
    def _pool(self) -> VerifierPool:
        """Its processes end when the actor does, however that ends."""
        config = self._config
        return VerifierPool(
            self._verifier or "",
            num_workers=config.verifier_workers,
            timeout_s=config.verifier_timeout_s,
        ).__enter__()

    def __call__(self, batch: dict[str, Any]) -> pa.Table:
        """Sample the shard; nothing of it leaves before all of it is there.

        Returns:
            The rollouts, with the columns of their grades where a verifier is given.
        """
        (payload,) = batch["shard"]  # made by our own driver
        shard: Shard = require_ray().cloudpickle.loads(payload)
        if self._verifier is None:
            return rollout_table(list(self._drawn(shard)))
        groups = list(self._pool.grade(self._drawn(shard)))
        table, grades = rollout_table(groups), grade_table(groups)
        for name in GRADE_COLUMNS:
            table = table.append_column(grades.schema.field(name), grades[name])
        return table

    def _drawn(self, shard: Shard) -> Iterator[RolloutGroup]:
        if shard.samples == range(self._config.sampling.num_samples):
            return self._inner.sample(shard.prompts)
        if draws_ranges(self._inner):
            return self._inner.sample_range(shard.prompts, shard.samples)
        raise SamplerError(f"the sampler {self._config.backend} cannot draw a part of a group")


def _node() -> str:
    return str(require_ray().util.get_node_ip_address())
