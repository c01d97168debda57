"""Values of any source as JSON can carry them.

They come out as ``None``, ``bool``, ``int``, ``float``, ``str``, lists and dicts: NaN, ``NaT`` and
``pandas.NA`` become ``None``, NumPy scalars and arrays become Python values, dates become ISO text.
"""

import datetime
import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from mlflow_rlrisk.errors import PromptSetError

MAX_LEVELS = 200
"""Lists and objects inside one another. What digests, copies and stores values goes down them by
recursion, two calls a level, and Python stops at 1000."""
MAX_DIGITS = 4300
"""Of an integer: Python's default limit, beyond which it writes none."""
_TOO_LONG = 10**MAX_DIGITS


class NotPlainError(TypeError):
    """A value that JSON cannot carry; the message is its type."""


def plain_cell(value: object, where: str) -> Any:
    """`plain_value` of a cell; ``where`` names it.

    Raises:
        PromptSetError: Infinity and whatever else `plain_value` answers with a `ValueError`.
        TypeError: Bytes and other objects.
    """
    try:
        return plain_value(value)
    except ValueError as error:
        raise PromptSetError(f"{where}: {error}") from error


def plain_value(value: object, levels: int = MAX_LEVELS) -> Any:
    """``value`` as JSON can carry it.

    Args:
        value: Any value.
        levels: How many lists and objects may stand inside one another.

    Raises:
        ValueError: Infinity, an integer of more than `MAX_DIGITS` digits, text with a lone
            surrogate (it has no UTF-8 form), or more levels.
        TypeError: Bytes and other objects.
    """
    if value is None:
        return None
    if isinstance(value, str):
        return _checked_text(str(value))
    if isinstance(value, int):
        return _checked_integer(value)
    if isinstance(value, float):
        return _finite_or_none(value)
    if isinstance(value, Mapping | list | tuple):
        if not levels:
            raise ValueError(f"nested too deeply, more than {MAX_LEVELS} levels")
        if isinstance(value, Mapping):
            return {str(name): plain_value(item, levels - 1) for name, item in value.items()}
        return [plain_value(item, levels - 1) for item in value]
    if isinstance(value, datetime.date | datetime.time):
        return None if value != value else value.isoformat()  # NaT
    if isinstance(value, Decimal):
        if value.is_finite() and value == value.to_integral_value():
            return _checked_integer(int(value) if value.adjusted() < MAX_DIGITS else _TOO_LONG)
        return _finite_or_none(float(value))
    if type(value).__name__ == "NAType":
        return None
    if hasattr(value, "tolist"):  # NumPy scalars and arrays
        inner = value.tolist()
        if type(inner) is not type(value):
            return plain_value(inner, levels)
    raise NotPlainError(type(value).__name__)


def _checked_integer(value: int) -> int:
    if not -_TOO_LONG < value < _TOO_LONG:
        raise ValueError(f"an integer of more than {MAX_DIGITS} digits")
    return value


def _finite_or_none(value: float) -> float | None:
    if math.isinf(value):
        raise ValueError("infinity is no value")
    return None if math.isnan(value) else float(value)


def _checked_text(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"lone surrogate at character {error.start}: not Unicode text") from error
    return text
