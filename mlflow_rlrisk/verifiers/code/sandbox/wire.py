"""The safe encoding of values and frames between the judge and a sandboxed process.

A frame is four bytes of length and JSON. Scalars and lists stand for themselves; what JSON cannot
tell apart is an object with one key: ``t`` tuple, ``s`` set, ``f`` frozenset, ``d`` dict (pairs),
``i`` integer beyond 63 bits (hex), ``b`` bytes, ``a`` bytearray, ``c`` complex, ``q`` Decimal or
Fraction, ``h`` a handle: an object that stays where it is and is only referred to.

The decoder trusts nothing. It builds exact built-in values and nothing else, so that no
``__eq__``, ``__hash__`` or ``__reduce__`` of a candidate ever runs in the judge, and it refuses
what would cost the judge more than it cost the candidate: depth, length, colliding hashes.
"""

import json
import struct
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable
from decimal import Decimal
from fractions import Fraction
from typing import Any

HEADER = struct.Struct(">I")
MAX_DEPTH = 64
"""Containers within containers, on both sides; deeper values are refused, never compared."""
MAX_COLLISIONS = 32
"""Equal hashes within one set or dict: a few by chance, thousands only on purpose."""
_SMALL = 1 << 63
_PLAIN = frozenset({type(None), bool, float, str})
_AS_DICT = (dict, OrderedDict, defaultdict, Counter)


class WireError(ValueError):
    """Bytes that are no value of this encoding, or a value that it does not carry."""


class CostlyValueError(WireError):
    """A value that only serves to keep the judge busy."""


class Handle:
    """An object that lives in the sandbox; it equals nothing and can only be passed back."""

    __slots__ = ("number", "type_name")
    __hash__ = object.__hash__

    def __init__(self, number: int, type_name: str) -> None:
        self.number, self.type_name = number, type_name

    def __eq__(self, other: object) -> bool:
        return False

    def __repr__(self) -> str:
        return f"<{self.type_name} object>"


def pack(message: Any) -> bytes:
    """One frame of plain JSON."""
    body = json.dumps(message, separators=(",", ":")).encode()
    return HEADER.pack(len(body)) + body


def unpack(body: bytes) -> Any:
    """The JSON of one frame.

    Raises:
        WireError: It is none, or nested too deep.
    """
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise WireError(f"a frame that is no JSON ({type(error).__name__})") from error


def encode(value: Any, opaque: Callable[[Any], Any], depth: int = 0) -> Any:
    """``value`` as JSON; every type is asked for exactly, a subclass is not its base.

    Args:
        value: What is sent.
        opaque: Called with an object of any other type; its result is sent.
        depth: Containers around the value.

    Raises:
        WireError: Nested deeper than `MAX_DEPTH`.
    """
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is int:
        return value if -_SMALL < value < _SMALL else {"i": hex(value)}
    if depth >= MAX_DEPTH:
        raise WireError(f"nested deeper than {MAX_DEPTH}")
    if kind is list:
        return [encode(item, opaque, depth + 1) for item in value]
    if kind is tuple:
        return {"t": [encode(item, opaque, depth + 1) for item in value]}
    if kind in _AS_DICT:
        pairs = dict.items(value)
        return {
            "d": [[encode(k, opaque, depth + 1), encode(v, opaque, depth + 1)] for k, v in pairs]
        }
    if kind is set or kind is frozenset:
        tag = "s" if kind is set else "f"
        return {tag: [encode(item, opaque, depth + 1) for item in value]}
    if kind is deque:
        return {"k": [encode(item, opaque, depth + 1) for item in value]}
    if kind is bytes or kind is bytearray:
        return {"b" if kind is bytes else "a": value.hex()}
    if kind is complex:
        return {"c": [value.real, value.imag]}
    if kind is Decimal or kind is Fraction:
        return {"q": [kind.__name__, str(value)]}
    return opaque(value)


def decode(raw: Any, depth: int = 0) -> Any:
    """The value of a JSON that came from the other side.

    Raises:
        WireError: Not of this encoding; `CostlyValueError` where it is an attack on the judge.
    """
    kind = type(raw)
    if kind in _PLAIN or kind is int:
        return raw
    if depth >= MAX_DEPTH:
        raise WireError(f"nested deeper than {MAX_DEPTH}")
    if kind is list:
        return [decode(item, depth + 1) for item in raw]
    if kind is not dict or len(raw) != 1:
        raise WireError("a value of no known kind")
    ((tag, content),) = raw.items()
    try:
        return _DECODERS[tag](content, depth + 1)
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        if isinstance(error, WireError):
            raise
        raise WireError(f"a damaged value ({type(error).__name__})") from error


def _items(content: Any, depth: int) -> list[Any]:
    if type(content) is not list:
        raise WireError("a container without items")
    return [decode(item, depth) for item in content]


def _hashable(keys: Iterable[Any]) -> list[Any]:
    """Refuse keys made to collide: inserting n of them would take the judge n² steps."""
    keys = list(keys)
    common = Counter(map(hash, keys)).most_common(1)
    if common and common[0][1] > MAX_COLLISIONS:
        raise CostlyValueError(f"{common[0][1]} keys with one hash")
    return keys


def _pairs(content: Any, depth: int) -> dict[Any, Any]:
    keys = _hashable(decode(key, depth) for key, _ in content)
    return dict(zip(keys, (decode(value, depth) for _, value in content), strict=True))


def _handle(content: Any, depth: int) -> Handle:
    number, type_name = content
    if type(number) is not int or type(type_name) is not str:
        raise WireError("a damaged handle")
    return Handle(number, type_name[:80])


def _complex(content: Any, depth: int) -> complex:
    real, imag = content
    if type(real) is not float or type(imag) is not float:
        raise WireError("a damaged complex number")
    return complex(real, imag)


def _rational(content: Any, depth: int) -> Any:
    name, text = content
    if type(text) is not str or len(text) > 4000:
        raise CostlyValueError("a number of thousands of digits")
    if name == "Fraction":
        numerator, _, denominator = text.partition("/")
        return Fraction(int(numerator), int(denominator or "1"))
    if name != "Decimal":
        raise WireError("a number of no known kind")
    number = Decimal(text)
    if number.is_snan():
        raise CostlyValueError("a number that raises when it is looked at")
    return number


_DECODERS: dict[str, Callable[[Any, int], Any]] = {
    "t": lambda content, depth: tuple(_items(content, depth)),
    "s": lambda content, depth: set(_hashable(_items(content, depth))),
    "f": lambda content, depth: frozenset(_hashable(_items(content, depth))),
    "k": lambda content, depth: deque(_items(content, depth)),
    "d": _pairs,
    "i": lambda content, depth: int(content, 16),
    "b": lambda content, depth: bytes.fromhex(content),
    "a": lambda content, depth: bytearray.fromhex(content),
    "c": _complex,
    "q": _rational,
    "h": _handle,
}
