"""Which prompts lie in a band of difficulty, and a control of equal size that was not filtered.

A prompt belongs to the band when its success rate does with the stated posterior probability: a
prompt solved in 1 of 16 tries may be much harder than it looks. Filtering changes what RL sees,
and its gain can only be told beside a run on prompts that were not filtered.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from mlflow_rlrisk.errors import PromptSetError
from mlflow_rlrisk.metrics.success_columns import success_counts, undefined_success_reason
from mlflow_rlrisk.plurals import counted
from mlflow_rlrisk.records import PromptStatistics
from mlflow_rlrisk.statistics.shares import band_probability


@dataclass(frozen=True, slots=True, kw_only=True)
class DifficultyBand:
    """Prompts by id.

    Attributes:
        chosen: In the band, in the order given.
        control: As many, drawn from all prompts without looking at difficulty.
        probabilities: Posterior probability of lying in the band, of every prompt.
    """

    chosen: tuple[str, ...]
    control: tuple[str, ...]
    probabilities: dict[str, float]


def select_band(
    statistics: Sequence[PromptStatistics],
    *,
    low: float = 0.1,
    high: float = 0.9,
    min_probability: float = 0.5,
    seed: int = 0,
) -> DifficultyBand:
    """Choose the prompts whose success rate lies in ``[low, high]``.

    Args:
        statistics: One record per prompt.
        low: Lower end of the success rate, above 0.
        high: Upper end, below 1.
        min_probability: Posterior probability, under Beta(1/2, 1/2), that a prompt needs.
        seed: Of the draw of the control.

    Returns:
        The band and its control.

    Raises:
        PromptSetError: Success is undefined, or no prompt lies in the band.
        ConfigError: ``0 < low < high < 1`` does not hold.
    """
    counts = success_counts(statistics)
    if counts is None:
        raise PromptSetError(undefined_success_reason(statistics))
    found = band_probability(*counts, low=low, high=high)
    ids = [each.prompt_id for each in statistics]
    chosen = tuple(
        name for name, chance in zip(ids, found, strict=True) if chance >= min_probability
    )
    if not chosen:
        raise PromptSetError(
            f"none of {counted(len(ids), 'prompt')} is solved with a rate of {low} to {high} "
            f"with a probability of at least {min_probability}"
        )
    drawn = set(random.Random(seed).sample(range(len(ids)), len(chosen)))
    return DifficultyBand(
        chosen=chosen,
        control=tuple(name for place, name in enumerate(ids) if place in drawn),
        probabilities=dict(zip(ids, map(float, found), strict=True)),
    )
