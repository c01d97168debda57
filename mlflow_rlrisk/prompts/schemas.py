"""Which column is the prompt and which the truth: the schemas recognised by their columns.

A schema is found from the column names and the values of all rows, said in one sentence, and can
be overridden by a mapping. A row that does not fit is an error naming the row: a prompt set that
is read half wrongly would be measured as if it were right.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Literal

from mlflow_rlrisk.errors import PromptSetError
from mlflow_rlrisk.plurals import counted
from mlflow_rlrisk.prompts.dataset_families import PROMPT_COLUMNS, TRUTH_COLUMNS, Family, family_of
from mlflow_rlrisk.prompts.plain_values import plain_cell
from mlflow_rlrisk.prompts.sources import Row, Table
from mlflow_rlrisk.records import Message
from mlflow_rlrisk.stated_answers import gsm8k_answer, is_derivation, last_boxed

MAPPABLE = ("prompt", "truth")
_JSON_TRUTHS = ("verification_info", "input_output", "public_test_cases", "test_list", "info")
"""Columns that hold plain data, in flat files as JSON text."""
_TOOL_CALLS = ("tool_calls", "function_call")
"""What a turn may hold beside its content and a chat template would show."""
_LIST_OF_OBJECTS = re.compile(r"\s*\[\s*\{")
_PYTHON_OBJECTS = re.compile(r"\s*\[\s*\{\s*'.*\}\s*\]\s*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Schema:
    """Where prompt and truth stand.

    Attributes:
        prompt_path: Column of the prompt, dotted for a nested one.
        truth_path: Column of the truth, or ``None`` where there is none.
        form: What of the text is the truth: all of it, what follows ``####`` at its end
            (GSM8K), or its last box (MATH).
        family: The family of datasets that was recognised.
    """

    prompt_path: str
    truth_path: str | None
    form: Literal["whole", "hashes", "boxed"] = "whole"
    family: Family | None = None

    def sentence(self, table: Table, num_prompts: int, *, is_chat: bool) -> str:
        """What was recognised, for people."""
        kind = "messages" if is_chat else "text"
        column = f"column {self.prompt_path!r} ({kind})"
        text = f"{table.kind}, {counted(num_prompts, 'prompt')} from {column}"
        name = "GSM8K" if self.form == "hashes" else self.family.name if self.family else None
        known = f"; recognised as {name}" if name else ""
        if self.truth_path is None:
            return f"{text}, no truth column{known}"
        where = {"whole": "from", "hashes": "after '####' in", "boxed": "from the last box in"}
        text = f"{text}, truth {where[self.form]} {self.truth_path!r}"
        others = [
            name for name in TRUTH_COLUMNS if name in table.column_names and name != self.truth_path
        ]
        unused = f" (not used: {', '.join(map(repr, others))})" if others else ""
        return f"{text}{unused}{known}"


def recognise(table: Table, mapping: Mapping[str, str] | None) -> Schema:
    """Find the schema of ``table``.

    Args:
        table: At least one row.
        mapping: ``prompt`` and ``truth`` to column, dotted for nested ones; an empty column
            name for ``truth`` means that the set has none. What it does not name is recognised.

    Raises:
        PromptSetError: No known prompt column, a mapped column that is not there.
    """
    try:
        chosen = dict(mapping or {})
    except (TypeError, ValueError) as error:
        need = "a mapping of prompt and truth to columns is needed"
        raise PromptSetError(f"map {mapping!r}: {need}") from error
    for name, column in chosen.items():
        if name not in MAPPABLE:
            raise PromptSetError(f"map {name}=...: unknown; known: {', '.join(MAPPABLE)}")
        if not isinstance(column, str | None):
            raise PromptSetError(f"map {name}={column!r}: the name of a column is needed")
    present = cache(partial(_is_present, table))
    family = None if {"prompt", "truth"} <= chosen.keys() else family_of(present)
    prompts = family.prompt if family else PROMPT_COLUMNS
    prompt_path = chosen.get("prompt") or _first(present, (*prompts, *PROMPT_COLUMNS))
    if prompt_path is None:
        if empty := next((name for name in prompts if name in table.column_names), None):
            raise PromptSetError(f"no prompt column has a value: {empty!r} is empty in every row")
        raise PromptSetError(
            f"no prompt column among {_seen(table)}; known: {', '.join(PROMPT_COLUMNS)}; "
            "name yours with --map prompt=COLUMN,truth=COLUMN"
        )
    _require_column(table, prompt_path)
    if "truth" in chosen:
        truth_path = chosen["truth"] or None
    else:
        truths = family.truth if family else TRUTH_COLUMNS
        truth_path = _first(present, tuple(n for n in truths if n != prompt_path))
    if truth_path is None:
        return Schema(prompt_path, None, family=family)
    _require_column(table, truth_path)
    return Schema(prompt_path, truth_path, _form(table, truth_path), family)


def prompt_content(row: Row, schema: Schema) -> str | tuple[Message, ...]:
    """The prompt of one row: its text, or its chat turns.

    Raises:
        PromptSetError: Missing, empty, of another type, or no plain value in text that is JSON;
            the row is named.
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
        value = chat_from_text(value, where) or value
    value = plain_cell(value, where)  # what stood as JSON text was not looked at before
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        is_replied = schema.family is not None and schema.family.drops_reply and len(value) > 1
        return _messages(_without_reply(value) if is_replied else value, where)
    raise PromptSetError(
        f"{where}: the prompt is {type(value).__name__}; text or a list of messages is needed"
    )


