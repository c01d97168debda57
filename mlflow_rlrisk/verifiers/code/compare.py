"""Does a returned value equal the expected one? The rules, written down.

* A truth value equals truth values only: ``True`` is not 1.
* Numbers are compared by value, exactly; 2 equals 2.0, -0.0 equals 0.0, NaN equals NaN (an expected
  NaN could not be met otherwise). A tolerance holds where a case states one, for floats only.
* Text, bytes and containers equal their own kind, element by element.
* Expected values that were written as JSON cannot say tuple or integer key: a tuple then equals
  the list, and a key equals its JSON spelling.
* A `Handle`, which is what any other object arrives as, equals nothing.

Both sides are exact built-in values, so that no code of a candidate runs here.
"""

import json
import math
import re
import reprlib
from collections import deque
from decimal import Decimal
from fractions import Fraction
from typing import Any

from mlflow_rlrisk.verifiers.code.sandbox.wire import Handle

_NUMBERS = (int, float, complex, Decimal, Fraction)
_NUMERALS = re.compile(r"\s*(?:[-+]?[0-9]+(?:\.[0-9]*)?(?:[eE][-+]?[0-9]{1,3})?(?:\s+|\Z))+")
"""A line of numbers, as they are printed."""


def equals(
    expected: Any, got: Any, *, tolerance: float | None = None, is_json: bool = True
) -> bool:
    """Compare by the rules above.

    Args:
        expected: From the data set.
        got: From the sandbox.
        tolerance: Absolute and relative, of floats; ``None`` compares exactly.
        is_json: The expected value was written as JSON.
    """
    if type(got) is Handle:
        return False
    if type(expected) is bool or type(got) is bool or expected is None or got is None:
        return type(expected) is type(got) and bool(expected == got)
    if type(expected) in _NUMBERS and type(got) in _NUMBERS:
        return _same_number(expected, got, tolerance)
    if is_json and type(got) is tuple:
        got = list(got)
    if type(expected) is not type(got):
        return False
    if type(expected) in (list, tuple, deque):
        return len(expected) == len(got) and all(
            equals(e, g, tolerance=tolerance, is_json=is_json)
            for e, g in zip(expected, got, strict=True)
        )
    if type(expected) is dict:
        return _same_dict(expected, got, tolerance, is_json)
    return bool(expected == got)


def same_output(expected: str, written: str) -> bool:
    """Compare what programs write: white space at the ends of lines, empty ones around, is ignored.

    Lines end where a program ends them, not at a form feed or U+2028 as `str.splitlines` has it.
    Where a line of numbers is expected of which one has a point, its numbers are compared by value.
    """
    lines, others = (text.rstrip().lstrip("\r\n").split("\n") for text in (expected, written))
    return len(lines) == len(others) and all(map(_same_line, lines, others))


def shown(value: Any) -> str:
    """A short text of a value, however large it is."""
    try:
        return _REPR.repr(value)
    except ValueError:  # an integer of more digits than Python prints
        return f"a huge {type(value).__name__}"


def _same_line(expected: str, written: str) -> bool:
    if expected.rstrip() == written.rstrip():
        return True
    if "." not in expected or not (_NUMERALS.fullmatch(expected) and _NUMERALS.fullmatch(written)):
        return False
    return [Decimal(each) for each in expected.split()] == [
        Decimal(each) for each in written.split()
    ]


def _same_number(expected: Any, got: Any, tolerance: float | None) -> bool:
    try:
        if expected == got:
            return True
    except ArithmeticError:  # a signalling NaN of decimal raises where others are unequal
        return False
    if type(expected) is not float and type(got) is not float:
        return False
    if type(expected) not in (int, float) or type(got) not in (int, float):
        return False
    try:
        expected, got = float(expected), float(got)
    except OverflowError:
        return False
    if math.isnan(expected) or math.isnan(got):
        return math.isnan(expected) and math.isnan(got)
    return tolerance is not None and math.isclose(
        expected, got, rel_tol=tolerance, abs_tol=tolerance
    )


def _same_dict(
    expected: dict[Any, Any], got: dict[Any, Any], tolerance: float | None, is_json: bool
) -> bool:
    if len(expected) != len(got):
        return False
    if is_json:
        got = {_json_key(key): value for key, value in got.items()}
    return expected.keys() == got.keys() and all(
        equals(expected[key], got[key], tolerance=tolerance, is_json=is_json) for key in expected
    )


def _json_key(key: Any) -> Any:
    if key is None or type(key) is bool or type(key) is float:
        return json.dumps(key)
    return json.dumps(key) if type(key) is int and key.bit_length() < 256 else key


_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 80
_REPR.maxlong = 40
_REPR.maxlevel = 4
