"""Names as a person would read them: what looks like a protected name is treated as one.

Case, Unicode form, accents, invisible characters, whitespace and percent escapes are taken away.
Of letters that look like others three things are known. Of ASCII, what Unicode's confusables say:
capital I and 1 pass for l, 0 for O, rn for m. A word without a letter of ASCII is read by the
table below. In a word with one, such as ``rl-rєady``, any letter or digit from outside ASCII
passes for whichever stands in its place: nobody writes such a word but to be taken for another.
So words of another script stay other names, and ``ri-ready`` is not ``rl-ready``.

Rejected: Unicode's table itself (PyPI: confusable-homoglyphs 3.3.1, MIT, of 2024, 0.9 MB). It
takes no є for an e, and small т, к or м for no t, k or m, which the table below does.
"""

import re
import unicodedata
from fnmatch import fnmatchcase
from functools import lru_cache
from urllib.parse import unquote

MAX_UNQUOTING = 8
"""Nested percent escapes that are undone; MLflow itself undoes one level at most."""

_DROPPED = ("M", "C", "Z")
"""Unicode categories: combining marks, controls and invisible characters, separators."""

_SEEN = str.maketrans("I1ΙІӀӏ0ΝΗΥ", "lllllloNHY")
"""What looks like another letter than in small: of ASCII, and Greek and Cyrillic capitals."""

_LOOK_LATIN = str.maketrans(
    "аеорсухіјѕԁԛԝһӏкмтвнгп"  # Cyrillic
    "αβεζμνιοκρτυχωγσς"  # Greek
    "ɑɡɩıĸɾ‐‑‒–—―−"  # Latin letters and dashes that pass for others
    "ᴀʙᴄᴅᴇꜰɢʜɪᴊᴋʟᴍɴᴏᴘʀꜱᴛᴜᴠᴡʏᴢ"  # small capitals
    "ƀđɇǥħɨɉłøɍŧɏƶ"  # letters with a stroke, which no Unicode form takes off
    "օսհոցզ",  # Armenian
    "aeopcyxijsdqwhikmtbhrnabezmviokptuxwyccagiikr-------abcdefghijklmnoprstuvwyz"
    "bdeghijlortyz"
    "ouhngq",
)


def readable(name: str) -> str:
    """The form by which a place is named, whatever spelling it was asked for by.

    >>> readable(" Rl%2DReady") == readable("rl-ready") == readable("ＲＬ-ｒｅａｄｙ")
    True
    """
    return _forms(name)[0].translate(_LOOK_LATIN)


def alike(name: str, other: str) -> bool:
    """Whether two names pass for each other.

    >>> [alike(each, "rl-ready") for each in ("RL-READY", "rl-rєady", "r1-ready", "ri-ready")]
    [True, True, True, False]
    """
    return any(_pass(one, two) for one in _forms(name) for two in _forms(other))


def matches(name: str, pattern: str) -> bool:
    """Whether ``name`` is read as one that the shell pattern ``pattern`` names."""
    return fnmatchcase(readable(name), readable(pattern))


@lru_cache(maxsize=4096)
def _forms(name: str) -> tuple[str, str]:
    """A name in small letters: as it is written, and as its letters and digits look."""
    for _ in range(MAX_UNQUOTING):
        if (once := unquote(name)) == name:
            break
        name = once
    letters = unicodedata.normalize("NFKD", name)
    return _small(letters), _small(letters.translate(_SEEN)).replace("rn", "m")


def _small(letters: str) -> str:
    small = unicodedata.normalize("NFKD", letters.casefold())
    return "".join(each for each in small if unicodedata.category(each)[0] not in _DROPPED)


def _pass(name: str, other: str) -> bool:
    if name.translate(_LOOK_LATIN) == other.translate(_LOOK_LATIN):
        return True
    words, others = (re.split("[-_]", each) for each in (name, other))
    return len(words) == len(others) and all(map(_words_pass, words, others))


def _words_pass(word: str, other: str) -> bool:
    if word.translate(_LOOK_LATIN) == other.translate(_LOOK_LATIN):
        return True
    pairs = list(zip(word, other, strict=False))
    return (
        len(word) == len(other)
        and all(a == b or a.isascii() != b.isascii() for a, b in pairs)
        and any(a == b and a.isascii() and a.isalpha() for a, b in pairs)
    )