def truth_of(row: Row, schema: Schema) -> Any:
    """The truth of one row, ``None`` where the set has none.

    Raises:
        PromptSetError: The set has a truth column and this row has no value in it, or one that
            is no plain value.
    """
    if schema.truth_path is None:
        return None
    value = value_at(row.columns, schema.truth_path)
    if value is None or (isinstance(value, str) and not value.strip()):
        raise PromptSetError(
            f"{row.place} has no truth in {schema.truth_path!r} as other rows have; "
            "--map truth= reads the set without truths"
        )
    if schema.form == "whole":
        where = f"{row.place}, column {schema.truth_path!r}"
        return plain_cell(_from_json(value, schema.truth_path, row), where)
    stated = gsm8k_answer(str(value)) if schema.form == "hashes" else last_boxed(str(value))
    if stated is None or not stated.strip():
        form = "does not end in '#### number'" if schema.form == "hashes" else "states no box"
        raise PromptSetError(f"{row.place}, column {schema.truth_path!r} {form} as other rows do")
    return stated.strip()


def value_at(columns: Mapping[str, Any], path: str) -> Any:
    """The value of a column; ``a.b`` looks for a column of that name, then for ``b`` inside ``a``.

    An object may stand there as JSON text, as flat files hold it.

    Returns:
        The value, or ``None`` where the path leads nowhere.
    """
    if path in columns:
        return columns[path]
    value: Any = columns
    for part in path.split("."):
        if isinstance(value, str) and value.lstrip()[:1] == "{":
            value = _object(value)
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    return value


def _first(present: Callable[[str], bool], paths: Sequence[str]) -> str | None:
    return next((path for path in paths if present(path)), None)


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


def _form(table: Table, path: str) -> Literal["whole", "hashes", "boxed"]:
    texts = [v for row in table.rows if isinstance(v := value_at(row.columns, path), str)]
    if any(gsm8k_answer(text) is not None for text in texts):
        return "hashes"
    is_solution = path.rpartition(".")[2].lower() == "solution"
    return "boxed" if is_solution and any(map(is_derivation, texts)) else "whole"


def _object(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _from_json(value: Any, path: str, row: Row) -> Any:
    """Test cases and the like that a flat file holds as JSON text."""
    if path not in _JSON_TRUTHS or not isinstance(value, str) or value.lstrip()[:1] not in "[{":
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise PromptSetError(f"{row.place}, column {path!r} is not JSON: {error}") from error


def _without_reply(turns: list[Any]) -> list[Any]:
    last = turns[-1]
    is_reply = isinstance(last, Mapping) and last.get("role") == "assistant"
    return turns[:-1] if is_reply else turns


def chat_from_text(text: str, where: str) -> list[Any] | None:
    """The turns of a chat that a flat file holds as JSON text; ``None`` for any other text.

    Raises:
        PromptSetError: A chat as Python shows it; ``where`` says whose.
    """
    if not _LIST_OF_OBJECTS.match(text):
        return None
    try:
        turns = json.loads(text)
    except (ValueError, RecursionError):
        _refuse_python_chat(text, where)
        return None
    is_chat = all(isinstance(turn, dict) and {"role", "content"} <= turn.keys() for turn in turns)
    return turns if is_chat else None


def _refuse_python_chat(text: str, where: str) -> None:
    """What ``DataFrame.to_csv`` makes of a list or an array of turns is no JSON."""
    if _PYTHON_OBJECTS.fullmatch(text) and "'role':" in text and "'content':" in text:
        raise PromptSetError(
            f"{where}: a chat as Python shows it; JSON is needed, which json.dumps(chat) writes"
        )


def _messages_from_text(text: str, where: str) -> Any:
    """CSV holds a chat as JSON text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        _refuse_python_chat(text, where)
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


def refuse_tool_calls(turn: Mapping[str, Any], where: str) -> None:
    """Refuse a turn that says more than its content.

    Raises:
        PromptSetError: It calls a tool; ``where`` says whose.
    """
    if call := next((name for name in _TOOL_CALLS if turn.get(name)), None):
        raise PromptSetError(
            f"{where} has {call!r}, which does not reach the chat template: the model would be "
            "shown something else; turns of role and content are needed"
        )


def _message(turn: Any, where: str) -> Message:
    if not isinstance(turn, Mapping):
        raise PromptSetError(f"{where} is {type(turn).__name__}, role and content are needed")
    refuse_tool_calls(turn, where)
    role, content = turn.get("role"), turn.get("content")
    if not isinstance(role, str) or not role.strip() or not isinstance(content, str):
        raise PromptSetError(f"{where} needs a role and a content that are text")
    return Message(role=role, content=content)
