"""Names as a person would read them: what looks like a protected name is treated as one.

Case, Unicode form, accents, invisible characters, whitespace, percent escapes and letters of
other scripts that look Latin are taken away. The result is only ever compared, never stored.
"""

import unicodedata
from fnmatch import fnmatchcase
from functools import lru_cache
from urllib.parse import unquote

MAX_UNQUOTING = 8
"""Nested percent escapes that are undone; MLflow itself undoes one level at most."""

_DROPPED = ("M", "C", "Z")
"""Unicode categories: combining marks, controls and invisible characters, separators."""

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


@lru_cache(maxsize=4096)
def readable(name: str) -> str:
    """The form in which two names are compared.

    >>> readable(" Rl%2DReady") == readable("rl-ready") == readable("ＲＬ-ｒｅａｄｙ")
    True
    """
    for _ in range(MAX_UNQUOTING):
        if (once := unquote(name)) == name:
            break
        name = once
    letters = unicodedata.normalize("NFKD", name).casefold().translate(_LOOK_LATIN)
    letters = unicodedata.normalize("NFKD", letters)
    kept = (each for each in letters if unicodedata.category(each)[0] not in _DROPPED)
    return "".join(kept).translate(_LOOK_LATIN)


def matches(name: str, pattern: str) -> bool:
    """Whether ``name`` is read as one that the shell pattern ``pattern`` names."""
    return fnmatchcase(readable(name), readable(pattern))
