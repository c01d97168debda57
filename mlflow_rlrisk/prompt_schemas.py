"""Which column is the prompt and which the truth: the schemas recognised by their columns.

A schema is found from the column names and the values of all rows, said in one sentence, and can
be overridden by a mapping. A row that does not fit is an error naming the row: a prompt set that
is read half wrongly would be measured as if it were right.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlflow_rlrisk.errors import PromptSetError
from mlflow_rlrisk.prompt_sources import Row, Table
from mlflow_rlrisk.records import Message

PROMPT_COLUMNS = ("prompt", "question", "problem", "messages")
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

MAPPABLE = ("prompt", "truth")
_GSM8K_TAIL = re.compile(r"####[ \t]*([-+$]?[\d,.]+%?)\s*\Z")


@dataclass(frozen=True, slots=True)
class Schema:
    """Where prompt and truth stand.

    Attributes:
        prompt_path: Column of the prompt, dotted for a nested one.
        truth_path: Column of the truth, or ``None`` where there is none.
        is_gsm8k: The truth is what follows ``####`` at the end of the text.
    """

    prompt_path: str
    truth_path: str | None
    is_gsm8k: bool

    def sentence(self, table: Table, num_prompts: int, *, is_chat: bool) -> str:
        """What was recognised, for people."""
        kind = "messages" if is_chat else "text"
        text = f"{table.kind}, {num_prompts} prompts from column {self.prompt_path!r} ({kind})"
        if self.truth_path is None:
            return f"{text}, no truth column"
        where = "after '####' in" if self.is_gsm8k else "from"
        text = f"{text}, truth {where} {self.truth_path!r}"
        others = [
            name for name in TRUTH_COLUMNS if name in table.column_names and name != self.truth_path
        ]
        return f"{text} (not used: {', '.join(map(repr, others))})" if others else text


def recognise(table: Table, mapping: Mapping[str, str] | None) -> Schema:
    """Find the schema of ``table``.

    Args:
        table: At least one row.
        mapping: ``prompt`` and ``truth`` to column, dotted for nested ones; an empty column
            name for ``truth`` means that the set has none. What it does not name is recognised.

    Raises:
        PromptSetError: No known prompt column, a mapped column that is not there.
    """
    chosen = dict(mapping or {})
    for name in chosen:
        if name not in MAPPABLE:
            raise PromptSetError(f"map {name}=...: unknown; known: {', '.join(MAPPABLE)}")
    prompt_path = chosen.get("prompt") or _first_present(table, PROMPT_COLUMNS)
    if prompt_path is None:
        raise PromptSetError(
            f"no prompt column among {_seen(table)}; known: {', '.join(PROMPT_COLUMNS)}; "
            "name yours with --map prompt=COLUMN,truth=COLUMN"
        )
    _require_column(table, prompt_path)
    if "truth" in chosen:
        truth_path = chosen["truth"] or None
    else:
        truth_path = _first_present(table, tuple(n for n in TRUTH_COLUMNS if n != prompt_path))
    if truth_path is None:
        return Schema(prompt_path, None, is_gsm8k=False)
    _require_column(table, truth_path)
    return Schema(prompt_path, truth_path, is_gsm8k=_is_gsm8k(table, truth_path))


def prompt_content(row: Row, schema: Schema) -> str | tuple[Message, ...]:
    """The prompt of one row: its text, or its chat turns.

    Raises:
        PromptSetError: Missing, empty or of another type; the row is named.
    """
    value = value_at(row.columns, schema.prompt_path)
    where = f"{row.place}, column {schema.prompt_path!r}"
    if value is None:
        raise PromptSetError(f"{where}: there is no prompt")
    if isinstance(value, str) and schema.prompt_path.rpartition(".")[2] == "messages":
        value = _messages_from_text(value, where)
    if isinstance(value, str):
        if not value.strip():
            raise PromptSetError(f"{where}: the prompt is empty")
        return value
    if isinstance(value, list):
        return _messages(value, where)
    raise PromptSetError(
        f"{where}: the prompt is {type(value).__name__}; text or a list of messages is needed"
    )


def truth_of(row: Row, schema: Schema) -> Any:
    """The truth of one row, ``None`` where the set has none.

    Raises:
        PromptSetError: The set has a truth column and this row has no value in it.
    """
    if schema.truth_path is None:
        return None
    value = value_at(row.columns, schema.truth_path)
    if value is None or (isinstance(value, str) and not value.strip()):
        raise PromptSetError(
            f"{row.place} has no truth in {schema.truth_path!r} as other rows have; "
            "--map truth= reads the set without truths"
        )
    if not schema.is_gsm8k:
        return value
    tail = _GSM8K_TAIL.search(value) if isinstance(value, str) else None
    if tail is None:
        raise PromptSetError(
            f"{row.place}, column {schema.truth_path!r} does not end in '#### number' "
            "as other rows do"
        )
    return tail.group(1)


def value_at(columns: Mapping[str, Any], path: str) -> Any:
    """The value of a column; ``a.b`` looks for a column of that name, then for ``b`` inside ``a``.

    Returns:
        The value, or ``None`` where the path leads nowhere.
    """
    if path in columns:
        return columns[path]
    value: Any = columns
    for part in path.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    return value


def _first_present(table: Table, paths: Sequence[str]) -> str | None:
    return next((path for path in paths if _is_present(table, path)), None)


def _is_present(table: Table, path: str) -> bool:
    if path not in table.column_names and path.partition(".")[0] not in table.column_names:
        return False
    return any(value_at(row.columns, path) is not None for row in table.rows)


def _require_column(table: Table, path: str) -> None:
    if path.partition(".")[0] in table.left_out:
        kind = table.left_out[path.partition(".")[0]]
        raise PromptSetError(f"column {path!r} holds {kind}; text or plain values are needed")
    if path not in table.column_names and not _is_present(table, path):
        raise PromptSetError(f"no column {path!r}; columns seen: {_seen(table)}")


def _seen(table: Table) -> str:
    return ", ".join([*map(repr, table.column_names), *map(repr, table.left_out)]) or "none"


def _is_gsm8k(table: Table, path: str) -> bool:
    values = (value_at(row.columns, path) for row in table.rows)
    return any(isinstance(value, str) and _GSM8K_TAIL.search(value) for value in values)


def _messages_from_text(text: str, where: str) -> Any:
    """CSV holds a chat as JSON text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PromptSetError(f"{where}: text that is no JSON list of messages") from error


def _messages(turns: list[Any], where: str) -> tuple[Message, ...]:
    if not turns:
        raise PromptSetError(f"{where}: the chat has no turn")
    messages = tuple(_message(turn, f"{where}, turn {i}") for i, turn in enumerate(turns, start=1))
    if not any(message.content.strip() for message in messages):
        raise PromptSetError(f"{where}: the chat is empty")
    if messages[-1].role == "assistant":
        raise PromptSetError(
            f"{where}: the chat ends with the assistant's turn; a prompt ends before it"
        )
    return messages


def _message(turn: Any, where: str) -> Message:
    if not isinstance(turn, Mapping):
        raise PromptSetError(f"{where} is {type(turn).__name__}, role and content are needed")
    role, content = turn.get("role"), turn.get("content")
    if not isinstance(role, str) or not role.strip() or not isinstance(content, str):
        raise PromptSetError(f"{where} needs a role and a content that are text")
    return Message(role=role, content=content)
