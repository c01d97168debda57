"""Prompts that stand in the set more than once, and those whose labels contradict each other.

A prompt set with contradictions is refused everywhere else; here it is read in order to list
them. Two prompts are the same when they differ in case and white space only.
"""

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlflow_rlrisk.errors import PromptSetError
from mlflow_rlrisk.prompts import ID_LENGTH, PromptSet, content_digest
from mlflow_rlrisk.prompts.schemas import Schema, prompt_content, recognise, truth_of
from mlflow_rlrisk.prompts.sources import read_table
from mlflow_rlrisk.records import Message, Prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeated:
    """One prompt that stands in the set more than once.

    Attributes:
        prompt: Its text.
        places: The rows.
        truths: The distinct truths, more than one where they contradict each other.
    """

    prompt: str
    places: tuple[str, ...]
    truths: tuple[Any, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledSet:
    """A prompt set as it is, contradictions included.

    Attributes:
        prompts: One prompt for each distinct row.
        schema: What was recognised, as a sentence.
        num_rows: Rows of the source.
        repeated: Prompts with several rows, whether their truths agree or not.
    """

    prompts: tuple[Prompt, ...]
    schema: str
    num_rows: int
    repeated: tuple[Repeated, ...]

    @property
    def duplicated(self) -> tuple[Repeated, ...]:
        """Repeated prompts whose truths agree."""
        return tuple(each for each in self.repeated if len(each.truths) == 1)

    @property
    def conflicting(self) -> tuple[Repeated, ...]:
        """Repeated prompts with different truths: at most one of them is right."""
        return tuple(each for each in self.repeated if len(each.truths) > 1)


def read_labels(source: object, mapping: Mapping[str, str] | None = None) -> LabelledSet:
    """Read a prompt set with its contradictions; arguments as in `prompts.load_prompts`.

    Raises:
        PromptSetError: No rows, unknown columns, or a row that does not fit.
    """
    if isinstance(source, PromptSet):
        pairs = [(f"prompt {prompt.id}", prompt) for prompt in source]
        return _labelled(pairs, source.schema)
    table = read_table(source)
    if not table.rows:
        raise PromptSetError(f"the prompt set is empty ({table.kind} without rows)")
    schema = recognise(table, mapping)
    rows = [(row.place, _prompt(row, schema)) for row in table.rows]
    is_chat = not isinstance(rows[0][1].content, str)
    return _labelled(rows, schema.sentence(table, len(rows), is_chat=is_chat))


def _prompt(row: Any, schema: Schema) -> Prompt:
    content, truth = prompt_content(row, schema), truth_of(row, schema)
    digest = content_digest(content, truth, row.columns)
    return Prompt(id=digest[:ID_LENGTH], content=content, truth=truth, columns=row.columns)


def _labelled(rows: list[tuple[str, Prompt]], schema: str) -> LabelledSet:
    groups: dict[str, list[tuple[str, Prompt]]] = defaultdict(list)
    for place, prompt in rows:
        groups[normalised(prompt.content)].append((place, prompt))
    repeated = tuple(
        Repeated(
            prompt=group[0][1].text,
            places=tuple(place for place, _ in group),
            truths=_distinct([prompt.truth for _, prompt in group]),
        )
        for group in groups.values()
        if len(group) > 1
    )
    distinct = {prompt.id: prompt for _, prompt in rows}
    return LabelledSet(
        prompts=tuple(distinct.values()), schema=schema, num_rows=len(rows), repeated=repeated
    )


def normalised(content: str | tuple[Message, ...]) -> str:
    """The text without case and with single spaces; the roles of a chat count."""
    text = (
        content
        if isinstance(content, str)
        else "\n".join(f"{turn.role}: {turn.content}" for turn in content)
    )
    return " ".join(text.casefold().split())


def _distinct(truths: list[Any]) -> tuple[Any, ...]:
    found = {json.dumps(_comparable(truth), sort_keys=True, default=str): truth for truth in truths}
    return tuple(found.values())


def _comparable(truth: Any) -> Any:
    return truth.strip() if isinstance(truth, str) else truth
