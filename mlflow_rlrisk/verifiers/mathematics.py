r"""The built-in verifier ``math``: symbolic equality, by math-verify.

math-verify ends what takes too long by an alarm signal, which works in a main thread only; a
verifier runs in the main thread of its worker. A truth that it cannot read is refused, because
its own default takes such a truth as met; so is a number that it reads as another one.

Some numbers it reads as other values without a word: ``1 3/4`` as 1, ``1\,234`` as 235, ``1e-05``
as e - 5, ``2\mathrm{i}`` as 2 with a unit; others, as ``90°`` in a box, not at all. They are
written out before it sees them, in truths and in completions alike; ``2e-1``, which may well be
2e - 1, counts as both. Where the last box holds nothing that can be read it goes
on to numbers beside it; a completion whose box states nothing states nothing here. Boxes close to
one another are several answers to it; what is boxed in a thought is none of those behind it.
"""

import importlib.util
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from mlflow_rlrisk.errors import MissingDependencyError, VerifierError
from mlflow_rlrisk.stated_answers import last_boxed
from mlflow_rlrisk.verifiers import Outcome, VerificationRequest, Verifier
from mlflow_rlrisk.verifiers.extraction import final_number, whole_number

TIMEOUT_S = 5
"""math-verify's own default, for reading a text and for one comparison."""
ROUNDING, PRECISION = 6, 15
"""math-verify's defaults: decimal places of a decimal number, and of a difference that is none."""
SIGNIFICANT_DIGITS = 4
"""Of a small truth that count at least: six places leave one digit of .000001 and none of 1e-19."""
_RELATIVE_TOLERANCE = 1e-6
"""Between two readings of one number; the misread ones are off by far more."""

_SHORT_INTEGER = re.compile(r"-?[0-9]{1,15}")
"""Always read as it is; prompt sets of a million are not read twice for it."""
_SIGNS = str.maketrans({"−": "-", "－": "-", "﹣": "-", "∞": r"\infty "})
_DEGREES = re.compile(r"(?<=\d)\s?°(?!\s?\w)")
"""Of an angle, which math-verify drops as ``^\\circ``."""
_ROOT = re.compile(r"√\s?(\d+)")
_GLUED = re.compile(r"</?(?:answer|think)>|(?<!\\)\\\$")
"""Beside these it reads no number."""
_END_OF_THOUGHT = re.compile(r"</think>|<answer>")
_AFTER_EQUALS = re.compile(r"=\s*-?\d{1,3}(?:,\d{3})+(?!,?\d)")
_UPRIGHT = re.compile(r"\\(?:mathrm|text)\s*\{\s*([ei])\s*\}|(?<=\d)(i)(?![A-Za-z])")
"""``2\\mathrm{i}``, and ``2i``: without a space its i is not the i of ``2+i`` to math-verify."""
_SPACE = r"(?:\\[,;:! ] ?|[ ~\u00a0\u2009\u202f])"
_SPACED = re.compile(rf"(?<![\d.,])\d{{1,3}}(?:{_SPACE}\d{{3}})+(?!\d)")
_SCIENTIFIC = re.compile(r"(?<![\w.\\])(?:\d+(?:\.\d*)?|\.\d+)[eE][-+]?\d{1,3}(?![\w.]*\d)(?!\w)")
_SUM_WITH_E = re.compile(r"(?<![\w.\\])(?!1e)(\d+e)([-+][1-9]\d*)(?![\w.])")
_BARE_POINT = re.compile(r"(?<=\d)\.(?=\s*\})")
_MIXED = re.compile(r"(?<![\w.,}/^)])(\d+)\s+(\d+)\s*/\s*(\d+)(?!\w|/|\.\d)")
_ENVIRONMENT = re.compile(r"(?<!\\)\$|\\boxed")


def math(options: str = "") -> Verifier:
    """The last expression of the completion equals the truth (math-verify; boxes come first).

    Raises:
        VerifierError: Any option; there is none.
        MissingDependencyError: math-verify is not installed.
    """
    if options:
        raise VerifierError(f"math:{options}: math has no options")
    if importlib.util.find_spec("math_verify") is None:
        raise MissingDependencyError("the verifier math", "math")
    _parsed("1")  # sympy takes seconds to import: not on the clock of the first grade
    return _Math()


@dataclass(frozen=True, slots=True)
class _Math:
    def problem_with(self, truth: Any, columns: Mapping[str, Any]) -> str | None:
        if truth is None:
            return "there is no truth to compare with"
        if isinstance(truth, bool) or not isinstance(truth, str | int | float):
            return f"truth of type {type(truth).__name__}, text or a number is needed"
        if _SHORT_INTEGER.fullmatch(str(truth)):
            return None
        if not (found := _truth(truth)):
            return f"truth {truth!r} cannot be read by math-verify"
        if _is_misread(truth, found[0]):
            return f"truth {truth!r} is read by math-verify as {str(found[0])[:80]}"
        return None

    def verify(self, request: VerificationRequest) -> Sequence[Outcome]:
        truth = _truth(request.truth)
        if not truth:
            raise VerifierError(f"truth {request.truth!r} cannot be read by math-verify")
        places = _places(request.truth)
        return [_judged(truth, completion, places) for completion in request.completions]


