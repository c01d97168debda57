"""Versions whose entropy misleads, told by what they solve.

Flattened sampling (a high temperature baked in, label smoothing) raises the entropy of a
collapsed checkpoint without giving it back what it had lost; sharpening lowers the entropy of a
healthy one without harm. Entropy alone is fooled by both, deep pass@k is not.
"""

import numpy as np

from mlflow_rlrisk.lineage.pairs import difference_p_values
from mlflow_rlrisk.lineage.table import ENTROPY, PASS_AT_1, FloatArray, LineageTable
from mlflow_rlrisk.statistics.multiple import holm_adjusted

NEGLIGIBLE = 0.02
"""Loss in deep pass@k, as a share of the prompts, below which a version solves as much: ours."""


def entropy_remarks(table: LineageTable, *, alpha: float = 0.05) -> tuple[str, ...]:
    """Name versions with more entropy that solve less, and with less entropy that solve as much.

    Each version is held against the one that solves most within k tries. The first is said where
    both differences are resolved, after Holm over the versions; the second where the entropy is
    resolved to be lower and the loss in deep pass@k stays within `NEGLIGIBLE`, at ``1 - alpha``.

    Args:
        table: The lineage.
        alpha: Chance of any false remark of either kind.
    """
    deep, entropy = table.measures.get(table.coverage_name), table.measures.get(ENTROPY)
    if deep is None or entropy is None or table.coverage_name == PASS_AT_1:
        return ()
    best = int(deep.values.argmax())
    others = [place for place in range(len(table.names)) if place != best]
    less_solved = _adjusted(difference_p_values(deep, table.num_prompts)[best], others)
    other_entropy = _adjusted(difference_p_values(entropy, table.num_prompts)[best], others)
    k = table.coverage_name.rpartition("_")[2]
    remarks = []
    for place in others:
        is_entropy_other = other_entropy[place] <= alpha
        is_higher = bool(entropy.values[place] > entropy.values[best])
        loss = deep.draws[:, best] - deep.draws[:, place]
        figures = (
            f"{entropy.values[place]:.3f} against {entropy.values[best]:.3f} nats of "
            f"{table.names[best]}, {deep.values[place]:.3f} against {deep.values[best]:.3f} "
            f"solved within {k} tries"
        )
        if is_entropy_other and is_higher and less_solved[place] <= alpha:
            remarks.append(
                f"{table.names[place]}: its entropy is higher and it solves less ({figures}); "
                "such entropy is noise, not exploration"
            )
        elif is_entropy_other and not is_higher and np.quantile(loss, 1.0 - alpha) <= NEGLIGIBLE:
            remarks.append(
                f"{table.names[place]}: its entropy is lower and it solves as much ({figures}); "
                "low entropy alone is no collapse"
            )
    return tuple(remarks)


def _adjusted(p_values: FloatArray, places: list[int]) -> dict[int, float]:
    adjusted = holm_adjusted(p_values[places])
    return dict(zip(places, map(float, adjusted), strict=True))
