"""Graded rollouts of some prompts: stored ones are read, missing ones sampled and stored."""

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from mlflow_rlrisk.records import GradedGroup, Prompt, RolloutGroup
from mlflow_rlrisk.rollouts.store import RolloutStore
from mlflow_rlrisk.rollouts.writer import RolloutWriter
from mlflow_rlrisk.samplers import GradingSampler, Sampler, draws_ranges
from mlflow_rlrisk.verifiers import VerifierPool


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Prompts that lack the same samples.

    Attributes:
        prompts: The prompts.
        samples: The samples to draw of each; ``None`` for whatever the sampler has.
    """

    prompts: tuple[Prompt, ...]
    samples: range | None

    @property
    def num_rollouts(self) -> int:
        """Rollouts to draw; 0 where their number is not known before."""
        return 0 if self.samples is None else len(self.prompts) * len(self.samples)


class Gatherer:
    """Brings together what is stored and what a sampler draws.

    Args:
        sampler: Draws what is missing.
        pool: Grades it.
        store: Keeps both; ``None`` keeps nothing.
        num_samples: Samples per prompt that ``sampler.sample`` draws; ``None`` where the rollouts
            are given (replay) and every stored group is whole.
    """

    def __init__(
        self,
        sampler: Sampler,
        pool: VerifierPool,
        store: RolloutStore | None,
        num_samples: int | None,
    ) -> None:
        self._sampler = sampler
        self._pool = pool
        self._store = store
        self._num_samples = num_samples

    def missing(self, prompts: Sequence[Prompt], num_samples: int | None) -> list[Batch]:
        """What must be sampled for the first ``num_samples`` rollouts of each prompt."""
        if num_samples is None:
            absent = prompts if self._store is None else self._store.missing_prompts(prompts)
            return [Batch(prompts=tuple(absent), samples=None)] if absent else []
        lacking: dict[range, list[Prompt]] = {}
        for prompt in prompts:
            samples = range(num_samples)
            if self._store is not None:
                samples = self._store.missing_samples(prompt.id, num_samples)
            if samples and not draws_ranges(self._sampler):
                samples = range(num_samples)
            if samples:
                lacking.setdefault(samples, []).append(prompt)
        return [Batch(prompts=tuple(few), samples=samples) for samples, few in lacking.items()]

    def stored(
        self, prompts: Sequence[Prompt], num_samples: int | None
    ) -> Generator[GradedGroup, None, None]:
        """Groups whose rollouts are all stored; what has no grades is graded and stored."""
        if self._store is None:
            return
        lacking = {p.id for batch in self.missing(prompts, num_samples) for p in batch.prompts}
        complete = [prompt for prompt in prompts if prompt.id not in lacking]
        graded = set()
        for group in self._store.graded_groups(complete, num_samples):
            graded.add(group.prompt.id)
            yield group
        ungraded = [prompt for prompt in complete if prompt.id not in graded]
        yield from self._kept(self._pool.grade(self._store.groups(ungraded, num_samples)))

    def sampled(
        self, batches: Iterable[Batch], num_samples: int | None
    ) -> Generator[GradedGroup, None, None]:
        """Sample the batches; a group comes as soon as its last rollout is graded.

        A batch that completes groups of which a part was stored yields them after its end.
        """
        for batch in batches:
            groups = self._kept(self._graded(batch))
            if batch.samples is None or batch.samples.start == 0:
                yield from groups
                continue
            for _ in groups:
                pass
            yield from self.stored(batch.prompts, num_samples)
        if self._store is not None:
            self._store.compact()

    def _draw(self, batch: Batch) -> Iterator[RolloutGroup]:
        is_whole = batch.samples is None or len(batch.samples) == self._num_samples
        if batch.samples is None or is_whole or not draws_ranges(self._sampler):
            return self._sampler.sample(batch.prompts)
        return self._sampler.sample_range(batch.prompts, batch.samples)

    def _graded(self, batch: Batch) -> Iterator[GradedGroup]:
        sampler = self._sampler
        if batch.samples is not None and isinstance(sampler, GradingSampler) and sampler.grades:
            return sampler.sample_graded(batch.prompts, batch.samples, self._pool.spec.text)
        return self._pool.grade(self._draw(batch))

    def _kept(self, groups: Iterable[GradedGroup]) -> Generator[GradedGroup, None, None]:
        with ExitStack() as stack:
            writer = None
            if self._store is not None:
                writer = stack.enter_context(RolloutWriter(self._store))
            for group in groups:
                if writer is not None:
                    writer.add(group)
                yield group
