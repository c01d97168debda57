"""What every command shares: exit codes, JSON on standard output, the command line as typed."""

import json
import re
import shlex
import sys
from typing import Any

import click

from mlflow_rlrisk.errors import PromotionRefusedError

OK, FAILURE, MISUSE, BLOCK, INCONCLUSIVE = 0, 1, 2, 10, 11
INTERRUPTED = 130
_UNSAFE = re.compile("[\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
OUTCOME_CODES = {"promote": OK, "block": BLOCK, "inconclusive": INCONCLUSIVE}


def print_json(value: dict[str, Any]) -> None:
    """Print one JSON object as one line; NaN is an error, never text.

    Escaped is what YAML, a terminal or UTF-8 does not take: DEL, C1 controls, halves of characters.
    """
    text = json.dumps(value, allow_nan=False, ensure_ascii=False)
    click.echo(_UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text))


def tell(found: dict[str, Any], *lines: str, as_json: bool) -> None:
    """Print a result: as one JSON object, or in lines for people."""
    if as_json:
        print_json(found)
        return
    for line in lines:
        click.echo(line)


def tell_refusal(error: PromotionRefusedError, model: str, *, as_json: bool, **more: object) -> int:
    """Print why the gate refuses; its outcome is the exit code."""
    found = {"outcome": error.outcome, "reason": error.reason, "message": error.message}
    tell({"model": model, **found, **more}, error.message, as_json=as_json)
    return OUTCOME_CODES[error.outcome]


def one_line(text: str) -> str:
    """A text that others chose a part of, without what a terminal would obey."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def command_line() -> str:
    """The command as it was typed, for the provenance of a report."""
    return shlex.join(["rlrisk", *sys.argv[1:]])
