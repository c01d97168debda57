"""The unit of work on a cluster, and the worker that does it: (prompts, range of samples)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from mlflow_rlrisk.checkpoint import Checkpoint
from mlflow_rlrisk.config import AssessmentConfig
from mlflow_rlrisk.errors import CheckpointError, SamplerError
from mlflow_rlrisk.records import Prompt
from mlflow_rlrisk.rollout_shards import rollout_table
from mlflow_rlrisk.samplers import Sampler, draws_ranges, load_sampler

SHARDS_PER_WORKER = 4
"""Shards cut for each worker where nothing else is asked: few loads to even out, little to lose."""


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
    source: Checkpoint | str, config: AssessmentConfig, *, node: str, needs_ranges: bool
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
    if isinstance(source, Checkpoint) and not (source.model_path / "config.json").is_file():
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
    """An actor that says what the inner sampler is, before anything is sampled."""

    def __init__(self, source: Checkpoint | str, config: AssessmentConfig, needs_ranges: bool):
        self._inner = build_inner(source, config, node=_node(), needs_ranges=needs_ranges)

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
    """The actor of Ray Data: a batch of one shard in, the table of its rollouts out."""

    def __init__(self, source: Checkpoint | str, config: AssessmentConfig) -> None:
        self._inner = build_inner(source, config, node=_node(), needs_ranges=False)
        self._num_samples = config.sampling.num_samples

    def __call__(self, batch: dict[str, Any]) -> pa.Table:
        """Sample the shard; nothing of it leaves before all of it is there."""
        from ray import cloudpickle

        (payload,) = batch["shard"]  # made by our own driver
        shard: Shard = cloudpickle.loads(payload)
        if shard.samples == range(self._num_samples):
            groups = list(self._inner.sample(shard.prompts))
        elif draws_ranges(self._inner):
            groups = list(self._inner.sample_range(shard.prompts, shard.samples))
        else:
            raise SamplerError(f"this sampler cannot draw {shard.samples} of a group")
        return rollout_table(groups)


def _node() -> str:
    import ray

    return str(ray.util.get_node_ip_address())


def source_of(source: Checkpoint | Path | str) -> Checkpoint | str:
    """What a worker gets; a path stays text, for it may not exist here."""
    return source if isinstance(source, Checkpoint) else str(source)
