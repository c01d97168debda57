"""The folder in which an assessment keeps its rollouts and grades.

``rollouts/`` and ``grades/`` hold Parquet shards, ``manifest.json`` says which checkpoint,
prompts and sampler they belong to. A shard appears whole or not at all, so an interrupted run
loses what was in flight and a rerun samples only what is missing. Grades lie apart, so that
another verifier can replace them without a model.
"""

import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from mlflow_rlrisk.errors import RolloutStoreError
from mlflow_rlrisk.records import Grade, GradedGroup, Prompt, Rollout, RolloutGroup
from mlflow_rlrisk.rollouts.manifest import (
    MANIFEST,
    read_manifest,
    refuse_difference,
    write_manifest,
)
from mlflow_rlrisk.rollouts.shard_folder import ShardFolder
from mlflow_rlrisk.rollouts.shards import (
    GRADE_SCHEMA,
    ROLLOUT_SCHEMA,
    coded,
    first_tokens,
    grade_table,
    grades_of,
    groups_of,
    rollout_table,
    values_of,
)

logger = logging.getLogger(__name__)


class RolloutStore:
    """Stored rollouts and grades of one assessment, in ``folder``."""

    def __init__(self, folder: str | Path) -> None:
        """Open or prepare a store; nothing is written before `bind` or `append`."""
        self.folder = Path(folder)
        self._rollouts = ShardFolder(self.folder / "rollouts", ROLLOUT_SCHEMA)
        self._grades = ShardFolder(self.folder / "grades", GRADE_SCHEMA)
        self._seen: dict[str, int] | None = None

    @property
    def damaged(self) -> list[str]:
        """Names of shards that could not be read; their prompts count as not sampled."""
        return self._rollouts.damaged + self._grades.damaged

    @property
    def identity(self) -> dict[str, str]:
        """What the stored rollouts belong to: digests by name. Empty for a new store.

        Raises:
            RolloutStoreError: The manifest is damaged or of another schema version.
        """
        return read_manifest(self.folder)

    @property
    def grades_identity(self) -> dict[str, str]:
        """What the stored grades belong to (the verifier's digest); empty without grades."""
        return read_manifest(self._grades.path)

    def refuse_other(self, identity: Mapping[str, str]) -> None:
        """Refuse to be the store of these inputs where it is that of others; writes nothing.

        Raises:
            RolloutStoreError: It is; names what differs.
        """
        refuse_difference(self.folder, identity)
        if not (self.identity or self._rollouts.is_empty):
            raise RolloutStoreError(f"{self.folder} has rollouts and no {MANIFEST}")

    def bind(self, identity: Mapping[str, str]) -> None:
        """Declare what the rollouts belong to: digests of checkpoint, tokenizer, prompts, ...

        Raises:
            RolloutStoreError: The store holds rollouts of something else; names what differs.
        """
        self.refuse_other(identity)
        if not self.identity:
            write_manifest(self.folder, identity)

    def bind_grades(self, identity: Mapping[str, str]) -> None:
        """Declare what the grades belong to; grades of another verifier are discarded."""
        if self.grades_identity != dict(identity):
            shutil.rmtree(self._grades.path, ignore_errors=True)
            write_manifest(self._grades.path, identity)

    def completed_prompt_ids(self) -> set[str]:
        """Prompts of which rollouts are stored and readable."""
        return set(self._samples())

    def missing_prompts(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        """Those of the prompts that have no rollouts here."""
        known = self.completed_prompt_ids()
        return [prompt for prompt in prompts if prompt.id not in known]

    def missing_samples(self, prompt_id: str, num_samples: int) -> range:
        """Which of the first ``num_samples`` rollouts of a prompt are not stored.

        All of them where holes in the middle could not be told as one range.
        """
        missing = ~self._samples().get(prompt_id, 0) & _first(num_samples)
        start, stop = (missing & -missing).bit_length() - 1, missing.bit_length()
        if missing == 0:
            return range(num_samples, num_samples)
        is_run = missing == _first(stop) & ~_first(start)
        return range(start, stop) if is_run else range(num_samples)

    def _samples(self) -> dict[str, int]:
        """By prompt, which rollouts are stored: bit ``i`` for sample ``i``."""
        if self._seen is None:
            self._seen = {}
            for table in self._rollouts.tables():
                rows = zip(
                    *(table[n].to_pylist() for n in ("prompt_id", "sample_index")), strict=True
                )
                for prompt_id, index in rows:
                    self._seen[prompt_id] = self._seen.get(prompt_id, 0) | 1 << index
        return self._seen

    def graded_prompt_ids(self) -> set[str]:
        """Prompts whose grades are stored and readable."""
        found: set[str] = set()
        for table in self._grades.tables():
            found.update(table["prompt_id"].unique().to_pylist())
        return found

    def append(self, groups: Sequence[RolloutGroup | GradedGroup]) -> None:
        """Store groups, or a range of their rollouts, in one shard; grades too where there are any.

        The same groups stored twice are stored once.
        """
        groups = [group for group in groups if group.rollouts]
        if not groups:
            return
        self._rollouts.append(rollout_table(groups), _keys(groups))
        if self._seen is not None:
            for group in groups:
                for rollout in group.rollouts:
                    known = self._seen.get(group.prompt.id, 0)
                    self._seen[group.prompt.id] = known | 1 << rollout.sample_index
        self.append_grades([group for group in groups if isinstance(group, GradedGroup)])

    def append_grades(self, groups: Sequence[GradedGroup]) -> None:
        """Store the grades of groups whose rollouts are stored already."""
        if groups:
            self._grades.append(grade_table(groups), _keys(groups))

    def groups(
        self, prompts: Sequence[Prompt], num_samples: int | None = None
    ) -> Iterator[RolloutGroup]:
        """Read the groups of these prompts, each once, in the order they were completed in.

        Rollouts of a prompt that came in several ranges are put together.

        Args:
            prompts: Prompts to read; those without rollouts are left out.
            num_samples: Only so many rollouts of each, the first ones; ``None`` means all.
        """
        wanted = {prompt.id: prompt for prompt in prompts}
        if not wanted:
            return
        within = -1 if num_samples is None else _first(num_samples)
        stored = self._samples()
        parts: dict[str, dict[int, Rollout]] = {}
        for table in self._rollouts.tables():
            for part in groups_of(table, wanted):
                if part.prompt.id not in wanted:
                    continue
                found = parts.setdefault(part.prompt.id, {})
                for rollout in part.rollouts:
                    if within >> rollout.sample_index & 1:
                        found.setdefault(rollout.sample_index, rollout)
                if found and len(found) == (stored.get(part.prompt.id, 0) & within).bit_count():
                    del wanted[part.prompt.id], parts[part.prompt.id]
                    yield RolloutGroup(
                        prompt=part.prompt, rollouts=tuple(found[index] for index in sorted(found))
                    )

    def tokens(
        self, prompt_ids: Sequence[str], depth: int
    ) -> Iterator[tuple[str, list[int], list[float]]]:
        """Read the first token ids and logprobs of the rollouts of these prompts that have both.

        Texts and entropies, the larger part of a store, stay on disk. A shard that cannot be read
        is left out, as in `groups`; a rollout that lies in two shards comes twice.
        """
        wanted = frozenset(prompt_ids)
        for path in sorted(self._rollouts.path.glob("*.parquet")):
            try:
                yield from first_tokens(path, wanted, depth)
            except (OSError, ValueError) as error:
                logger.warning("%s is damaged and its groups are lost: %s", path, error)

    def answers(
        self, success_threshold: float | None, num_samples: int | None = None
    ) -> dict[str, dict[str, tuple[int, bool]]]:
        """By prompt, how often each extracted answer was given and whether it is correct.

        Answers that got no reward do not count; rollouts stay on disk.

        Args:
            success_threshold: Correct from this reward on; from 1 on where it is ``None``.
            num_samples: Only the first so many of each prompt; ``None`` for all.
        """
        tables = list(self._grades.tables())
        if not tables:
            return {}
        names = ("prompt_id", "answer", "sample_index", "reward")
        graded = pa.concat_tables(tables).select(names).drop_null()
        if not graded.num_rows:  # the verifier extracts no answers
            return {}
        prompts, answers = (coded(graded[name]) for name in names[:2])
        sample, reward = (values_of(graded[name]) for name in names[2:])
        # A rollout may lie in two shards.
        _, once = np.unique(prompts.codes << 32 | sample, return_index=True)
        if num_samples is not None:
            once = once[sample[once] < num_samples]
        kinds, place, counts = np.unique(
            prompts.codes[once] << 32 | answers.codes[once], return_inverse=True, return_counts=True
        )
        best = np.full(kinds.size, -np.inf)
        np.maximum.at(best, np.ravel(place), reward[once])
        line = 1.0 if success_threshold is None else success_threshold
        found: dict[str, dict[str, tuple[int, bool]]] = {}
        rows = zip(kinds.tolist(), counts.tolist(), (best >= line).tolist(), strict=True)
        for kind, count, is_correct in rows:
            prompt, answer = prompts.texts[kind >> 32], answers.texts[kind & 0xFFFFFFFF]
            found.setdefault(prompt, {})[answer] = (count, is_correct)
        return found

    def graded_groups(
        self, prompts: Sequence[Prompt], num_samples: int | None = None
    ) -> Iterator[GradedGroup]:
        """Read those of `groups` that have a grade for every rollout."""
        grades: dict[str, dict[int, Grade]] = {}
        for table in self._grades.tables():
            for prompt_id, found in grades_of(table).items():
                grades.setdefault(prompt_id, {}).update(found)
        for group in self.groups(prompts, num_samples):
            known = grades.get(group.prompt.id, {})
            if all(rollout.sample_index in known for rollout in group.rollouts):
                yield GradedGroup(
                    prompt=group.prompt,
                    rollouts=group.rollouts,
                    grades=tuple(known[rollout.sample_index] for rollout in group.rollouts),
                )

    def compact(self) -> None:
        """Merge the shards of single appends into one."""
        for folder in (self._rollouts, self._grades):
            folder.compact()


def _keys(groups: Sequence[RolloutGroup | GradedGroup]) -> list[str]:
    return [f"{g.prompt.id} {[rollout.sample_index for rollout in g.rollouts]}" for g in groups]


def _first(count: int) -> int:
    """Bits of the samples below ``count``."""
    return (1 << count) - 1
