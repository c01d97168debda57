"""How often the interval of a calibration's Brier score holds that of lineages not seen.

``nice python -m tests.benchmarks.calibration_coverage [--reps 1000] [--json FILE]``

A lineage has a mean squared error of its own, a Beta; each of its checkpoints is wholly wrong with
that chance and right otherwise.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from mlflow_rlrisk.calibration.validation import brier_interval
from tests.benchmarks.held import Held, run

LINEAGES = (3, 5, 8, 16)
CHECKPOINTS = 24
ALIKE = {"lineages differ much": (0.6, 1.2), "somewhat": (3.0, 6.0), "hardly": (60.0, 120.0)}
"""Shapes of the Beta; its mean is a third."""


def cells(reps: int) -> Iterator[list[dict[str, Any]]]:
    for name, shape in ALIKE.items():
        for count in LINEAGES:
            held = Held({"brier": shape[0] / sum(shape)})
            for seed in range(reps):
                rng = np.random.default_rng([seed, count])
                wrong = rng.random((count, CHECKPOINTS)) < rng.beta(*shape, (count, 1))
                lineages = np.repeat(np.arange(count), CHECKPOINTS).astype(str).tolist()
                held.add("brier", *brier_interval(np.zeros(wrong.size), wrong.ravel(), lineages))
            yield held.rows(population=name, lineages=count)


if __name__ == "__main__":
    run(cells, __doc__, reps=1000)
