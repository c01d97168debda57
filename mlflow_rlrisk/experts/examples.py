"""Held-out expert examples: a prompt and the response that SFT would teach.

Understood are chats (``messages``, ShareGPT's ``conversations``), whose last turn is the response,
Alpaca's ``instruction`` with ``input`` and ``output``, and a column of prompts beside one of
responses. Examples are grouped by prompt, because several responses to one prompt are not
independent.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlflow_rlrisk.errors import ConfigError, PromptSetError
from mlflow_rlrisk.plurals import counted
from mlflow_rlrisk.prompts import ID_LENGTH, content_digest, not_rendered, prompt_digest
from mlflow_rlrisk.prompts.schemas import Schema, prompt_content, refuse_tool_calls
from mlflow_rlrisk.prompts.sources import Row, Table, read_table
from mlflow_rlrisk.records import Prompt

CHATS = ("messages", "conversations")
PROMPTS = ("prompt", "instruction", "question", "problem", "query", "input")
RESPONSES = ("completion", "response", "output", "solution", "generation", "answer", "target")
"""The first present wins; ``answer`` stands late, it is often the last line of ``solution``."""
_ROLES = {"human": "user", "gpt": "assistant"}
"""ShareGPT's names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertExample:
    """One prompt with an expert's response.

    Attributes:
        prompt: The prompt; its id depends on its content alone.
        response: The text, without a stop token.
        place: Where it stands, for people.
    """

    prompt: Prompt
    response: str
    place: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertSet:
    """Expert examples.

    Attributes:
        examples: Distinct examples, sorted by content.
        digest: SHA-256 over their contents, the same for any order and format of the rows.
        sentence: What was read, for people.
    """

    examples: tuple[ExpertExample, ...]
    digest: str
    sentence: str


def load_expert(source: object) -> ExpertSet:
    """Read expert examples.

    Args:
        source: What `read_table` takes: a path (JSONL, JSON, CSV, Parquet, a dataset folder), a
            list of dicts, a frame or a Hugging Face dataset.

    Returns:
        The examples; repeated ones count once.

    Raises:
        PromptSetError: No rows, unknown columns, fewer than 2 prompts, or a row that has no
            prompt or no response; it is named.
    """
    if isinstance(source, ExpertSet):
        return source
    table = read_table(source)
    if not table.rows:
        raise PromptSetError(f"expert data: empty ({table.kind} without rows)")
    columns = _columns(table)
    found: dict[str, ExpertExample] = {}
    for row in table.rows:
        try:
            prompt, response = _example(row, columns)
        except PromptSetError as error:
            raise PromptSetError(f"expert data: {error}") from error
        if not response.strip():
            raise PromptSetError(f"expert data: {row.place}: the response is empty")
        digest = content_digest(prompt.content, response, {})
        found.setdefault(digest, ExpertExample(prompt=prompt, response=response, place=row.place))
    if len({each.prompt.id for each in found.values()}) < 2:
        raise PromptSetError("expert data: a single prompt, at least 2 are needed for an interval")
    return ExpertSet(
        examples=tuple(found[digest] for digest in sorted(found)),
        digest=prompt_digest(found),
        sentence=f"{table.kind}, {counted(len(found), 'example')} from "
        f"{' and '.join(map(repr, columns))}" + not_rendered(table),
    )


def load_experts(heldout: object, train: object) -> tuple[ExpertSet | None, ExpertSet | None]:
    """Read held-out examples, and those that SFT was trained on.

    Raises:
        ConfigError: Training examples without held-out ones: there is no gap to tell.
        PromptSetError: One of them cannot be used, or an example stands in both.
    """
    if train is None:
        return (None if heldout is None else load_expert(heldout)), None
    if heldout is None:
        raise ConfigError("expert_train_data", train, "needs expert_data, the held-out examples")
    both = load_expert(heldout), load_expert(train)
    _refuse_common(*both)
    return both


def _refuse_common(heldout: ExpertSet, train: ExpertSet) -> None:
    """Refuse held-out examples that were trained on: their loss is no held-out loss.

    Raises:
        PromptSetError: An example stands in both sets.
    """
    known = {(each.prompt.id, each.response) for each in train.examples}
    both = [each for each in heldout.examples if (each.prompt.id, each.response) in known]
    if both:
        raise PromptSetError(
            f"expert data: {len(both)} of {len(heldout.examples)} held-out examples are training "
            f"examples too (first: {both[0].place})"
        )


def _columns(table: Table) -> tuple[str, ...]:
    """Column of the prompt and of the response, or that of a whole chat."""

    def first(names: tuple[str, ...]) -> str | None:
        present = (name for name in names if name in table.column_names)
        return next((n for n in present if any(r.columns[n] is not None for r in table.rows)), None)

    prompt = first(PROMPTS)
    response = first(tuple(name for name in RESPONSES if name != prompt))
    if prompt is not None and response is not None:
        return prompt, response
    chat = first(CHATS)
    if chat is None:
        raise PromptSetError(
            f"expert data: no prompt beside a response among {', '.join(table.column_names)}; "
            f"needed is one of {', '.join(CHATS)}, or one of {', '.join(PROMPTS)} with one of "
            f"{', '.join(RESPONSES)}"
        )
    return (chat,)


def _example(row: Row, columns: tuple[str, ...]) -> tuple[Prompt, str]:
    if len(columns) == 1:
        turns = _turns(row, columns[0])
        return _prompt(row, turns[:-1]), _reply(row, turns[-1:])
    prompt, response = (row.columns[name] for name in columns)
    extra = row.columns.get("input")
    if columns[0] == "instruction" and isinstance(extra, str) and extra.strip():
        prompt = f"{prompt}\n{extra}"
    if isinstance(response, list):
        response = _reply(row, [_turn(row, turn) for turn in response])
    if not isinstance(response, str):
        raise PromptSetError(f"{row.place}, column {columns[1]!r}: text or a chat turn is needed")
    return _prompt(row, prompt), response


def _prompt(row: Row, value: Any) -> Prompt:
    content = prompt_content(Row(row.place, {"prompt": value}), Schema("prompt", None))
    return Prompt(id=content_digest(content, None, {})[:ID_LENGTH], content=content)


def _turns(row: Row, column: str) -> list[dict[str, Any]]:
    value = row.columns[column]
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise PromptSetError(f"{row.place}: {column!r} is no JSON") from error
    if not isinstance(value, list) or len(value) < 2:
        raise PromptSetError(f"{row.place}, column {column!r}: a prompt and a reply are needed")
    return [_turn(row, turn) for turn in value]


def _turn(row: Row, turn: Any) -> dict[str, Any]:
    if not isinstance(turn, Mapping):
        raise PromptSetError(f"{row.place}: a turn is {type(turn).__name__}, no message")
    refuse_tool_calls(turn, f"{row.place}: a turn")
    role = turn.get("role", turn.get("from"))
    if not isinstance(role, str) or not role.strip():
        raise PromptSetError(f"{row.place}: a turn has the role {role!r:.40}, text is needed")
    role = role.strip().casefold()
    return {"role": _ROLES.get(role, role), "content": turn.get("content", turn.get("value"))}


def _reply(row: Row, turns: list[dict[str, Any]]) -> str:
    if len(turns) != 1 or turns[0]["role"] != "assistant":
        roles = ", ".join(repr(turn["role"]) for turn in turns)
        raise PromptSetError(
            f"{row.place}: the response must be one turn of the assistant; it is by {roles}"
        )
    content = turns[0]["content"]
    if not isinstance(content, str):
        raise PromptSetError(f"{row.place}: the assistant's turn has no text")
    return content
