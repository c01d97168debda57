"""Numbers and foreign text as people may read them: short, and never mistaken for markup."""

import re
from datetime import UTC, datetime

from mlflow_rlrisk.plurals import counted

MAX_TEXT = 4000
"""Characters of a completion that a page shows; the rest is counted."""

_NOTHING = 1e-9
"""No measurement is so fine that anybody needs to be told of less."""

_BIDI = re.compile("[\u202a-\u202e\u2066-\u2069\u200e\u200f\u061c]")
_CONTROL = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"} | {127: 0x2421}
_SURROGATE = re.compile("[\ud800-\udfff]")


def number(value: float) -> str:
    """A number at the precision a reader can use.

    >>> [number(x) for x in (0.0, 0.5231, 0.00002, 12.345, 4096, -0.0312)]
    ['0', '0.523', '2.0e-05', '12.3', '4,096', '-0.031']
    """
    size = abs(value)
    if value == int(value) and size < 1e15:
        return f"{int(value):,}"
    if size < 5e-4:
        return f"{value:.1e}"
    if size < 10:
        return f"{value:.3f}"
    return f"{value:.1f}" if size < 1000 else f"{value:,.0f}"


def estimate(value: float) -> str:
    """A measured value; a whole one keeps its decimals, for it is no count.

    >>> [estimate(x) for x in (0.0, 1.0, 0.25, 4096.0, 0.00002, 2.7e-12)]
    ['0.000', '1.000', '0.250', '4,096', '2.0e-05', '0.000']
    """
    is_whole = abs(value - round(value)) < _NOTHING
    return f"{round(value):.3f}" if is_whole and abs(value) < 10 else number(value)


def interval(low: float, high: float) -> str:
    """An interval in brackets."""
    return f"[{estimate(low)}, {estimate(high)}]"


def shown(text: str, limit: int = MAX_TEXT) -> str:
    """Foreign text made visible: control, direction and half characters become symbols.

    Escaping is the template's; this only keeps a text from reordering or breaking the page.
    """
    cut = text[:limit]
    cut = _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", cut.replace("\r\n", "\n"))
    cut = _BIDI.sub(lambda match: f"[U+{ord(match[0]):04X}]", cut.translate(_CONTROL))
    left = len(text) - limit
    return f"{cut} … ({counted(left, 'more character', spec=',')})" if left > 0 else cut


def moment(iso: str) -> str:
    """An ISO 8601 time to the minute in UTC; a text that is none stays as it is.

    >>> moment("2026-03-01T10:20:30+02:00")
    '2026-03-01 08:20 UTC'
    """
    try:
        time = datetime.fromisoformat(iso)
    except ValueError:
        return shown(iso, 40)
    return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC") if time.tzinfo else iso
