"""The families of RL datasets that are known by their columns.

A family says which columns hold the prompt and the truth. The first whose columns are all there
wins, so the more particular ones come first; what fits none is read by the usual names.
"""

from collections.abc import Callable
from dataclasses import dataclass

PROMPT_COLUMNS = ("prompt", "question", "problem", "messages", "input", "context_messages")
"""Columns that hold the prompt, the first present wins."""
TRUTH_COLUMNS = (
    "reward_model.ground_truth",
    "ground_truth",
    "answer",
    "truth",
    "target",
    "reference",
    "label",
    "solution",
)
"""Columns that hold the truth, the first present wins; ``solution`` is often a whole derivation
and comes last. The dotted one is verl's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One family of datasets.

    Attributes:
        name: For people.
        columns: Columns it is known by, dotted for nested ones; all must be there.
        prompt: Columns of its prompt, the first present wins.
        truth: Columns of its truth, the first present wins.
        drops_reply: Chats may end with the assistant's reply, which is no part of the prompt.
    """

    name: str
    columns: tuple[str, ...]
    prompt: tuple[str, ...] = PROMPT_COLUMNS
    truth: tuple[str, ...] = TRUTH_COLUMNS
    drops_reply: bool = False


_CODE_PROMPTS = ("prompt", "problem", "question", "question_content", "description")

FAMILIES = (
    Family(
        name="verl",
        columns=("prompt", "reward_model.ground_truth"),
        truth=("reward_model.ground_truth",),
    ),
    Family(
        name="code with verification_info (prime, open-r1)",
        columns=("verification_info",),
        prompt=_CODE_PROMPTS,
        truth=("verification_info.ground_truth", "verification_info"),
    ),
    Family(
        name="HumanEval",
        columns=("prompt", "test", "entry_point"),
        prompt=("prompt",),
        truth=("test",),
    ),
    Family(
        name="MBPP",
        columns=("test_list",),
        prompt=("prompt", "text"),
        truth=("test_list",),
    ),
    Family(
        name="APPS or TACO",
        columns=("input_output",),
        prompt=_CODE_PROMPTS,
        truth=("input_output",),
    ),
    Family(
        name="LiveCodeBench",
        columns=("public_test_cases",),
        prompt=("question_content", *_CODE_PROMPTS),
        truth=("public_test_cases",),
    ),
    Family(
        name="open-instruct",
        columns=("messages", "ground_truth", "dataset"),
        prompt=("messages",),
        truth=("ground_truth",),
        drops_reply=True,
    ),
    Family(
        name="reasoning-gym",
        columns=("question", "answer", "metadata.source_dataset"),
        prompt=("question",),
        truth=("answer",),
    ),
    Family(
        name="verifiers",
        columns=("info",),
        truth=(*TRUTH_COLUMNS, "info.answer", "info.ground_truth", "info"),
    ),
    Family(name="OpenRLHF", columns=("input", "label"), prompt=("input",), truth=("label",)),
    Family(
        name="OpenRLHF",
        columns=("context_messages", "label"),
        prompt=("context_messages",),
        truth=("label",),
    ),
    Family(name="MATH", columns=("problem", "solution"), prompt=("problem",)),
    Family(name="MATH or AIME", columns=("problem", "answer"), prompt=("problem",)),
    Family(name="TRL or verifiers", columns=("prompt",), prompt=("prompt",)),
)
"""In the order in which they are tried."""


def family_of(is_present: Callable[[str], bool]) -> Family | None:
    """The first family whose columns are all there.

    Args:
        is_present: Says whether some row has a value in a column.
    """
    return next((f for f in FAMILIES if all(map(is_present, f.columns))), None)
