"""Values cross as exact built-in types or not at all; the comparison has its rules."""

import math
from collections import Counter, OrderedDict, deque
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_rlrisk.verifiers.code.compare import equals, shown
from mlflow_rlrisk.verifiers.code.sandbox.wire import (
    CostlyValueError,
    Handle,
    WireError,
    decode,
    encode,
    pack,
    unpack,
)

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.complex_numbers(allow_nan=False)
)
KEYS = st.recursive(SCALARS, lambda inner: st.tuples(inner, inner), max_leaves=4)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(KEYS, inner, max_size=3)
        | st.sets(KEYS, max_size=3)
        | st.frozensets(KEYS, max_size=3)
    ),
    max_leaves=12,
)


def refuse(value: Any) -> Any:
    raise AssertionError(value)


def crossed(value: Any) -> Any:
    return decode(unpack(pack(encode(value, refuse))[4:]))


def same_types(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, list | tuple):
        return all(map(same_types, one, other))
    return True


@given(VALUES)
def test_a_value_crosses_unchanged_and_with_its_types(value: Any) -> None:
    assert crossed(value) == value
    assert same_types(crossed(value), value)


@pytest.mark.parametrize(
    "value",
    [-0.0, -(2**9999), Decimal("1.10"), Fraction(1, 3), "\ud800", float("inf"), deque([1]), 2**63],
)
def test_unusual_values_cross(value: Any) -> None:
    assert repr(crossed(value))[:50] == repr(value)[:50]
    assert crossed(value) == value


def test_standard_dicts_cross_as_dicts_and_other_subclasses_do_not() -> None:
    class Own(dict[str, int]):
        pass

    assert type(crossed(Counter("aab"))) is dict
    assert type(crossed(OrderedDict(a=1))) is dict
    with pytest.raises(AssertionError):
        crossed(Own())


@pytest.mark.parametrize(
    "raw",
    [
        {"t": 1},
        {"zz": []},
        {"t": [], "s": []},
        {"d": [[1]]},
        {"d": [[[1], 2]]},
        {"s": [[1]]},
        {"i": "0xzz"},
        {"b": "abc"},
        {"c": [1, "x"]},
        {"q": ["Fraction", "1/0"]},
        {"q": ["Decimal", "sNaN"]},
        {"h": ["x", 1]},
        {"h": []},
        {},
    ],
)
def test_a_damaged_value_is_refused(raw: Any) -> None:
    with pytest.raises(WireError):
        decode(raw)


def test_depth_is_limited_on_both_sides() -> None:
    deep: Any = []
    for _ in range(100):
        deep = [deep]

    with pytest.raises(WireError):
        decode(deep)
    with pytest.raises(WireError):
        encode(deep, refuse)
    with pytest.raises(WireError):
        unpack(b"[" * 1_000_000)


@pytest.mark.parametrize("tag", ["s", "f", "d"])
def test_keys_made_to_collide_cost_the_judge_nothing(tag: str) -> None:
    keys: list[Any] = [{"i": hex(k * (2**61 - 1))} for k in range(1, 20_000)]
    content = [[key, None] for key in keys] if tag == "d" else keys

    with pytest.raises(CostlyValueError):
        decode({tag: content})


@pytest.mark.parametrize(
    ("expected", "got", "is_equal"),
    [
        (1, True, False),
        (True, 1, False),
        (0, False, False),
        ([True], [1], False),
        (1, 1.0, True),
        (2.0, 2, True),
        (0.3, 0.1 + 0.2, False),
        (0.0, -0.0, True),
        (math.nan, math.nan, True),
        (math.nan, 1.0, False),
        (10**400, math.inf, False),
        (10**400, 1.5, False),
        ("1", 1, False),
        (None, 0, False),
        (None, False, False),
        ([1, 2], (1, 2), True),
        ([1, 2], {1, 2}, False),
        ({"1": 2}, {1: 2}, True),
        ({"a": [1, [2]]}, {"a": (1, (2,))}, True),
        ({"true": 1}, {True: 1}, True),
        ("ab", b"ab", False),
        ([], {}, False),
        ([], "", False),
        (9, Handle(0, "Yes"), False),
        (9, Decimal("sNaN"), False),
        (9, Decimal("1e999999999"), False),
    ],
)
def test_values_compare_by_the_written_rules(expected: Any, got: Any, is_equal: bool) -> None:
    assert equals(expected, got) is is_equal


def test_a_tolerance_holds_for_floats_only_and_where_stated() -> None:
    assert equals([0.3], [0.1 + 0.2], tolerance=1e-9)
    assert not equals(0.3, 0.31, tolerance=1e-9)
    assert not equals(10**12, 10**12 + 1, tolerance=1e-6)
    assert not equals(1.0, math.nan, tolerance=0.5)
    assert not equals(1.0, True, tolerance=0.5)


def test_a_huge_value_is_shown_briefly() -> None:
    assert len(shown(["x" * 10**6] * 10**4)) < 1000
    assert len(shown(10**10000)) < 100
