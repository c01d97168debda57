"""Versions whose entropy misleads, told by what they solve and by what they are copies of.

Flattened sampling (a high temperature baked in, label smoothing) raises the entropy of a
collapsed checkpoint without giving it back what it had lost; sharpening lowers the entropy of a
healthy one without harm. Entropy alone is fooled by both; deep pass@k and the log probabilities
of the same tokens are not.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from mlflow_rlrisk.lineage.measures import Measure
from mlflow_rlrisk.lineage.scaling import Rescaling
from mlflow_rlrisk.lineage.table import ENTROPY, PASS_AT_1, LineageTable
from mlflow_rlrisk.statistics.multiple import holm_adjusted
from mlflow_rlrisk.statistics.ranks import ROUNDING

NEGLIGIBLE = 0.02
"""Loss in deep pass@k, as a share of the prompts, below which a version solves as much: ours."""


def entropy_remarks(
    table: LineageTable,
    *,
    base: str | None = None,
    rescalings: Sequence[Rescaling] = (),
    levels: Mapping[str, str] | None = None,
    alpha: float = 0.05,
) -> tuple[str, ...]:
    """Say of each version whose entropy misleads what it is, one sentence each.

    A copy with scaled logits is named with its original. The others are held against their
    parent, else the base. More entropy is told where both differences are resolved after Holm;
    less entropy where it is resolved and the loss in deep pass@k stays within `NEGLIGIBLE`, at
    ``1 - alpha``. Where neither is known, more entropy is told against the version that solves
    most, which may only be further trained, and less against the most entropic that solves as much.

    Args:
        table: The lineage.
        base: Name of the base, where one was named.
        rescalings: Versions that are copies of others but for a factor on their logits.
        levels: Risk levels by name.
        alpha: Chance of any false remark of either statistical kind.
    """
    copies = {each.name: each for each in rescalings}
    remarks = [_of_copy(table, each, levels or {}) for each in rescalings]
    deep, entropy = table.measures.get(table.coverage_name), table.measures.get(ENTROPY)
    if deep is None or entropy is None or table.coverage_name == PASS_AT_1:
        return tuple(remarks)
    others = [place for place, name in enumerate(table.names) if name not in copies]
    scene = _Scene(
        table, deep, entropy, best=max(others, key=lambda p: deep.evened[p]), alpha=alpha
    )
    origins = {place: _origin(scene, base, place) for place in others}
    remarks += scene.noisy(origins, is_origin_known=True)
    if base is None:
        unknown = [place for place, origin in origins.items() if origin is None]
        remarks += scene.noisy(dict.fromkeys(unknown, scene.best), is_origin_known=False)
    remarks += scene.sharpened(
        {
            place: _most_entropic(scene, place, others)
            if base is None and origin is None
            else origin
            for place, origin in origins.items()
        }
    )
    return tuple(remarks)


def _of_copy(table: LineageTable, copy: Rescaling, levels: Mapping[str, str]) -> str:
    place, original = table.names.index(copy.name), table.names.index(copy.original)
    entropy = table.measures.get(ENTROPY)
    figures = ""
    if entropy is not None:
        figures = f" of {entropy.values[place]:.3f} nats (against {entropy.values[original]:.3f})"
    meaning = (
        f"its low entropy{figures} is no exploration lost by training, its pass@1 no skill gained"
        if copy.is_sharpened
        else f"its entropy{figures} is noise, not exploration"
    )
    level = f" ({levels[copy.original]})" if copy.original in levels else ""
    return (
        f"{copy.name} is {copy.original} {'sharpened' if copy.is_sharpened else 'flattened'}: the "
        f"same policy with its logits times {copy.factor:.3g}, to {copy.error:.1g} nats over "
        f"{copy.num_tokens} tokens in equal contexts; {meaning}; {copy.original}{level} sampled at "
        f"{copy.temperature:.3g} times the temperature gives the same"
    )


class _Scene:
    """Entropy and deep pass@k of all versions with what is resolved of them."""

    def __init__(
        self, table: LineageTable, deep: Measure, entropy: Measure, *, best: int, alpha: float
    ) -> None:
        self.deep, self.entropy, self.best, self.alpha = deep, entropy, best, alpha
        self.members, self.names = table.members, table.names
        self.k = table.coverage_name.rpartition("_")[2]
        self._solved = deep.difference_p_values()
        self._entropy = entropy.difference_p_values()

    def noisy(self, references: Mapping[int, int | None], *, is_origin_known: bool) -> list[str]:
        """More entropy than the reference, and less solved."""
        pairs = {p: r for p, r in references.items() if r is not None and self._is_lower(r, p)}
        if not pairs:
            return []
        entropy = holm_adjusted([self._entropy[r, p] for p, r in pairs.items()])
        solved = holm_adjusted([self._solved[r, p] for p, r in pairs.items()])
        end = (
            "such entropy is noise, not exploration"
            if is_origin_known
            else "such entropy is noise, or of an earlier stage of training (--base tells)"
        )
        return [
            f"{self.names[place]}: its entropy is higher and it solves less "
            f"({self._figures(place, reference)}); {end}"
            for (place, reference), *p_values in zip(pairs.items(), entropy, solved, strict=True)
            if max(p_values) <= self.alpha and self.deep.values[place] < self.deep.values[reference]
        ]

    def sharpened(self, references: Mapping[int, int | None]) -> list[str]:
        """Less entropy than the reference, and as much solved."""
        pairs = {p: r for p, r in references.items() if r is not None and self._is_lower(p, r)}
        if not pairs:
            return []
        p_values = holm_adjusted([self._entropy[r, p] for p, r in pairs.items()])
        found: dict[int, list[int]] = {}
        for (place, reference), p_value in zip(pairs.items(), p_values, strict=True):
            if p_value <= self.alpha and self.solves_as_much(place, reference):
                found.setdefault(reference, []).append(place)
        return [self._told(reference, places) for reference, places in found.items()]

    def _told(self, reference: int, places: Sequence[int]) -> str:
        """One sentence for all versions that are held against the same one."""
        end = "sharpened, not collapsed; low entropy alone is no collapse"
        if len(places) == 1:
            figures = self._figures(places[0], reference)
            name = self.names[places[0]]
            return f"{name}: its entropy is lower and it solves no less ({figures}): {end}"
        entropy, deep = self.entropy.values, self.deep.values
        each = ", ".join(
            f"{self.names[place]} ({entropy[place]:.3f}; {deep[place]:.3f})" for place in places
        )
        return (
            f"{each}: their entropy is lower than that of {self.names[reference]} "
            f"({entropy[reference]:.3f} nats; {deep[reference]:.3f} solved within {self.k} tries) "
            f"and they solve no less: {end}"
        )

    def solves_as_much(self, place: int, reference: int) -> bool:
        """True where the loss in deep pass@k stays within `NEGLIGIBLE`."""
        loss = self.deep.draws[:, reference] - self.deep.draws[:, place]
        return bool(np.quantile(loss, 1.0 - self.alpha) <= NEGLIGIBLE + ROUNDING)

    def _is_lower(self, place: int, reference: int) -> bool:
        return bool(self.entropy.evened[place] < self.entropy.evened[reference])

    def _figures(self, place: int, reference: int) -> str:
        entropy, deep = self.entropy.values, self.deep.values
        return (
            f"{entropy[place]:.3f} against {entropy[reference]:.3f} nats of "
            f"{self.names[reference]}, {deep[place]:.3f} against {deep[reference]:.3f} solved "
            f"within {self.k} tries"
        )


def _origin(scene: _Scene, base: str | None, place: int) -> int | None:
    """What a version was trained from: its parent, else the base."""
    for named in (scene.members[place].parent, base):
        if named in scene.names and named != scene.names[place]:
            return scene.names.index(named)
    return None


def _most_entropic(scene: _Scene, place: int, others: Sequence[int]) -> int | None:
    """Of the versions that solve as much as the best, the one that explores most."""
    able = [other for other in others if scene.solves_as_much(other, scene.best)]
    most = max(able, key=lambda other: float(scene.entropy.evened[other]), default=place)
    return None if most == place else most
