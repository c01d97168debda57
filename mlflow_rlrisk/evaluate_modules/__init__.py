"""Modules for Hugging Face's ``evaluate``: the statistics of this package in notebooks and scripts.

Each is a folder that ``evaluate.load`` reads without the Hub::

    import evaluate
    from mlflow_rlrisk.evaluate_modules import evaluate_path

    pass_at_k = evaluate.load(evaluate_path("rlrisk_pass_at_k"))
    pass_at_k.compute(predictions=[[1, 0, 1, 0], [0, 0, 0, 1]], k=[1, 2])

They take rewards as ``evaluate`` takes anything, as lists, and give the numbers of ``statistics/``;
an estimate that is undefined raises, it is never left out. One instance serves one thread.
"""

import math
from collections.abc import Sequence
from numbers import Real
from pathlib import Path

import numpy as np

from mlflow_rlrisk.errors import ConfigError, StatisticsError
from mlflow_rlrisk.statistics.counts import IntVector
from mlflow_rlrisk.statistics.ragged import Ragged

MODULES = (
    "rlrisk_pass_at_k",
    "rlrisk_group_signal",
    "rlrisk_token_entropy",
    "rlrisk_rank_inversion",
)


def evaluate_path(name: str) -> str:
    """The folder of one of `MODULES`, as ``evaluate.load`` takes it.

    Raises:
        ConfigError: There is no such module.
    """
    if name not in MODULES:
        raise ConfigError("name", name, f"no module of that name; there are {', '.join(MODULES)}")
    return str(Path(__file__).parent / name)


def solve_counts(
    rewards: Sequence[Sequence[float]], threshold: float | None
) -> tuple[IntVector, IntVector]:
    """``num_correct`` and ``num_scored`` of each prompt, each ``[P]``.

    Args:
        rewards: Rewards of the scored rollouts of each prompt, ``P`` sequences.
        threshold: Correct from this reward on; ``None`` takes rewards 0 and 1 only.

    Raises:
        StatisticsError: Other rewards and no threshold, or a reward that is no finite number.
        ConfigError: The threshold is no finite number.
    """
    given = Ragged.of("rewards", rewards)
    if threshold is None:
        others = given.flat[~np.isin(given.flat, (0.0, 1.0))]
        if others.size:
            raise StatisticsError(
                f"rewards hold {others.min()}: state threshold=, from which a reward is correct"
            )
    line: object = 1.0 if threshold is None else threshold  # users give what they like
    if not isinstance(line, Real) or not math.isfinite(line):
        raise ConfigError("threshold", threshold, "a finite number is needed")
    is_correct = (given.flat >= float(line)).astype(np.float64)
    return given.sums(is_correct).astype(np.int64), given.lengths
