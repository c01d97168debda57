"""A folder of Parquet shards: each appears whole or not at all, and a damaged one is left out."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from mlflow_rlrisk.content import text_digest
from mlflow_rlrisk.rollouts.shards import read_shard, write_shard

logger = logging.getLogger(__name__)

MAX_LOOSE_SHARDS = 128
"""Shards of single appends beyond which they are merged; files stay few for 10^4 prompts."""

LOOSE, MERGED = "part-", "merged-"


class ShardFolder:
    """Tables of one schema, appended and read back in the order of the shards' names.

    Attributes:
        path: Where they lie.
        damaged: Names of shards that could not be read.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        """Nothing is written before `append`."""
        self.path = path
        self.damaged: list[str] = []
        self._schema = schema

    @property
    def is_empty(self) -> bool:
        """Whether there is no shard, readable or not."""
        return next(self.path.glob("*.parquet"), None) is None

    def append(self, table: pa.Table, keys: Sequence[str]) -> None:
        """Store a table as one shard; under the same keys it takes the place of the one before."""
        write_shard(self.path / f"{LOOSE}{_name(keys)}.parquet", table)
        if sum(1 for _ in self.path.glob(f"{LOOSE}*.parquet")) > MAX_LOOSE_SHARDS:
            self.compact()

    def compact(self) -> None:
        """Merge the shards of single appends into one.

        The merged shard is written first: a kill in between leaves copies, never a hole.
        """
        loose = list(self._readable(f"{LOOSE}*.parquet"))
        if len(loose) < 2:
            return
        name = _name([path.name for path, _ in loose])
        write_shard(
            self.path / f"{MERGED}{name}.parquet", pa.concat_tables([table for _, table in loose])
        )
        for path, _ in loose:
            path.unlink(missing_ok=True)

    def tables(self) -> Iterator[pa.Table]:
        """Every table that can be read."""
        for _, table in self._readable("*.parquet"):
            yield table

    def _readable(self, pattern: str) -> Iterator[tuple[Path, pa.Table]]:
        for path in sorted(self.path.glob(pattern)):
            try:
                table = read_shard(path, self._schema)
            except (OSError, ValueError) as error:
                if path.name not in self.damaged:
                    self.damaged.append(path.name)
                    logger.warning("%s is damaged and its groups are lost: %s", path, error)
                continue
            yield path, table


def _name(keys: Sequence[str]) -> str:
    """A name from the content's keys: the same groups written twice replace each other."""
    return text_digest("\n".join(keys))[:24]
