"""``rlrisk serve --json``: a line on standard output for each process of ours that is up.

Whoever supervises the service reads it; logs go to standard error.
"""

import json
import os
from collections.abc import Callable
from contextlib import suppress

Announce = Callable[..., None]


def announcer(role: str, *, as_json: bool) -> Announce:
    """What a role calls when it is up, with what is known of it then; silent unless asked for."""

    def announce(**about: object) -> None:
        if as_json:
            with suppress(OSError):  # nobody listens any more
                print(json.dumps({"role": role, "pid": os.getpid(), **about}), flush=True)

    return announce
