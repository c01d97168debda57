"""Bodies are parsed strictly: what two readers could understand in two ways is refused.

The standard parser takes NaN, repeated keys, lone surrogates and any depth.
"""

import json
import re
from typing import Any

from flask import Request

from service.problems import FieldFault, Problem

MAX_DEPTH = 32
MAX_STRING = 64 * 1024
MAX_DIGITS = 4000  # below the limit of int() itself
_SURROGATE = re.compile("[\ud800-\udfff]")


def parse(body: bytes) -> Any:
    """Parse a JSON body.

    Raises:
        Problem: ``invalid-json``, or ``invalid-field`` for a text that is no Unicode.
    """
    try:
        text = body.decode("utf-8")
        _check_depth(text)
        value = _DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        raise Problem("invalid-json", "the body cannot be parsed as strict JSON") from error
    _check_strings(value, "")
    return value


def _check_depth(text: str) -> None:
    """Bound the depth before the recursive parser sees it; brackets in strings do not count."""
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return
    depth, is_string, is_escaped = 0, False, False
    for character in text:
        if is_escaped:
            is_escaped = False
        elif is_string:
            is_escaped = character == "\\"
            is_string = character != '"'
        elif character == '"':
            is_string = True
        elif character in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise ValueError("too deep")
        elif character in "]}":
            depth -= 1


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if value - value != 0:
        raise ValueError("out of range")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


_DECODER = json.JSONDecoder(parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_unique)


def _check_strings(value: Any, pointer: str) -> None:
    if isinstance(value, str):
        if len(value) > MAX_STRING:
            raise _fault(pointer, "too_long", f"more than {MAX_STRING} characters")
        if _SURROGATE.search(value):
            raise _fault(pointer, "surrogate", "half of a surrogate pair is no text")
    elif isinstance(value, dict):
        for key, each in value.items():
            _check_strings(key, pointer)
            _check_strings(each, f"{pointer}/{key[:64]}")
    elif isinstance(value, list):
        for index, each in enumerate(value):
            _check_strings(each, f"{pointer}/{index}")


def _fault(pointer: str, code: str, message: str) -> Problem:
    where = pointer.encode("utf-8", "replace").decode()
    return Problem("invalid-field", errors=[FieldFault(pointer=where, code=code, message=message)])


class StrictRequest(Request):
    """A request whose JSON is an object, parsed strictly."""

    def get_json(self, force: bool = False, silent: bool = False, cache: bool = True) -> Any:
        """The body as an object; the arguments are Flask's and change nothing.

        Raises:
            Problem: ``media-type``, ``invalid-json`` or ``invalid-field``.
        """
        if self.mimetype != "application/json":
            raise Problem("media-type")
        if "content-encoding" in self.headers:
            raise Problem("media-type", "no content encoding is taken")
        value = parse(self.get_data())
        if not isinstance(value, dict):
            raise _fault("", "type", "an object is needed")
        return value
