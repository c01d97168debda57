"""Expert examples in the shapes that SFT data come in."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mlflow_rlrisk.errors import ConfigError, PromptSetError
from mlflow_rlrisk.experts.examples import load_expert, load_experts
from mlflow_rlrisk.records import Message

Q = ("what is 1+1?", "and 2+2?")
PAIRS = ((Q[0], "2"), (Q[1], "it is 4"))
CHAT = [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in PAIRS]
SHARED = [[{"from": "human", "value": q}, {"from": "gpt", "value": a}] for q, a in PAIRS]


@pytest.mark.parametrize(
    "rows",
    [
        [{"prompt": q, "completion": a} for q, a in PAIRS],
        [{"question": q, "solution": a, "answer": "short"} for q, a in PAIRS],
        [{"question": q, "answer": a} for q, a in PAIRS],
        [{"problem": q, "response": a} for q, a in PAIRS],
        [{"instruction": q, "input": "", "output": a} for q, a in PAIRS],
    ],
)
def test_columns_of_texts_are_recognised(rows: list[dict[str, Any]]) -> None:
    found = load_expert(rows)

    assert {(each.prompt.content, each.response) for each in found.examples} == set(PAIRS)


@pytest.mark.parametrize(
    "rows",
    [
        [{"messages": chat} for chat in CHAT],
        [{"messages": json.dumps(chat)} for chat in CHAT],
        [{"conversations": chat} for chat in SHARED],
        [{"prompt": chat[:1], "completion": chat[1:]} for chat in CHAT],
        [{"prompt": q, "messages": chat} for q, chat in zip(Q, CHAT, strict=True)],
    ],
)
def test_chats_are_split_before_the_last_reply(rows: list[dict[str, Any]]) -> None:
    found = load_expert(rows)

    assert {(each.prompt.content, each.response) for each in found.examples} == {
        ((Message(role="user", content=q),), a) for q, a in PAIRS
    }


@pytest.mark.parametrize("name", ["system", "system_prompt", "tools"])
def test_a_column_that_sft_may_have_shown_and_nothing_here_does_is_told(name: str) -> None:
    rows: list[dict[str, Any]] = [{"question": q, "response": a} for q, a in PAIRS]

    told = load_expert([{**rows[0], name: "Be brief."}, rows[1]]).sentence
    silent = load_expert([{**row, name: ""} for row in rows]).sentence

    assert told == f"{silent}; not handed to the chat template: {name!r}"


def test_the_digest_is_that_of_the_content_in_any_order_and_format(tmp_path: Path) -> None:
    rows = [{"prompt": q, "completion": a} for q, a in PAIRS]
    (tmp_path / "e.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pd.DataFrame(rows[::-1] + rows[:1]).to_parquet(tmp_path / "e.parquet")

    first, second = load_expert(tmp_path / "e.jsonl"), load_expert(tmp_path / "e.parquet")

    assert first.digest == second.digest
    assert [e.prompt for e in first.examples] == [e.prompt for e in second.examples]
    assert first.digest != load_expert([*rows, {"prompt": "x", "completion": "y"}]).digest


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "empty"),
        ([{"prompt": "a", "reward": 1}], "no prompt beside a response"),
        ([{"prompt": "a", "completion": "b"}], "at least 2"),
        ([{"prompt": q, "completion": ""} for q in Q], "row 1: the response is empty"),
        ([{"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": None}], "row 2"),
        ([{"messages": chat[:1]} for chat in CHAT], "a prompt and a reply"),
        ([{"messages": chat[::-1]} for chat in CHAT], "turn"),
    ],
)
def test_what_is_no_example_is_refused_by_its_row(rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(PromptSetError, match=message):
        load_expert(rows)


def test_training_examples_need_held_out_ones_and_share_none_with_them() -> None:
    rows = [{"prompt": f"q{i}", "completion": f"a{i}"} for i in range(4)]

    heldout, train = load_experts(rows[:2], rows[2:])

    assert heldout is not None
    assert train is not None
    assert heldout.digest != train.digest
    with pytest.raises(ConfigError, match="needs expert_data"):
        load_experts(None, rows)
    with pytest.raises(PromptSetError, match="1 of 2 held-out examples are training examples"):
        load_experts(rows[:2], rows[1:])


@pytest.mark.parametrize(
    "roles", [("User", "ASSISTANT"), ("HUMAN", "Gpt"), (" user", "assistant ")]
)
def test_roles_are_understood_however_they_are_spelled(roles: tuple[str, str]) -> None:
    rows = [
        {"messages": [{"role": roles[0], "content": q}, {"role": roles[1], "content": a}]}
        for q, a in PAIRS
    ]

    assert load_expert(rows).digest == load_expert([{"messages": chat} for chat in CHAT]).digest


@pytest.mark.parametrize("role", [["user"], None, 5, " "])
def test_a_role_that_is_no_text_is_refused_with_its_row(role: Any) -> None:
    rows = [{"messages": [{"role": role, "content": "q"}, CHAT[0][1]]}]

    with pytest.raises(PromptSetError, match="row 1: a turn has the role"):
        load_expert(rows)


def test_a_response_by_somebody_else_is_refused_with_the_role_it_has() -> None:
    rows = [{"messages": [CHAT[0][0], {"role": "Model", "content": "2"}]}]

    with pytest.raises(PromptSetError, match="turn of the assistant; it is by 'model'"):
        load_expert(rows)


@pytest.mark.parametrize("place", [0, 1])
def test_a_tool_call_is_no_text_whose_loss_could_be_measured(place: int) -> None:
    call = {"tool_calls": [{"function": {"name": "add", "arguments": "{}"}}]}
    chat = [turn | (call if index == place else {}) for index, turn in enumerate(CHAT[0])]

    with pytest.raises(PromptSetError, match=r"row 1: a turn has 'tool_calls'"):
        load_expert([{"messages": chat}])
