"""Any known dataset -> `PromptSet`, with a digest of its content.

The digest says whether two assessments saw the same prompts: it does not depend on the order of
the rows nor on the format they were stored in (JSONL, Parquet, a frame), as far as the format
keeps the types. Prompts that repeat are counted once, because every interval of a report counts
prompts as independent; the same prompt with two truths is an error.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow_rlrisk.errors import PromptSetError
from mlflow_rlrisk.plurals import counted
from mlflow_rlrisk.prompts.schemas import prompt_content, recognise, truth_of
from mlflow_rlrisk.prompts.sources import Row, Table, read_table
from mlflow_rlrisk.records import Message, Prompt

ID_LENGTH = 16
"""Hex digits of a prompt id: 64 bits, a collision among 10^6 prompts has a chance of 3e-8."""


FOR_TEMPLATES = ("tools", "chat_template_kwargs", "system", "system_prompt")
"""Columns that a trainer may hand to the chat template, and no sampler here does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSet:
    """The prompts of the RL run.

    Attributes:
        prompts: Distinct prompts in source order; at least one.
        digest: SHA-256 over the contents, the same for any order of the rows.
        schema: What was recognised, as a sentence.
        num_duplicates: Rows left out because an earlier row is identical.
    """

    prompts: tuple[Prompt, ...]
    digest: str
    schema: str
    num_duplicates: int

    def __post_init__(self) -> None:
        if not self.prompts:
            raise PromptSetError("the prompt set is empty")

    def __len__(self) -> int:
        return len(self.prompts)

    def __iter__(self) -> Iterator[Prompt]:
        return iter(self.prompts)


_CANONICAL_JSON = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
)


def load_prompts(source: object, mapping: Mapping[str, str] | None = None) -> PromptSet:
    """Read the prompts of the RL run.

    Args:
        source: A path to JSONL, JSON (an array), CSV, Parquet or the folder of a Hugging Face
            dataset (``FOLDER/SPLIT`` where it has several); a list of dicts; a pandas frame; a
            Hugging Face dataset; an MLflow dataset. A `PromptSet` comes back as it is.
        mapping: Which column is ``prompt`` and which ``truth``, dotted for nested ones
            (``reward_model.ground_truth``); without it they are recognised by name.

    Raises:
        PromptSetError: No rows, unknown columns, or a row that does not fit; it is named.
    """
    if isinstance(source, PromptSet):
        return source
    try:
        return _load(source, mapping)
    except PromptSetError as error:
        if not isinstance(source, str | Path) or str(error).startswith(str(source)):
            raise
        raise PromptSetError(f"{Path(source).name}: {error}") from error


def _load(source: object, mapping: Mapping[str, str] | None) -> PromptSet:
    table = read_table(source)
    if not table.rows:
        raise PromptSetError(f"the prompt set is empty ({table.kind} without rows)")
    schema = recognise(table, mapping)
    collected = _Collected()
    for row in table.rows:
        collected.add(row, prompt_content(row, schema), truth_of(row, schema))
    sentence = schema.sentence(table, len(collected.prompts), is_chat=collected.is_chat)
    return PromptSet(
        prompts=tuple(collected.prompts.values()),
        digest=prompt_digest(collected.prompts),
        schema=sentence
        + collected.remarks()
        + (not_rendered(table) if collected.is_chat else "")
        + _left_out(table.left_out),
        num_duplicates=collected.num_duplicates,
    )


def num_templated(prompts: Iterable[Prompt], chat_template: str) -> int:
    """How many prompts go through the checkpoint's template, by `SamplingConfig.chat_template`."""
    return sum(
        chat_template == "always" if isinstance(prompt.content, str) else chat_template != "never"
        for prompt in prompts
    )


def prompt_digest(content_digests: Mapping[str, Any]) -> str:
    """SHA-256 over the sorted content digests of the prompts."""
    return hashlib.sha256("\n".join(sorted(content_digests)).encode()).hexdigest()


def content_digest(
    content: str | tuple[Message, ...], truth: object, columns: Mapping[str, Any]
) -> str:
    """SHA-256 over the canonical JSON of one prompt; `Prompt.id` is its beginning."""
    turns = content if isinstance(content, str) else [[m.role, m.content] for m in content]
    return _sha256({"content": turns, "truth": truth, "columns": columns})


class _Collected:
    """Distinct prompts by content digest, and what was seen on the way."""

    def __init__(self) -> None:
        self.prompts: dict[str, Prompt] = {}
        self.num_duplicates = 0
        self.num_repeated_texts = 0
        self.is_chat = False
        self._first_seen: dict[str | tuple[Message, ...], tuple[str, Any]] = {}

    def add(self, row: Row, content: str | tuple[Message, ...], truth: Any) -> None:
        is_chat = not isinstance(content, str)
        if self.prompts and is_chat is not self.is_chat:
            kinds = ("messages", "text") if is_chat else ("text", "messages")
            raise PromptSetError(f"{row.place}: the prompt is {kinds[0]}, before it {kinds[1]}")
        self.is_chat = is_chat
        digest = content_digest(content, truth, row.columns)
        if digest in self.prompts:
            self.num_duplicates += 1
            return
        if content in self._first_seen:
            place, first_truth = self._first_seen[content]
            if _sha256(first_truth) != _sha256(truth):
                raise PromptSetError(f"{place} and {row.place}: one prompt, two different truths")
            self.num_repeated_texts += 1
        else:
            self._first_seen[content] = (row.place, truth)
        self.prompts[digest] = Prompt(
            id=digest[:ID_LENGTH], content=content, truth=truth, columns=row.columns
        )

    def remarks(self) -> str:
        text = ""
        if self.num_duplicates:
            text += f"; {counted(self.num_duplicates, 'repeated row')} left out"
        if self.num_repeated_texts:
            some = counted(self.num_repeated_texts, "prompt repeats", "prompts repeat")
            is_one = self.num_repeated_texts == 1
            kept = "was kept: intervals count it" if is_one else "were kept: intervals count them"
            text += f"; {some} the text of another one with other columns and {kept} as independent"
        return text


def not_rendered(table: Table) -> str:
    """Which of `FOR_TEMPLATES` a table has, as the end of a sentence."""
    given = [name for name in FOR_TEMPLATES if any(row.columns.get(name) for row in table.rows)]
    return f"; not handed to the chat template: {', '.join(map(repr, given))}" if given else ""


def _left_out(columns: Mapping[str, str]) -> str:
    if not columns:
        return ""
    names = ", ".join(f"{name!r} ({kind})" for name, kind in sorted(columns.items()))
    return f"; columns left out, not plain data: {names}"


def _sha256(value: object) -> str:
    return hashlib.sha256(_CANONICAL_JSON.encode(_canonical(value)).encode()).hexdigest()


def _canonical(value: Any) -> Any:
    """Without what storage formats change: absent or null members, ``3`` stored as ``3.0``."""
    if isinstance(value, Mapping):
        return {name: _canonical(item) for name, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