def _truth(truth: Any) -> list[Any]:
    text = _text_of(truth)
    found = _parsed(text) if _ENVIRONMENT.search(text) else []
    return found or _parsed(f"\\boxed{{{text}}}")


def _text_of(truth: Any) -> str:
    if isinstance(truth, float):
        truth = int(truth) if truth.is_integer() else f"{Decimal(repr(truth)):f}"
    return str(truth)


def _places(truth: Any) -> int:
    """Decimal places to compare to, so that some digits of a small truth are among them."""
    number = final_number(f"\\boxed{{{_text_of(truth)}}}")
    if number is None or not number.value:
        return ROUNDING
    numerator, denominator = abs(number.value.numerator), number.value.denominator
    return max(ROUNDING, SIGNIFICANT_DIGITS - 1 + len(str((denominator - 1) // numerator)))


def _is_misread(truth: Any, found: Any) -> bool:
    """True for a plain number that is read as another one; a percentage is read as a share, too."""
    number = whole_number(str(truth))
    if number is None or "%" in str(truth):
        return False
    try:
        difference = abs(float(found) - float(number.value))
    except OverflowError:
        return False
    except (TypeError, ValueError):
        return not isinstance(found, str)
    return not difference <= _RELATIVE_TOLERANCE * abs(float(number.value))


def _stated(completion: str) -> list[Any]:
    """What a completion states; nothing from beside a box that states nothing."""
    behind = _END_OF_THOUGHT.split(completion)[-1]
    stated = completion if last_boxed(behind) is None else behind
    box = last_boxed(stated)
    alone = None if box is None else _parsed(f"\\boxed{{{box}}}")
    if alone is not None and all(isinstance(each, str) for each in alone):
        return alone
    return _parsed(stated)


def _judged(truth: list[Any], completion: str, places: int) -> Outcome:
    try:
        found = _stated(completion)
        is_equal = bool(found) and _equal(truth, found, places)
    except _TookTooLongError as error:
        return Outcome(status="failed", reason=str(error))
    return Outcome(status="scored", reward=float(is_equal), answer=str(found[0]) if found else None)


def _written_out(text: str) -> str:
    """The text with its numbers as math-verify reads them."""
    text = _ROOT.sub(r"\\sqrt{\1}", _DEGREES.sub("", text.translate(_SIGNS)))
    text = _AFTER_EQUALS.sub(lambda match: match[0].replace(",", ""), _GLUED.sub(" ", text))
    text = _UPRIGHT.sub(lambda match: f" {match[1] or match[2]}", text)
    text = _SPACED.sub(lambda match: re.sub(_SPACE, "", match[0]), text)
    text = _SCIENTIFIC.sub(lambda match: f"{Decimal(match[0]):f}", text)
    return _BARE_POINT.sub("", _MIXED.sub(_sum, text))


def _sum(match: re.Match[str]) -> str:
    """``1 3/4`` as ``(1+3/4)``; what is no proper fraction stays."""
    whole, over, under = match.groups()
    return f"({whole}+{over}/{under})" if int(over) < int(under) else match[0]


class _TookTooLongError(VerifierError):
    """math-verify's alarm rang. Its own exception is no `Exception` and would end the worker."""


def _parsed(text: str) -> list[Any]:
    """What can be read in a text: expressions and the text they stand in, or nothing."""
    readings = dict.fromkeys((text, _SUM_WITH_E.sub(r"\1 \2", text)))
    return [each for reading in readings for each in _read(_written_out(reading))]


def _read(text: str) -> list[Any]:
    from math_verify import parse
    from math_verify.errors import TimeoutException

    try:
        found: list[Any] = parse(text, parsing_timeout=TIMEOUT_S, raise_on_error=True)
    except TimeoutException as error:
        raise _TookTooLongError(f"math-verify did not read it within {TIMEOUT_S} s") from error
    except Exception:  # noqa: BLE001  (sympy raises anything on text that is no mathematics)
        return []
    return found


def _equal(truth: list[Any], found: list[Any], places: int) -> bool:
    from math_verify import verify
    from math_verify.errors import TimeoutException

    limits = {
        "float_rounding": places,
        "numeric_precision": PRECISION + places - ROUNDING,
        "timeout_seconds": TIMEOUT_S,
    }
    try:
        return bool(verify(truth, found, raise_on_error=True, **limits))
    except TimeoutException as error:
        raise _TookTooLongError(f"math-verify did not compare it within {TIMEOUT_S} s") from error
    except Exception:  # noqa: BLE001  (values of different kinds; the other readings may be equal)
        return bool(verify(truth, found, **limits))
