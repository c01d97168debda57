"""The folder in which an assessment keeps its rollouts and grades.

``rollouts/`` and ``grades/`` hold Parquet shards, ``manifest.json`` says which checkpoint,
prompts and sampler they belong to. A shard appears whole or not at all, so an interrupted run
loses what was in flight and a rerun samples only what is missing. Grades lie apart, so that
another verifier can replace them without a model.
"""

import json
import logging
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import pyarrow as pa

from mlflow_rlrisk.content import text_digest
from mlflow_rlrisk.errors import RolloutStoreError
from mlflow_rlrisk.records import Grade, GradedGroup, Prompt, Rollout, RolloutGroup
from mlflow_rlrisk.rollouts.shards import (
    GRADE_SCHEMA,
    ROLLOUT_SCHEMA,
    coded,
    first_tokens,
    grade_table,
    grades_of,
    groups_of,
    read_shard,
    rollout_table,
    values_of,
    write_shard,
    write_text_atomically,
)

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
MAX_LOOSE_SHARDS = 128
"""Shards of single appends beyond which they are merged; files stay few for 10^4 prompts."""

LOOSE, MERGED = "part-", "merged-"


class RolloutStore:
    """Stored rollouts and grades of one assessment.

    Attributes:
        folder: Where they lie.
        damaged: Names of shards that could not be read; their prompts count as not sampled.
    """

    def __init__(self, folder: str | Path) -> None:
        """Open or prepare a store; nothing is written before `bind` or `append`."""
        self.folder = Path(folder)
        self.damaged: list[str] = []
        self._rollouts = self.folder / "rollouts"
        self._grades = self.folder / "grades"
        self._seen: dict[str, int] | None = None

    @property
    def identity(self) -> dict[str, str]:
        """What the stored rollouts belong to: digests by name. Empty for a new store.

        Raises:
            RolloutStoreError: The manifest is damaged or of another schema version.
        """
        return _read_manifest(self.folder / MANIFEST)

    @property
    def grades_identity(self) -> dict[str, str]:
        """What the stored grades belong to (the verifier's digest); empty without grades."""
        return _read_manifest(self._grades / MANIFEST)

    def refuse_other(self, identity: Mapping[str, str]) -> None:
        """Refuse to be the store of these inputs where it is that of others; writes nothing.

        Raises:
            RolloutStoreError: It is; names what differs.
        """
        known = self.identity
        if known:
            _refuse_difference(self.folder, known, identity)
        elif next(self._rollouts.glob("*.parquet"), None) is not None:
            raise RolloutStoreError(f"{self.folder} has rollouts and no {MANIFEST}")

    def bind(self, identity: Mapping[str, str]) -> None:
        """Declare what the rollouts belong to: digests of checkpoint, tokenizer, prompts, ...

        Raises:
            RolloutStoreError: The store holds rollouts of something else; names what differs.
        """
        self.refuse_other(identity)
        if not self.identity:
            _write_manifest(self.folder / MANIFEST, identity)

    def bind_grades(self, identity: Mapping[str, str]) -> None:
        """Declare what the grades belong to; grades of another verifier are discarded."""
        if self.grades_identity != dict(identity):
            shutil.rmtree(self._grades, ignore_errors=True)
            _write_manifest(self._grades / MANIFEST, identity)

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
            for _, table in self._tables(self._rollouts, ROLLOUT_SCHEMA):
                rows = zip(
                    *(table[n].to_pylist() for n in ("prompt_id", "sample_index")), strict=True
                )
                for prompt_id, index in rows:
                    self._seen[prompt_id] = self._seen.get(prompt_id, 0) | 1 << index
        return self._seen

    def graded_prompt_ids(self) -> set[str]:
        """Prompts whose grades are stored and readable."""
        found: set[str] = set()
        for _, table in self._tables(self._grades, GRADE_SCHEMA):
            found.update(table["prompt_id"].unique().to_pylist())
        return found

    def append(self, groups: Sequence[RolloutGroup | GradedGroup]) -> None:
        """Store groups, or a range of their rollouts, in one shard; grades too where there are any.

        The same groups stored twice are stored once.
        """
        groups = [group for group in groups if group.rollouts]
        if not groups:
            return
        self._write(self._rollouts, rollout_table(groups), groups)
        if self._seen is not None:
            for group in groups:
                for rollout in group.rollouts:
                    known = self._seen.get(group.prompt.id, 0)
                    self._seen[group.prompt.id] = known | 1 << rollout.sample_index
        self.append_grades([group for group in groups if isinstance(group, GradedGroup)])

    def append_grades(self, groups: Sequence[GradedGroup]) -> None:
        """Store the grades of groups whose rollouts are stored already."""
        if groups:
            self._write(self._grades, grade_table(groups), groups)

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
        for _, table in self._tables(self._rollouts, ROLLOUT_SCHEMA):
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
        for path in sorted(self._rollouts.glob("*.parquet")):
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
        tables = [table for _, table in self._tables(self._grades, GRADE_SCHEMA)]
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
        for _, table in self._tables(self._grades, GRADE_SCHEMA):
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
        for folder, schema in ((self._rollouts, ROLLOUT_SCHEMA), (self._grades, GRADE_SCHEMA)):
            self._merge(folder, schema)

    def _write(
        self, folder: Path, table: pa.Table, groups: Sequence[RolloutGroup | GradedGroup]
    ) -> None:
        keys = [f"{g.prompt.id} {[rollout.sample_index for rollout in g.rollouts]}" for g in groups]
        write_shard(folder / f"{LOOSE}{_name(keys)}.parquet", table)
        if sum(1 for _ in folder.glob(f"{LOOSE}*.parquet")) > MAX_LOOSE_SHARDS:
            self._merge(folder, table.schema)

    def _merge(self, folder: Path, schema: pa.Schema) -> None:
        """Write the merged shard first: a kill in between leaves copies, never a hole."""
        loose = list(self._tables(folder, schema, pattern=f"{LOOSE}*.parquet"))
        if len(loose) < 2:
            return
        name = _name([path.name for path, _ in loose])
        write_shard(
            folder / f"{MERGED}{name}.parquet", pa.concat_tables([table for _, table in loose])
        )
        for path, _ in loose:
            path.unlink(missing_ok=True)

    def _tables(
        self, folder: Path, schema: pa.Schema, pattern: str = "*.parquet"
    ) -> Iterator[tuple[Path, pa.Table]]:
        for path in sorted(folder.glob(pattern)):
            try:
                table = read_shard(path, schema)
            except (OSError, ValueError) as error:
                if path.name not in self.damaged:
                    self.damaged.append(path.name)
                    logger.warning("%s is damaged and its groups are lost: %s", path, error)
                continue
            yield path, table


