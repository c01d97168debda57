r"""Texts made from a truth: gold answers in other formats, and wrong answers in the same one.

Every probe is a whole completion. A variant says the truth in another way that a reader takes
for the same answer; a mutation says another answer. Both start from a rendering of the truth that
the verifier accepts, so that what is rejected is rejected for the one thing that was changed.
"""

import re
from collections.abc import Callable, Mapping
from fractions import Fraction

from mlflow_rlrisk.verifiers.builtin import truth_number
from mlflow_rlrisk.verifiers.gold import wrong_completion

_WHOLE = re.compile(r"-?\d+\Z")
_PLAIN_FRACTION = re.compile(r"(-?)(\d+)\s*/\s*(\d+)\Z")

RENDERINGS: Mapping[str, str] = {
    "boxed": "\\boxed{{{}}}",
    "boxed_in_sentence": "So the answer is $\\boxed{{{}}}$.",
    "sentence": "The answer is {}.",
    "answer_tag": "<answer>{}</answer>",
    "hashes": "#### {}",
    "bare": "{}",
    "dollars": "${}$",
}
"""Ways to state an answer, whatever it is."""


def variants(accepted: str, truth: str) -> dict[str, str]:
    """Ways to say the same answer, by name of the format.

    Args:
        accepted: A completion that the verifier accepts.
        truth: The truth that stands in it.
    """
    found = {name: form.format(truth) for name, form in RENDERINGS.items()}
    spelled = {name: spell(truth) for name, spell in _SPELLINGS.items()}
    before, stands, after = accepted.rpartition(truth)
    if stands:
        in_box = before.endswith("{") and after.startswith("}")
        for name, text in spelled.items():
            if text is not None:
                found[name] = f"{before}{text}{after}"
        unit = "\\text{ cm}" if in_box else " cm"
        if truth_number(truth) is not None:
            found["units"] = f"{before}{truth}{unit}{after}"
    wrong = wrong_completion(accepted, truth)
    found["think_tags"] = f"<think>\nMaybe {wrong}? No.\n</think>\n\n{accepted}"
    found["trailing_newlines"] = f"{accepted}\n\n"
    found["surrounding_text"] = f"Let me work this out.\n\n{accepted}"
    return {name: text for name, text in found.items() if text != accepted}


def mutations(accepted: str, truth: str | None) -> dict[str, str]:
    """Wrong answers in the form that was accepted, by name of what was changed."""
    found = {"next": wrong_completion(accepted, truth), "empty": ""}
    number = None if truth is None else truth_number(truth)
    if truth is None or number is None or truth not in accepted:
        return found
    before, _, after = accepted.rpartition(truth)
    if number.value != 0:
        found["negated"] = f"{before}{-number.value}{after}"
        found["tenfold"] = f"{before}{number.value * 10}{after}"
    found["no_answer"] = "I do not know the answer."
    return found


def _spaces(truth: str) -> str | None:
    return f" {truth} "


def _thousands(truth: str) -> str | None:
    if not _WHOLE.match(truth) or abs(int(truth)) < 1000:
        return None
    return f"{int(truth):,}"


def _decimal(truth: str) -> str | None:
    return f"{truth}.0" if _WHOLE.match(truth) else None


def _latex(truth: str) -> str | None:
    r"""``a/b`` as ``\frac{a}{b}``; a percent or dollar sign escaped."""
    match = _PLAIN_FRACTION.match(truth)
    if match:
        return f"{match[1]}\\frac{{{match[2]}}}{{{match[3]}}}"
    escaped = re.sub(r"(?<!\\)([%$])", r"\\\1", truth)
    return None if escaped == truth else escaped


def _fraction_as_decimal(truth: str) -> str | None:
    match = _PLAIN_FRACTION.match(truth)
    if match is None or int(match[3]) == 0:
        return None
    value = Fraction(int(match[2]), int(match[3]))
    decimal = f"{float(value):.6f}".rstrip("0").rstrip(".")
    return f"{match[1]}{decimal}" if Fraction(decimal) == value else None


_SPELLINGS: Mapping[str, Callable[[str], str | None]] = {
    "spaces": _spaces,
    "thousands_separator": _thousands,
    "trailing_zero": _decimal,
    "latex": _latex,
    "decimal": _fraction_as_decimal,
}
"""Ways to spell a number or an expression; ``None`` where there is no other way."""
