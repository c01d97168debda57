"""Every published or exact reference value is reproduced; those that are not say why."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.statistics.oracle_table import ORACLES, TABLE, VALUES

# The file holds these rounded; half a unit of the last digit given.
ROUNDED = [
    (r"risk_index", 5.1e-5),
    (r"pooled9|family-demeaned", 5.1e-5),
    (r"zipf", 5.1e-6),
    (r"plug-in E", 5.1e-6),
    (r"E_var_ddof0 from", 5.1e-7),
    (r"headroom exact", 5.1e-4),
    (r"headroom rounded", 5.1e-3),
]


def cases_for(key: str) -> list[Callable[[str], Any]]:
    return [compute for pattern, compute in TABLE if re.match(pattern, key)]


@pytest.mark.parametrize("key", VALUES)
def test_the_reference_value_is_reproduced(key: str) -> None:
    computes = cases_for(key)
    assert len(computes) == 1, f"{key}: exactly one function must claim it"

    computed = computes[0](key)

    expected = VALUES[key]
    tolerance = next((size for pattern, size in ROUNDED if re.search(pattern, key)), 1e-9)
    if isinstance(expected, dict):
        assert computed == pytest.approx(expected, abs=tolerance, rel=0)
    else:
        np.testing.assert_allclose(computed, expected, atol=tolerance, rtol=0)


def test_every_reference_value_is_covered_or_names_why_not() -> None:
    skipped = ORACLES["not_covered"]

    assert not VALUES.keys() & skipped.keys()
    assert all(len(reason) > 10 for reason in skipped.values())
    assert not [key for key in skipped if cases_for(key)]
    assert len(VALUES) + len(skipped) == 338


def test_every_row_of_the_table_is_used() -> None:
    unused = [pattern for pattern, _ in TABLE if not any(re.match(pattern, key) for key in VALUES)]

    assert unused == []
