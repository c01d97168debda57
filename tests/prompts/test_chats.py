"""A chat that a cell of a flat file holds as text is read as a chat, or refused."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mlflow_rlrisk.errors import PromptSetError
from mlflow_rlrisk.prompts import load_prompts
from mlflow_rlrisk.records import Message

CHAT = [{"role": "system", "content": "it's brief"}, {"role": "user", "content": "9+8="}]
TURNS = (Message(role="system", content="it's brief"), Message(role="user", content="9+8="))


@pytest.mark.parametrize("column", ["prompt", "question", "messages"])
@pytest.mark.parametrize("indent", [None, 0, 1, 4])
def test_a_chat_in_a_csv_is_read_however_its_json_is_indented(
    tmp_path: Path, column: str, indent: int | None
) -> None:
    row = {column: " " + json.dumps(CHAT, indent=indent) + "\n", "answer": "17"}
    pd.DataFrame([row]).to_csv(tmp_path / "p.csv", index=False)

    (prompt,) = load_prompts(tmp_path / "p.csv")

    assert prompt.content == TURNS


@pytest.mark.parametrize("column", ["prompt", "messages"])
@pytest.mark.parametrize(
    "chat",
    [CHAT, [{"content": "q", "role": "user"}], [{"name": None, "role": "user", "content": "q"}]],
)
@pytest.mark.parametrize("as_array", [False, True])  # pandas reads lists of Parquet as arrays
def test_a_chat_that_a_frame_wrote_to_csv_as_python_is_refused(
    tmp_path: Path, column: str, chat: list[dict[str, str]], as_array: bool
) -> None:
    cell = np.array(chat, dtype=object) if as_array else chat
    pd.DataFrame({column: [cell], "answer": ["17"]}).to_csv(tmp_path / "p.csv", index=False)

    with pytest.raises(
        PromptSetError, match=rf"p\.csv: line \d+, column '{column}': .*Python.*json\.dumps"
    ):
        load_prompts(tmp_path / "p.csv")


@pytest.mark.parametrize(
    "text",
    [
        "[{'role': 'user', 'content': 'q'}] What does this print?",
        "[{'id': 1}, {'id': 2}]",
        "[{'role': 'admin'}]",
        '[{"id": 1, "content": "x"}]',
        "[ {broken",
        "['role', 'content']",
    ],
)
def test_text_that_only_looks_like_a_chat_stays_text(text: str) -> None:
    (prompt,) = load_prompts([{"prompt": text, "answer": "1"}])

    assert prompt.content == text


@pytest.mark.parametrize(
    "called",
    [
        {"content": "", "tool_calls": [{"function": {"name": "add", "arguments": "{}"}}]},
        {"content": None, "tool_calls": [{"function": {"name": "add", "arguments": "{}"}}]},
        {"content": "", "function_call": {"name": "add", "arguments": "{}"}},
    ],
)
def test_a_chat_whose_tool_calls_would_be_lost_is_refused(called: dict[str, object]) -> None:
    result = {"role": "tool", "content": "17"}
    chat = [*CHAT, {"role": "assistant", **called}, result]

    with pytest.raises(PromptSetError, match=r"row 1, column 'prompt', turn 3 has '\w+_call"):
        load_prompts([{"prompt": chat}])

    kept = load_prompts([{"prompt": [*CHAT, {**result, "tool_calls": None}]}])
    assert kept.prompts[0].content == (*TURNS, Message(role="tool", content="17"))


def test_columns_for_the_chat_template_are_said_not_to_reach_it() -> None:
    given = {"tools": [{"type": "function"}], "chat_template_kwargs": {"enable_thinking": False}}
    empty = {"tools": [], "chat_template_kwargs": None}

    told = load_prompts([{"prompt": CHAT, **given}]).schema
    silent = [
        load_prompts([{"prompt": prompt, **columns}]).schema
        for prompt, columns in ((CHAT, empty), ("9+8=", given))
    ]

    said = "; not handed to the chat template: 'tools', 'chat_template_kwargs'"
    assert told.endswith(said)
    assert not any("not handed" in schema for schema in silent)