class RolloutWriter:
    """Appends groups one by one, in shards of what came within ``flush_s`` seconds.

    A single append costs two synced files, too much for a group of a few milliseconds. Leaving
    the ``with`` block stores the rest, also on Ctrl-C; a kill loses at most ``flush_s`` seconds.
    """

    def __init__(self, store: RolloutStore, flush_s: float = 1.0) -> None:
        self._store = store
        self._flush_s = flush_s
        self._waiting: list[RolloutGroup | GradedGroup] = []
        self._flushed_at = time.monotonic()

    def __enter__(self) -> Self:
        """Start waiting for groups."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Store what waits, whatever ended the block."""
        self.flush()

    def add(self, group: RolloutGroup | GradedGroup) -> None:
        """Take a complete group."""
        self._waiting.append(group)
        if time.monotonic() - self._flushed_at >= self._flush_s:
            self.flush()

    def flush(self) -> None:
        """Store what waits."""
        waiting, self._waiting = self._waiting, []
        self._store.append(waiting)
        self._flushed_at = time.monotonic()


def _first(count: int) -> int:
    """Bits of the samples below ``count``."""
    return (1 << count) - 1


def _name(parts: Sequence[str]) -> str:
    """A name from the content's keys: the same groups written twice replace each other."""
    return text_digest("\n".join(parts))[:24]


def _read_manifest(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        version, identity = manifest["schema_version"], dict(manifest["identity"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise RolloutStoreError(f"{path} is damaged: {error}") from error
    if version != SCHEMA_VERSION:
        raise RolloutStoreError(f"{path} has schema version {version}, {SCHEMA_VERSION} is needed")
    return {str(name): str(value) for name, value in identity.items()}


def _write_manifest(path: Path, identity: Mapping[str, str]) -> None:
    manifest = {"schema_version": SCHEMA_VERSION, "identity": dict(identity)}
    write_text_atomically(path, json.dumps(manifest, indent=2, sort_keys=True) + "\n")


def _refuse_difference(folder: Path, known: Mapping[str, str], identity: Mapping[str, str]) -> None:
    names = sorted(
        name for name in known.keys() | identity.keys() if known.get(name) != identity.get(name)
    )
    if names:
        shown = "; ".join(
            f"{name}: stored {known.get(name)}, wanted {identity.get(name)}" for name in names
        )
        raise RolloutStoreError(
            f"{folder} holds rollouts of other inputs ({shown}); choose another folder"
        )
