"""Sampling on any number of machines: Ray Data runs one of our own samplers in every worker.

The work is cut into shards of prompts and ranges of samples. A rollout's random stream is named
by its prompt and sample alone, so where and in which order shards run changes nothing; a worker
that dies is started again and repeats the shard it was at. Groups that were split are put
together here, and leave as soon as they are whole: graded and stored by the caller while the
cluster samples on. ``ray[llm]`` is not used: it pins an engine of its own.
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlflow_rlrisk.checkpoint import Checkpoint
from mlflow_rlrisk.config import AssessmentConfig
from mlflow_rlrisk.errors import RLRiskError, SamplerError
from mlflow_rlrisk.records import Grade, GradedGroup, Prompt, Rollout, RolloutGroup
from mlflow_rlrisk.rollouts.shards import GRADE_SCHEMA, grades_of, groups_of
from mlflow_rlrisk.samplers import OnTokens, opened
from mlflow_rlrisk.samplers.ray_cluster import join_cluster, require_ray
from mlflow_rlrisk.samplers.ray_options import RayOptions
from mlflow_rlrisk.samplers.ray_shards import Describer, ShardWorker, cut_shards

MODEL_RUNNERS = ("transformers", "vllm")
"""Inner samplers that run a model themselves, on a GPU where they see one."""
MOST_RETRIES = 3
"""Workers that one shard may cost before sampling stops: it kills them, not the machine."""
MOST_RESTARTS = 20
"""Restarts of one worker over a whole run."""


class RaySampler:
    """Spreads an inner sampler over the workers of a Ray cluster.

    Settings are those of `RayOptions`, as ``backend_options``. The model is loaded once in each
    worker for every call of `sample` or `sample_range`, and once before for `describe`.
    """

    def __init__(
        self,
        source: Checkpoint | Path | str,
        config: AssessmentConfig,
        on_tokens: OnTokens | None = None,
    ) -> None:
        """Reach the cluster and load the inner sampler in one worker, to know what it is.

        Raises:
            ConfigError: An option is wrong, or the cluster cannot carry the workers.
            CheckpointError: The checkpoint is refused, or no worker can read it.
            SamplerError: The cluster or the inner sampler cannot be used.
            MissingDependencyError: An extra is not installed.
        """
        self.on_tokens = on_tokens
        self._options = RayOptions.of(config)
        self._source = opened(source, config)
        self._config = self._options.config_for_worker(config)
        takes_gpus = self._options.inner in MODEL_RUNNERS and config.device != "cpu"
        demand = replace(self._options.demand, takes_gpus=takes_gpus)
        self._is_ours = join_cluster(self._options.address, demand)
        self._describer: Any = None
        try:
            self._described: dict[str, Any] = self._ask("describe")
            self.can_draw_ranges = bool(self._ask("can_draw_ranges"))
        except BaseException:
            self.close()
            raise

    def sample(self, prompts: Sequence[Prompt]) -> Iterator[RolloutGroup]:
        """Yield the group of every prompt as soon as its last shard is there.

        Raises:
            CheckpointError: The tokenizer does not fit the prompts.
            SamplerError: A worker failed in a way that trying again does not mend.
        """
        return self.sample_range(prompts, range(self._config.sampling.num_samples))

    def sample_range(self, prompts: Sequence[Prompt], samples: range) -> Iterator[RolloutGroup]:
        """Yield the samples of that range of every prompt; order and errors as in `sample`."""
        for group, _ in self._merged(prompts, samples, None):
            yield group

    @property
    def grades(self) -> bool:
        """True where the option ``verify`` asks for grading in the workers."""
        return self._options.verify

    def sample_graded(
        self, prompts: Sequence[Prompt], samples: range, verifier: str
    ) -> Iterator[GradedGroup]:
        """Yield the samples of that range with the grades that the workers gave them.

        Args:
            prompts: Prompts to sample.
            samples: Samples to draw of each.
            verifier: Spec of the verifier; a file in it must be there on every node.

        Raises:
            VerifierError: A worker cannot load the verifier.
            SamplerError: As in `sample`.
        """
        for group, grades in self._merged(prompts, samples, verifier):
            yield GradedGroup(prompt=group.prompt, rollouts=group.rollouts, grades=grades)

    def _merged(
        self, prompts: Sequence[Prompt], samples: range, verifier: str | None
    ) -> Iterator[tuple[RolloutGroup, tuple[Grade, ...]]]:
        """Whole groups, with a grade for each rollout where there is a verifier."""
        by_id = {prompt.id: prompt for prompt in prompts}
        parts: dict[str, dict[int, tuple[Rollout, Grade | None]]] = {}
        for table in self._tables(prompts, samples, verifier):
            grades = {} if verifier is None else grades_of(table.select(GRADE_SCHEMA.names))
            for part in groups_of(table, by_id):
                known = grades.get(part.prompt.id, {})
                found = parts.setdefault(part.prompt.id, {})
                found.update(
                    {r.sample_index: (r, known.get(r.sample_index)) for r in part.rollouts}
                )
                if len(found) < len(samples):
                    continue
                whole = [found[index] for index in samples]
                del parts[part.prompt.id]
                group = RolloutGroup(prompt=part.prompt, rollouts=tuple(r for r, _ in whole))
                yield group, tuple(grade for _, grade in whole if grade is not None)

    def estimate_s(self, prompts: Sequence[Prompt]) -> float | None:
        """What one worker would need, shared by all."""
        alone: float | None = self._ask("estimate_s", list(prompts))
        return None if alone is None else alone / self._options.num_workers

    def template(self, prompts: Sequence[Prompt]) -> str:
        """As the inner sampler says."""
        return str(self._ask("template", list(prompts)))

    def describe(self) -> dict[str, Any]:
        """What the inner sampler says, for the rollouts are its own, and how it was spread."""
        ray = require_ray()
        return {
            **self._described,
            "scale_out": f"ray {ray.__version__}",
            "num_workers": self._options.num_workers,
        }

    def close(self) -> None:
        """Let go of the workers, and of the cluster where this sampler connected to it."""
        ray = require_ray()
        self._stop_describer()
        if self._is_ours and ray.is_initialized():
            ray.shutdown()
        self._is_ours = False

    def _tell(self, table: Any) -> None:
        if self.on_tokens is not None:
            num_tokens = sum(map(len, table["token_ids"].to_pylist()))
            self.on_tokens(num_tokens, table.num_rows)

    def _ask(self, question: str, *arguments: Any) -> Any:
        ray = require_ray()
        options = self._options
        try:
            if self._describer is None:
                actor = ray.remote(Describer).options(
                    num_cpus=options.num_cpus_per_worker, num_gpus=options.num_gpus_per_worker
                )
                needs_ranges = bool(options.samples_per_shard)
                self._describer = actor.remote(self._source, self._config, needs_ranges)
            return ray.get(getattr(self._describer, question).remote(*arguments))
        except ray.exceptions.RayError as error:
            raise _as_ours(error) from error

    def _stop_describer(self) -> None:
        """Give its resources to the workers."""
        ray = require_ray()
        describer, self._describer = self._describer, None
        if describer is not None and ray.is_initialized():
            ray.kill(describer)

    def _tables(
        self, prompts: Sequence[Prompt], samples: range, verifier: str | None
    ) -> Iterator[Any]:
        """Tables of rollouts in the order in which shards are finished."""
        ray = require_ray()
        options = self._options
        self._stop_describer()
        shards = cut_shards(
            prompts,
            samples,
            num_workers=options.num_workers,
            prompts_per_shard=options.prompts_per_shard,
            samples_per_shard=options.samples_per_shard,
        )
        rows = [{"shard": ray.cloudpickle.dumps(shard)} for shard in shards]
        data: Any = ray.data.from_items(rows, override_num_blocks=len(rows))
        with warnings.catch_warnings():
            # Ray 2.60 has no other way yet to bound the retries.
            warnings.filterwarnings("ignore", message=".*ray_remote_args_fn")
            data = data.map_batches(
                ShardWorker,
                batch_size=1,
                batch_format="numpy",
                fn_constructor_kwargs={
                    "source": self._source,
                    "config": self._config,
                    "verifier": verifier,
                },
                num_cpus=options.num_cpus_per_worker,
                num_gpus=options.num_gpus_per_worker or None,
                compute=ray.data.ActorPoolStrategy(
                    size=min(options.num_workers, len(shards)), max_tasks_in_flight_per_actor=2
                ),
                ray_remote_args_fn=_retries,
            )
        data.context.enable_progress_bars = False
        try:
            for table in data.iter_batches(
                batch_size=None, batch_format="pyarrow", prefetch_batches=0
            ):
                self._tell(table)
                yield table.combine_chunks()
        except ray.exceptions.RayError as error:
            raise _as_ours(error) from error


def _retries() -> dict[str, int]:
    """Ray Data would try for ever."""
    return {"max_task_retries": MOST_RETRIES, "max_restarts": MOST_RESTARTS}


def _as_ours(error: BaseException) -> RLRiskError:
    """The expected error that a worker raised, or that the cluster failed."""
    seen: BaseException | None = error
    while seen is not None:
        # Ray's own error is of the cause's class as well, and its text is a traceback.
        for found in (getattr(seen, "cause", None), seen):
            if isinstance(found, RLRiskError):
                return found
        seen = seen.__cause__ or seen.__context__
    last = str(error).strip().splitlines()[-1:] or [type(error).__name__]
    return SamplerError(f"a worker of the Ray cluster failed: {last[0]}")
