import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlflow_rlrisk.cli import run
from mlflow_rlrisk.errors import PromptSetError
from mlflow_rlrisk.overlap import overlap_evidence, overlap_with, sft_prompts
from mlflow_rlrisk.prompts import load_prompts
from tests.prompt_statistics import prompts as counted
from tests.prompt_statistics import report_of

CHAT = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "9+8="},
    {"role": "assistant", "content": "17"},
]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": CHAT},
        {"messages": json.dumps(CHAT)},
        {"prompt": CHAT[:2], "completion": "17"},
        {"prompt": "9+8=", "completion": "17"},
        {"conversations": [{"from": "human", "value": "9+8="}, {"from": "gpt", "value": "17"}]},
        {"instruction": "9+8=", "input": "", "output": "17"},
        {"question": "9+8=", "answer": "17"},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "9+8="}]}]},
        {"messages": [{"role": "User", "content": "9+8="}, {"role": "Assistant", "content": "17"}]},
        {"conversations": [{"from": "Human", "value": "9+8="}, {"from": "GPT", "value": "17"}]},
        {"prompt": json.dumps(CHAT[:2]), "completion": "17"},
        {"question": json.dumps(CHAT, indent=1)},
    ],
)
def test_what_the_user_says_is_found_in_every_form(row: dict[str, Any]) -> None:
    assert list(sft_prompts([row])) == ["9+8="]


def test_every_turn_of_the_user_is_a_prompt_and_all_together() -> None:
    turns = [*CHAT, {"role": "user", "content": "and 1?"}]

    assert list(sft_prompts([{"messages": turns}])) == ["9+8=\nand 1?", "9+8=", "and 1?"]


def test_an_alpaca_input_belongs_to_its_instruction() -> None:
    assert list(sft_prompts([{"instruction": "add", "input": "9 8"}])) == ["add\n9 8"]


def test_a_chat_as_json_text_in_a_csv_overlaps_with_itself(tmp_path: Path) -> None:
    row = {"prompt": json.dumps(CHAT[:2]), "answer": "17"}
    pd.DataFrame([row]).to_csv(tmp_path / "a.csv", index=False)

    found = overlap_with(load_prompts(tmp_path / "a.csv"), tmp_path / "a.csv")

    assert found.num_exact == found.num_rl == 1


def test_an_rl_chat_whose_roles_are_in_capitals_is_compared_by_what_the_user_says() -> None:
    turns = [{"role": turn["role"].title(), "content": turn["content"]} for turn in CHAT[:2]]

    found = overlap_with(load_prompts([{"prompt": turns}]), [{"question": "9+8="}])

    assert found.num_exact == 1


@pytest.mark.parametrize("column", ["prompt", "messages"])
def test_a_chat_that_a_csv_holds_as_python_is_refused(column: str) -> None:
    with pytest.raises(PromptSetError, match=rf"row 1, column '{column}': .*Python.*json\.dumps"):
        list(sft_prompts([{column: str(CHAT)}]))


@pytest.mark.parametrize("column", [None, "instruction"])
@pytest.mark.parametrize("suffix", ["jsonl", "parquet", "csv"])
def test_an_alpaca_input_is_read_from_every_format(
    tmp_path: Path, suffix: str, column: str | None
) -> None:
    path, row = tmp_path / f"a.{suffix}", {"instruction": "add", "input": "9 8", "output": "17"}
    if suffix == "jsonl":
        path.write_text(json.dumps(row))
    elif suffix == "parquet":
        pq.write_table(pa.Table.from_pylist([row]), path)
    else:
        pd.DataFrame([row]).to_csv(path, index=False)

    assert list(sft_prompts(path, column)) == ["add\n9 8"]


def test_a_column_that_a_parquet_file_lacks_is_named_beside_all_it_has(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist([{"input": "a", "output": "b"}]), tmp_path / "a.parquet")

    with pytest.raises(PromptSetError, match="needed is column 'q'; seen: input, output"):
        list(sft_prompts(tmp_path / "a.parquet", "q"))


