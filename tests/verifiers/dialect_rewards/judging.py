"""What all reward functions of this folder agree on: the last number is the answer."""

import re

PARTIAL = 0.1


def last_number(text: str) -> str | None:
    found = re.findall(r"-?\d+", text)
    return found[-1] if found else None


def judge(text: str, truth: object) -> float:
    """1 for the truth, `PARTIAL` for another number, 0 for none."""
    answer = last_number(text)
    if answer is None:
        return 0.0
    return 1.0 if answer == str(truth) else PARTIAL
