"""What reward functions of the verifiers library and of ms-swift are shown of a rollout.

The objects of the real libraries are not needed to grade a text. What is not here raises
`AttributeError` or `KeyError` in the reward function: a failed grade, never a made-up value.
"""

import copy
import json
from collections.abc import Mapping, Sequence
from typing import Any

from mlflow_rlrisk.verifiers import VerificationRequest

_MAPPINGS = frozenset({"info", "metadata", "extra_info"})
"""Columns that are mappings in their framework and JSON text in a flat file."""


class Fields(dict[str, Any]):
    """A mapping whose entries are attributes too, as records of both libraries offer them."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            seen = ", ".join(self) or "none"
            raise AttributeError(f"no {name!r} here; there are: {seen}") from None


class Parser:
    """The parser of a Rubric that brings none: the whole reply is the answer."""

    def parse(self, text: str) -> str:
        """The text as it is."""
        return text

    def parse_answer(self, completion: str | Sequence[Mapping[str, Any]]) -> str | None:
        """The last reply of the assistant."""
        if isinstance(completion, str):
            return completion
        replies = self.get_assistant_messages(completion)
        return str(replies[-1].get("content") or "") if replies else None

    def get_assistant_messages(
        self, completion: Sequence[Mapping[str, Any]]
    ) -> list[Mapping[str, Any]]:
        """The turns of the assistant."""
        return [turn for turn in completion if turn.get("role") == "assistant"]


class Trace:
    """One finished rollout of a single turn, as a reward of verifiers v1 reads it."""

    def __init__(self, request: VerificationRequest, completion: str, data: Fields) -> None:
        self.task = Fields(data=data)
        self.messages = [Fields(turn) for turn in [*prompt_turns(request), reply(completion)]]
        self.assistant_messages = self.messages[-1:]
        self.tool_messages: list[Fields] = []
        self.last_message = self.messages[-1]
        self.last_reply = completion
        self.num_turns = 1
        self.is_completed, self.has_error = True, False
        self.info, self.state = Fields(), Fields()
        self.metrics: dict[str, float] = {}

    def record_metric(self, name: str, value: float) -> None:
        """Keep a metric; it is no reward."""
        self.metrics[name] = value

    def record_metrics(self, values: Mapping[str, float]) -> None:
        """Keep metrics; they are no rewards."""
        self.metrics.update(values)


def reply(completion: str) -> dict[str, str]:
    """The assistant's turn."""
    return {"role": "assistant", "content": completion}


def prompt_turns(request: VerificationRequest) -> list[dict[str, str]]:
    """The prompt as a chat; a text is what the user says."""
    if isinstance(request.prompt, str):
        return [{"role": "user", "content": request.prompt}]
    return [dict(turn) for turn in request.prompt]


def prompt_text(request: VerificationRequest) -> str:
    """The prompt as text; the turns of a chat are joined by newlines."""
    if isinstance(request.prompt, str):
        return request.prompt
    return "\n".join(turn["content"] for turn in request.prompt)


def row(request: VerificationRequest, truth_name: str) -> Fields:
    """A source row of its own, with the truth under the name that the dialect reads it by."""
    columns = Fields(copy.deepcopy(dict(request.columns)))
    for name in _MAPPINGS & columns.keys():
        columns[name] = decoded(columns[name])
    if request.truth is not None:
        columns[truth_name] = copy.deepcopy(request.truth)
    return columns


def decoded(value: Any) -> Any:
    """A mapping that a flat file holds as JSON text; anything else as it is."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            found = json.loads(value)
        except (ValueError, RecursionError):
            return value
        return found if isinstance(found, dict) else value
    return value


class UnknownTokens(Sequence[int]):
    """Stands for the tokens of a text that no sampler drew; reading them is an error."""

    def __getitem__(self, index: Any) -> Any:
        raise LookupError("the tokens of this completion are not known")

    def __len__(self) -> int:
        raise LookupError("the tokens of this completion are not known")