def test_files_are_streamed_and_give_the_same_prompts(tmp_path: Path) -> None:
    rows = [{"prompt": f"q{i}", "completion": "x"} for i in range(5000)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "a.json").write_text(json.dumps(rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    pd.DataFrame(rows).to_csv(tmp_path / "a.csv", index=False)
    (tmp_path / "repo").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "repo" / "train-00000-of-00001.parquet")

    for name in ("a.jsonl", "a.json", "a.parquet", "a.csv", "repo"):
        assert list(sft_prompts(tmp_path / name)) == [row["prompt"] for row in rows], name


def test_data_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt": "a"}\n{oops\n')

    with pytest.raises(PromptSetError, match="line 2 is not JSON"):
        list(sft_prompts(path))
    with pytest.raises(PromptSetError, match="row 1: no prompt; needed is one of messages"):
        list(sft_prompts([{"text": "a"}]))
    with pytest.raises(PromptSetError, match="needed is column 'q'"):
        list(sft_prompts([{"prompt": "a"}], "q"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"prompt": "caf\xe9"}', "line 2 is not UTF-8"),
        (b'{"prompt": "a", "prompt": "b"}', "line 2 has the key 'prompt' twice"),
        (b"[" * 100_000, "line 2 is nested too deeply"),
        (
            b'{"prompt": [{"role": "user", "content": 5}]}',
            "row 2, column 'prompt': a message of int",
        ),
    ],
)
def test_a_line_that_says_nothing_certain_is_named(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"prompt": "a"}\n' + content)

    with pytest.raises(PromptSetError, match=message):
        list(sft_prompts(path))


def test_sft_data_of_empty_prompts_are_no_data_without_overlap() -> None:
    prompts = load_prompts([{"prompt": "9+8=", "answer": "17"}])

    with pytest.raises(PromptSetError, match="the SFT data have no prompts"):
        overlap_with(prompts, [{"prompt": ""}, {"prompt": " "}])
    with pytest.raises(PromptSetError, match="the path of the SFT data is empty"):
        overlap_with(prompts, "")


def test_a_system_prompt_does_not_hide_the_overlap() -> None:
    prompts = load_prompts(
        [{"prompt": CHAT[:2], "answer": "17"}, {"prompt": CHAT[1:2], "answer": "1"}]
    )

    found = overlap_with(prompts, [{"question": "9+8=", "answer": "17"}])

    assert found.num_exact == 2


def test_the_overlap_is_a_metric_and_a_component_of_the_report() -> None:
    from mlflow_rlrisk.evidence import AssessmentContext

    prompts = load_prompts([{"prompt": f"question number {i}", "answer": "1"} for i in range(60)])
    found = overlap_with(prompts, [{"prompt": f"question number {i}"} for i in range(15)])
    context = AssessmentContext(sft_rl_overlap=overlap_evidence(found, "sft.jsonl"))

    reports = [report_of(counted([4] * 60, 16), context=given) for given in (context, None)]

    metric = reports[0].metrics["rlrisk/sft_rl_overlap"]
    assert (metric.value, metric.ci_low, metric.ci_high) == (0.25, 0.25, 0.25)
    (component,) = [each for each in reports[0].components if each.name == "overlap"]
    assert (component.x, component.q) == (0.25, 0.25)
    assert reports[1].undefined["rlrisk/sft_rl_overlap"] == "no SFT data were given"
    assert "overlap" in reports[1].not_assessed


def test_the_command_counts_and_shows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts, sft = tmp_path / "p.jsonl", tmp_path / "s.jsonl"
    prompts.write_text('{"prompt": "9+8=", "answer": "17"}\n{"prompt": "1+1=", "answer": "2"}\n')
    sft.write_text(json.dumps({"messages": CHAT}) + "\n")

    with pytest.raises(SystemExit) as stopped:
        run(["overlap", "--prompts", str(prompts), "--sft-data", str(sft), "--json"])

    found = json.loads(capsys.readouterr().out)
    assert stopped.value.code == 0
    assert (found["rlrisk/sft_rl_overlap"], found["num_exact"], found["num_near"]) == (0.5, 1, 0)


def test_text_that_no_terminal_can_show_is_shown_without_what_it_cannot(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    question = "what is the sum of nine and eight in the usual way"
    prompts, sft = tmp_path / "p.jsonl", tmp_path / "s.jsonl"
    prompts.write_text(json.dumps({"prompt": question, "answer": "17"}))
    sft.write_text(json.dumps({"prompt": f"{question} \ud800"}))

    with pytest.raises(SystemExit) as stopped:
        run(["overlap", "--prompts", str(prompts), "--sft-data", str(sft), "--json"])

    found = json.loads(capsys.readouterr().out.encode())
    assert (stopped.value.code, found["num_near"]) == (0, 1)
    assert found["examples"][0]["sft_prompt"] == f"{question} ?"
