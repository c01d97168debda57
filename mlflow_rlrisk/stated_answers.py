r"""Where a worked solution states its answer: after ``####`` (GSM8K) or in a box (MATH)."""

import re

_BRACES = re.compile(r"(?P<box>\\(?:boxed|fbox)\s*\{)|(?<!\\)[{}]")
_GSM8K_TAIL = re.compile(r"####[ \t]*([-+$]?[\d,.]+%?)\s*\Z")


def gsm8k_answer(text: str) -> str | None:
    """What follows ``####`` at the end of a text, where that is a number."""
    tail = _GSM8K_TAIL.search(text)
    return tail.group(1) if tail else None


def is_derivation(text: str) -> bool:
    r"""True for a text that has a ``\boxed`` answer."""
    return last_boxed(text) is not None


def last_boxed(text: str) -> str | None:
    r"""Content of the last closed ``\boxed{...}`` (or ``\fbox``), braces balanced."""
    open_braces: list[int | None] = []  # where the content of a box begins, None for other braces
    last: tuple[int, int] | None = None
    for token in _BRACES.finditer(text):
        if token[0] != "}":
            open_braces.append(token.end() if token["box"] else None)
        elif open_braces:
            start = open_braces.pop()
            if start is not None and (last is None or start > last[0]):
                last = (start, token.start())
    return None if last is None else text[last[0] : last[1]]
