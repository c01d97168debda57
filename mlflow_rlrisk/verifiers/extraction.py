r"""The final number of a completion, exactly.

A number is read as a `fractions.Fraction`: ``0.1`` is one tenth. Understood: signs (also the
Unicode minus, and an en dash where it is no range), thousands separators (``1,234``,
``1{,}234``), decimals with a point, fractions ``a/b`` and ``\frac{a}{b}``, powers of ten
(``1.5e-3``, ``3 \times 10^5``). A currency sign before and a percent sign behind are dropped:
``50%`` reads as 50. Not understood, and so read wrongly or not at all: decimal commas, mixed
numbers (``1 3/4``), number words, symbolic answers. Digits glued to a letter before them
(``H2O``) and exponents of units (``m^2``) are no numbers.

Several answers are none: who boxes ``1, 2, 3`` must not be paid for one of them. A box holds one
number with a unit; what it holds besides (``2\sqrt{3}``, ``2^{10}``, ``5!``, ``x - 5``) makes it
another value. A minus that is set apart is a sign where an answer begins (``\boxed{- 5}``,
``x = -(5)``), but no bullet of a list is. Nor does a part of a term state the answer outside of a
box (``2^10``, ``±5``, ``\sqrt{16}``), and behind "answer is" no part of a sum or of a range
(``3 + 4``, ``3-5``). An exclamation mark that ends a sentence makes no factorial: "The answer is
5!" states 5, but ``5!/3!``, ``$5!$`` and ``#### 5!`` do not.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

from mlflow_rlrisk.stated_answers import last_boxed

MAX_DIGITS = 400
"""Longer numbers and larger exponents are no answers and would cost memory to expand."""
RELATIVE_TOLERANCE = Fraction(1, 10**6)
"""Answers written as decimals may be rounded to six significant digits."""

_MAGNITUDE = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
_NUMBER = re.compile(
    rf"(?P<sign>(?<![\w.)\]}}%°$€£])[-+−])?"
    rf"(?:[$€£]\s?(?P<inner>[-+−])?)?(?<!\w)(?P<head>{_MAGNITUDE})"
    rf"(?:\s*/\s*(?P<denominator>\d+(?:\.\d+)?)"
    rf"|[eE](?P<exponent>[-+−]?\d+)"
    rf"|\s*(?:\\times|\\cdot|×|\*)\s*10\s*\^\s*\{{?(?P<power>[-+−]?\d+)\}}?)?"
)
_LATEX_FRACTION = re.compile(
    r"(?P<glued>(?<=\d))?\\[dt]?frac\s*"
    r"(?:\{(?P<over>[^{}]+)\}\s*\{(?P<under>[^{}]+)\}|(?P<a>\d)\s*(?P<b>\d))"
)
_LATEX_NOISE = re.compile(r"\\[,;!: ]|\{,\}|\\left|\\right|\\\$|\\%")
_SPACE_OF_LIST = re.compile(r",\\[,;: ]")
"""What stands behind it is another answer; ``1,\\!234`` has no space."""
_UNIT_POWER = re.compile(r"(?<=[A-Za-z}])(?<!\de)\s*\^\s*(?:\{\s*[-+−]?\d+\s*\}|[-+−]?\d+)")
_HASHES = re.compile(r"####[ \t]*([^\n]*)")
_PHRASE = re.compile(r"\banswer(?:\s+is|\s*:|\s*=)(?:\s*:)?", re.IGNORECASE)
_OTHER_VALUE = re.compile(
    r"[\d^+<>±!]|\\(?:sqrt|pi|log|ln|sin|cos|tan|times|cdot|overline|bar|pm|infty|binom|leq?|geq?)(?![a-z])"
)
"""What beside its number makes the content of a box another value than that number."""
_VARIABLE = re.compile(
    r"(?:\s*\\(?:cdot|times)\s*)?(?:(?:[abceijknpqruvwxyz]|[abc]{2,3}|[uvwxyz]{2,3})(?![A-Za-z])"
    r"|\\(?:alpha|beta|gamma|theta|lambda|mu|phi|omega|sigma|pi|sqrt)(?![a-z]))"
)
"""Behind a number it makes a term of it: ``3x`` is not 3. Single letters that are units of
measure (m, g, s, h, l, t, d, f, o) are none."""
_BEFORE_OPERAND = ("^", "±", "∓", "+/", "√", "\\pm", "\\mp", "\\sqrt")
"""Before a number, also before its bracket, these make another value of it."""
_GOES_ON = re.compile(
    r"!|[\s%°$€£]*(?:\^(?![\s{]*(?:st|nd|rd|th)\b)"
    r"|(?:[-+−–±∓*/×÷]|\\(?:times|cdot|div|pm|mp)(?![a-z]))[\s$€£]*\.?\d)"
)
"""Behind a number: a factorial, a power (``5^{th}`` is none), or an operation, a range, a date."""
_BULLET = re.compile(r"[ \t]*\n\s*[-*•]\s+")
_OPENING = " \t\n{[($*"
"""May stand between a minus and its number, and before it."""
_MINUS = re.compile(r"－|(?<!\d[^\S\n])–")
"""Typed for a minus; ``10 –5`` is a range, and the dash of ``10–5`` is no sign to `_NUMBER`."""
_UNIT_MARK = re.compile(r"\^(?:\s*\{)?\s*\\(?:circ|text|mathrm)")
_NEXT_ANSWER = re.compile(
    r"[\s)\]}$*]*(?:[,;]|\bor\b|\band\b|\\text\s*\{\s*(?:or|and)\s*\})[\s(\[{$*]*(?=[-+−.\d])"
)
_BETWEEN_EQUATIONS = re.compile(r",(?!\d)|;|\bor\b|\band\b")
_EXCLAMATION = re.compile(
    r"(?<![!\\])!++(?=[*_\"'”’]*(?:\s|$|</))(?![ \t]*(?:[=+×÷/^]|[-−–*][ \t]*\d))"
)
"""At the end of a sentence, with the marks that close it; no factorial that a term goes on from."""
_SENTENCE_END = re.compile(rf"\n|[.?](?=\s|$)|{_EXCLAMATION.pattern}")


@dataclass(frozen=True, slots=True)
class Number:
    """A number as it was written.

    Attributes:
        value: The exact value.
        is_integer: Written without point, fraction or exponent: it is compared exactly.
    """

    value: Fraction
    is_integer: bool

    def __str__(self) -> str:
        return str(self.value)

    def negated(self) -> "Number":
        """The number with the other sign."""
        return Number(-self.value, self.is_integer)

    def equals(self, truth: "Number") -> bool:
        """True when this answer states ``truth``.

        A truth written as an integer must be met exactly, any other one within
        `RELATIVE_TOLERANCE` of it.
        """
        if truth.is_integer:
            return self.value == truth.value
        return abs(self.value - truth.value) <= RELATIVE_TOLERANCE * abs(truth.value)


def final_number(text: str) -> Number | None:
    r"""The number a completion ends up with, ``None`` where it states none.

    The first of these that occurs decides, its last occurrence each: ``\boxed{...}``,
    ``#### ...``, "answer is ..." (or ``answer:``), else the last number of the text. A box or a
    ``####`` without a number states none, whatever numbers stand elsewhere; nor does a place
    that states several. A number that decides and has no value (a denominator of zero, more than
    `MAX_DIGITS` digits) or is part of a term (``2^10``, ``±5``) is not replaced by another one.
    """
    boxed = last_boxed(text)
    if boxed is not None:
        return _stated(boxed, is_boxed=True).number
    hashes = _HASHES.findall(text)
    if hashes:
        return _stated(hashes[-1]).number
    phrases = list(_PHRASE.finditer(text))
    if phrases:
        rest = _behind(text, phrases[-1].end())
        end = _SENTENCE_END.search(rest)
        stated = _stated(rest[: end.start()] if end else rest)
        if stated.number is not None or stated.is_refused:
            return stated.number
    return _last_number(text)


def whole_number(text: str) -> Number | None:
    """``text`` as one number, ``None`` where it is anything else."""
    cleaned = _clean(text).strip().strip("$").removesuffix("%").strip()
    match = _NUMBER.fullmatch(cleaned)
    return _to_number(match) if match else None


def _behind(text: str, end: int) -> str:
    """What follows a phrase, without the bullet of a list that begins there."""
    bullet = _BULLET.match(text, end)
    return text[bullet.end() if bullet else end :].lstrip()


class _Stated(NamedTuple):
    """What a short region that states an answer says; refused where that is no single number."""

    number: Number | None
    is_refused: bool = False


def _stated(region: str, *, is_boxed: bool = False) -> _Stated:
    """The first number behind the last ``=`` of a region, unless that has or is another value.

    Refused are several answers, and a number that is part of a term or has no value.
    """
    cleaned = _UNIT_MARK.sub("", _clean(region))
    *sides, text = cleaned.split("=")
    if any(_BETWEEN_EQUATIONS.search(side) for side in sides[1:]):
        return _Stated(None, is_refused=True)
    match = _NUMBER.search(text)
    if match is None:
        return _Stated(None)
    number = _to_number(match)
    end = match.end() + (is_boxed and text.startswith(" ", match.end()))
    if number is None or _VARIABLE.match(text, end) or _is_operand(text, match):
        return _Stated(None, is_refused=True)
    rest = f"{text[: match.start()]} {text[match.end() :]}"
    lead = text[: match.start()].strip(_OPENING)
    if is_boxed and (_OTHER_VALUE.search(rest) or lead[1:].endswith(("-", "−"))):
        return _Stated(None)
    number = number.negated() if lead in ("-", "−") else number
    following = _NEXT_ANSWER.match(text, match.end())
    other = _NUMBER.match(text, following.end()) if following else None
    if other is not None and _to_number(other) != number:
        return _Stated(None, is_refused=True)
    return _Stated(number)


def _last_number(text: str) -> Number | None:
    cleaned = _EXCLAMATION.sub("", _UNIT_MARK.sub("", _clean(text)))
    last = None
    for match in _NUMBER.finditer(cleaned):
        last = last if _is_coefficient(cleaned, match) else match
    number = None if last is None or _is_operand(cleaned, last) else _to_number(last)
    if last is None or number is None:
        return None
    _, equals, lead = cleaned[: last.start()].rpartition("=")
    return number.negated() if equals and lead.strip(_OPENING) in ("-", "−") else number


def _is_operand(text: str, match: re.Match[str]) -> bool:
    """True for a number that is part of a term, so that its value is not what is stated."""
    before = text[: match.start()].rstrip(" {[(")
    return before.endswith(_BEFORE_OPERAND) or _GOES_ON.match(text, match.end()) is not None


def _is_coefficient(text: str, match: re.Match[str]) -> bool:
    """True for the 3 of ``3x``; a letter after a space is a word (``3 a day``)."""
    return _VARIABLE.match(text, match.end()) is not None


def _clean(text: str) -> str:
    spaced = _SPACE_OF_LIST.sub(", ", _MINUS.sub("-", text))
    plain = _UNIT_POWER.sub("", _LATEX_NOISE.sub("", spaced))
    return _LATEX_FRACTION.sub(_plain_fraction, plain)


def _plain_fraction(match: re.Match[str]) -> str:
    r"""``a/b``, kept apart from a digit before it: ``1\frac{3}{4}`` is no ``13/4``."""
    space = "" if match["glued"] is None else " "
    over, under = match["over"] or match["a"], match["under"] or match["b"]
    return f"{space}{over.strip()}/{under.strip()}"


def _to_number(match: re.Match[str]) -> Number | None:
    head = match["head"].replace(",", "")
    exponent = _exponent(match["exponent"] or match["power"])
    denominator = match["denominator"]
    if exponent is None or max(len(head), len(denominator or ""), abs(exponent)) > MAX_DIGITS:
        return None
    value = Fraction(head) * Fraction(10) ** exponent
    if denominator is not None:
        if Fraction(denominator) == 0:
            return None
        value /= Fraction(denominator)
    is_negative = (match["sign"] or match["inner"] or "+") in "-−"
    is_integer = "." not in head and denominator is None and not exponent
    return Number(-value if is_negative else value, is_integer)


def _exponent(text: str | None) -> int | None:
    if text is None:
        return 0
    digits = text.replace("−", "-")
    return int(digits) if len(digits) <= 4 else None
