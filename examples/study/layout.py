"""Which checkpoints a lineage has, and where everything lies in the output folder."""

from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Literal, NamedTuple

from examples.study.rows import Kind
from examples.study.settings import StudySettings


class Checkpoint(NamedTuple):
    """One checkpoint of a lineage; `parent` is the one whose logits a trap divides."""

    lineage: str
    name: str
    kind: Kind
    data: Literal["narrow", "diverse", "none"]
    depth: int
    sft_seed: int
    parent: str | None
    trap: Literal["flattened", "sharpened"] | None = None

    @property
    def folder(self) -> Path:
        """Relative to the output folder."""
        return Path(self.lineage) / "checkpoints" / self.name

    @property
    def row(self) -> Path:
        """The row of the finished pair."""
        return Path(self.lineage) / "rows" / f"{self.name}.json"

    @property
    def report(self) -> Path:
        """The report, below the output folder as below ``results``."""
        return Path("reports") / self.lineage / f"{self.name}.json.gz"


def base_of(lineage: str) -> Checkpoint:
    """The base itself is assessed too."""
    return Checkpoint(lineage, "base", "base", "none", 0, 0, None)


def checkpoints_of(lineage: str, settings: StudySettings) -> list[Checkpoint]:
    """All of a lineage, in the order of the sweep: each stretch holds every kind and depth."""
    first, last = settings.sft_seeds[0], settings.sft_seeds[-1]
    ladders: tuple[tuple[Kind, tuple[int, ...], tuple[int, ...]], ...] = (
        ("ladder", settings.narrow_depths, settings.sft_seeds),
        ("diverse", settings.diverse_depths, settings.sft_seeds),
        ("smoothed", settings.smoothed_depths, (first,)),
    )
    narrow, diverse, smoothed = (
        [_rung(lineage, kind, depth, seed) for seed in seeds for depth in depths]
        for kind, depths, seeds in ladders
    )
    base, deepest, middle = base_of(lineage), settings.narrow_depths[-1], settings.narrow_depths[-2]
    traps = [
        _trap(_rung(lineage, "ladder", deepest, first), "flattened"),
        _trap(base, "sharpened"),
        _trap(_rung(lineage, "ladder", deepest, last), "flattened"),
        _trap(_rung(lineage, "ladder", middle, first), "flattened"),
        _trap(_rung(lineage, "ladder", settings.narrow_depths[0], first), "sharpened"),
    ]
    mixed = zip_longest(narrow, diverse, [base, *traps], smoothed)
    return list(dict.fromkeys(each for row in mixed for each in row if each is not None))


def sweep_order(settings: StudySettings, only: str | None = None) -> Iterator[Checkpoint]:
    """Round-robin over lineages, so that an interrupted sweep is balanced."""
    names = [each.name for each in settings.lineages if only in (None, each.name)]
    for row in zip_longest(*(checkpoints_of(name, settings) for name in names)):
        yield from (each for each in row if each is not None)


def rl_seeds_of(checkpoint: Checkpoint, settings: StudySettings) -> tuple[int, ...]:
    """The later seeds are run on every third checkpoint of a lineage, wherever it stands."""
    place = checkpoints_of(checkpoint.lineage, settings).index(checkpoint)
    has_all = place % settings.second_seed_every == 0
    return settings.rl_seeds if has_all else settings.rl_seeds[:1]


def _rung(lineage: str, kind: Kind, depth: int, seed: int) -> Checkpoint:
    data: Literal["narrow", "diverse"] = "diverse" if kind == "diverse" else "narrow"
    prefix = {"ladder": "narrow"}.get(kind, kind)
    return Checkpoint(lineage, f"{prefix}-e{depth}-s{seed}", kind, data, depth, seed, "base")


def _trap(parent: Checkpoint, trap: Literal["flattened", "sharpened"]) -> Checkpoint:
    return parent._replace(name=f"{trap}-{parent.name}", kind="trap", parent=parent.name, trap=trap)
