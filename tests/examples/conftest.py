"""The study's figures, computed once."""

import pytest

from examples.study import analyse
from examples.study.predictors import RESULTS
from examples.study.rows import read_pairs


@pytest.fixture(scope="session")
def shown() -> analyse.Shown:
    """Every figure that README and EVIDENCE.md show, from the committed rows."""
    return analyse.all_figures(read_pairs(RESULTS / "pairs.jsonl"))
