import json
import math
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_rlrisk.errors import PromptSetError
from mlflow_rlrisk.prompts import load_prompts
from mlflow_rlrisk.records import Message

ROWS: list[dict[str, Any]] = [
    {"prompt": "1+1=", "answer": "2", "level": 1, "tags": ["easy", "sum"]},
    {"prompt": "2+3=", "answer": "5", "level": None, "tags": []},
    {"prompt": "ünï\u2028code", "answer": "x", "level": 3, "tags": ["odd"]},
]


def write_jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def test_the_same_rows_have_the_same_ids_and_digest_from_every_source(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "rows.parquet")
    (tmp_path / "rows.json").write_text(json.dumps(ROWS))
    frame = pd.DataFrame(ROWS)  # "level" becomes float with NaN here
    frame["tags"] = [np.array(tags, dtype=object) for tags in frame["tags"]]
    expected = load_prompts(ROWS)

    for source in (
        write_jsonl(tmp_path / "rows.jsonl", ROWS),
        tmp_path / "rows.parquet",
        str(tmp_path / "rows.json"),
        frame,
        frame.convert_dtypes(),
    ):
        loaded = load_prompts(source)

        assert loaded.digest == expected.digest
        assert [p.id for p in loaded] == [p.id for p in expected]
        assert [p.content for p in loaded] == [row["prompt"] for row in ROWS]


def test_csv_of_text_columns_has_the_digest_of_the_same_jsonl(tmp_path: Path) -> None:
    rows = [
        {"prompt": 'say "hi",\nthen stop', "answer": "007", "note": None},
        {"prompt": "b", "answer": "x", "note": "kept"},
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "rows.csv", index=False)

    loaded = load_prompts(tmp_path / "rows.csv")

    assert loaded.digest == load_prompts(rows).digest
    assert loaded.prompts[0].truth == "007"
    assert loaded.prompts[0].columns["note"] is None


def test_a_csv_cell_longer_than_the_default_limit_of_python_is_read(tmp_path: Path) -> None:
    pd.DataFrame([{"prompt": "x" * 200_000, "answer": "1"}]).to_csv(tmp_path / "a.csv", index=False)

    (prompt,) = load_prompts(tmp_path / "a.csv")

    assert len(prompt.text) == 200_000


@given(st.permutations(range(3)))
def test_digest_and_ids_do_not_depend_on_the_order_of_rows(order: list[int]) -> None:
    expected = load_prompts(ROWS)

    shuffled = load_prompts([ROWS[index] for index in order])

    assert shuffled.digest == expected.digest
    assert [p.id for p in shuffled] == [expected.prompts[index].id for index in order]


@given(st.sampled_from(["prompt", "answer", "level"]), st.integers(0, 2), st.integers(10, 1000))
def test_any_change_of_content_changes_the_digest(column: str, index: int, value: int) -> None:
    changed = [dict(row) for row in ROWS]
    changed[index][column] = str(value) if column != "level" else value

    assert load_prompts(changed).digest != load_prompts(ROWS).digest


@pytest.mark.parametrize(
    ("row", "truth", "sentence"),
    [
        ({"prompt": "q", "solution": "4"}, "4", "'prompt' (text), truth from 'solution'"),
        ({"question": "q", "answer": "so\n#### 1,234"}, "1,234", "truth after '####' in 'answer'"),
        ({"problem": "q", "solution": "long", "answer": "4"}, "4", "(not used: 'solution')"),
        (
            {
                "prompt": [{"role": "user", "content": "q"}],
                "reward_model": {"style": "rule", "ground_truth": "4"},
                "answer": "other",
            },
            "4",
            "'prompt' (messages), truth from 'reward_model.ground_truth'",
        ),
        (
            {"messages": [{"role": "user", "content": "q"}], "ground_truth": ["4"]},
            ["4"],
            "messages",
        ),
        ({"prompt": "q", "tests": "assert f()"}, None, "no truth column"),
    ],
)
def test_known_schemas_are_recognised_and_said(
    row: dict[str, Any], truth: object, sentence: str
) -> None:
    loaded = load_prompts([row])

    assert loaded.prompts[0].truth == truth
    assert loaded.prompts[0].columns == row
    assert sentence in loaded.schema
    assert loaded.schema.startswith("list of rows, 1 prompt from column")


def test_chat_prompts_keep_their_turns() -> None:
    turns = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "q"}]

    (prompt,) = load_prompts([{"prompt": turns, "answer": "a"}])

    assert prompt.content == (
        Message(role="system", content="be brief"),
        Message(role="user", content="q"),
    )


def test_messages_in_a_csv_are_read_as_json(tmp_path: Path) -> None:
    turns = json.dumps([{"role": "user", "content": "q"}])
    pd.DataFrame([{"messages": turns, "answer": "a"}]).to_csv(tmp_path / "m.csv", index=False)

    (prompt,) = load_prompts(tmp_path / "m.csv")

    assert prompt.content == (Message(role="user", content="q"),)


def test_a_mapping_overrides_what_would_be_recognised() -> None:
    row = {"prompt": "no", "answer": "no", "task": "yes", "meta": {"gold": 7}}

    loaded = load_prompts([row], {"prompt": "task", "truth": "meta.gold"})

    assert (loaded.prompts[0].content, loaded.prompts[0].truth) == ("yes", 7)
    assert "'task'" in loaded.schema
    assert "'meta.gold'" in loaded.schema


def test_an_empty_mapping_of_the_truth_reads_a_set_without_truths() -> None:
    rows = [{"prompt": "a", "answer": "1"}, {"prompt": "b", "answer": None}]

    assert [p.truth for p in load_prompts(rows, {"truth": ""})] == [None, None]


def test_a_column_whose_name_has_a_dot_wins_over_a_nested_one() -> None:
    row = {"prompt": "q", "a.b": "flat", "a": {"b": "nested"}}

    assert load_prompts([row], {"truth": "a.b"}).prompts[0].truth == "flat"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "is empty"),
        ([{"text": "q", "gold": "a"}], r"'text', 'gold'.*--map prompt=COLUMN,truth=COLUMN"),
        ([{"prompt": "a"}, {"prompt": " \n"}], "row 2, column 'prompt': the prompt is empty"),
        ([{"prompt": "a"}, {"other": 1}], "row 2, column 'prompt': there is no prompt"),
        ([{"prompt": "a"}, {"prompt": 3}], "row 2, column 'prompt': the prompt is int"),
        ([{"prompt": "a"}, {"prompt": float("nan")}], "row 2.*there is no prompt"),
        ([{"prompt": "a"}, "b"], "row 2 is str"),
        ([{"prompt": "a", "answer": "1"}, {"prompt": "b"}], "row 2 has no truth in 'answer'"),
        (
            [{"prompt": "a", "answer": "1"}, {"prompt": "b"}, {"prompt": "a", "answer": "2"}],
            "row 2 has no truth",
        ),
        (
            [{"prompt": text, "answer": truth} for text, truth in ("a1", "b1", "a2")],
            "row 1 and row 3: one prompt, two different truths",
        ),
        (
            [{"prompt": "a"}, {"prompt": [{"role": "user", "content": "b"}]}],
            "row 2: the prompt is messages, before it text",
        ),
        ([{"prompt": []}], "the chat has no turn"),
        ([{"prompt": [{"role": "user"}]}], "turn 1 needs a role and a content"),
        ([{"prompt": ["user"]}], "turn 1 is str"),
        (
            [
                {
                    "messages": [
                        {"role": "user", "content": "q"},
                        {"role": "assistant", "content": "a"},
                    ]
                }
            ],
            "ends with the assistant's turn",
        ),
        ([{"prompt": "a\ud800"}], "row 1, column 'prompt': lone surrogate at character 1"),
        ([{"prompt": "a", "x": math.inf}], "row 1, column 'x': infinity"),
        ([{"prompt": "a", "x": Decimal("Infinity")}], "row 1, column 'x': infinity"),
        ([{"prompt": None, "answer": 1}], "no prompt column has a value: 'prompt' is empty"),
        (
            [{"question": "a", "answer": "#### 1"}, {"question": "b", "answer": "2"}],
            "row 2, column 'answer' does not end in '#### number'",
        ),
    ],
)
def test_a_row_that_does_not_fit_is_an_error_naming_it(rows: list[Any], message: str) -> None:
    with pytest.raises(PromptSetError, match=message):
        load_prompts(rows)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"prompt": "a"}\n{"prompt": \n', "line 2 is not JSON: Expecting value at character 12"),
        ('{"prompt": "a', "line 1 is not JSON: Unterminated string starting at character 12"),
        (
            '{"prompt": "a"}\n\n{"prompt": "b", "prompt": "c"}\n',
            "line 3 has the key 'prompt' twice",
        ),
        ('{"prompt": "a"}\n[1]\n', "line 2 is list"),
        ("", "is empty"),
        ('{"prompt": "a", "x": 1e999}', "line 1, column 'x': infinity"),
        ('{"prompt": "a", "x": ' + "[" * 100_000 + "}", "line 1 is"),
        ('{"prompt": "a", "x": ' + "9" * 5000 + "}", "line 1 is not JSON"),
        ('{"prompt": "\\ud800"}', "line 1, column 'prompt': lone surrogate"),
    ],
)
def test_a_damaged_jsonl_line_is_an_error_naming_it(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(text)

    with pytest.raises(PromptSetError, match=rf"^p\.jsonl: .*{message}"):
        load_prompts(path)


def test_an_empty_path_is_not_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "p.jsonl").write_text('{"prompt": "a"}\n')
    monkeypatch.chdir(tmp_path)

    with pytest.raises(PromptSetError, match="path of the prompt set is empty"):
        load_prompts("")


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "latin.jsonl").write_bytes(b'{"prompt": "a"}\n{"prompt": "\xe9"}\n')
    (tmp_path / "no.parquet").write_bytes(b"PAR0")
    (tmp_path / "p.txt").write_text("a")
    (tmp_path / "short.csv").write_text("prompt,answer\na,1\nb\n")
    (tmp_path / "twice.csv").write_text("prompt,prompt\na,1\n")

    for name, message in {
        "missing.jsonl": "no such file",
        "latin.jsonl": "line 2 is not UTF-8",
        "no.parquet": "not a readable Parquet file",
        "p.txt": "unknown suffix '.txt'",
        "short.csv": "line 3 has 1 cell, the header 2",
        "twice.csv": "the column 'prompt' stands there twice",
    }.items():
        with pytest.raises(PromptSetError, match=message):
            load_prompts(tmp_path / name)


def test_a_byte_order_mark_and_windows_line_ends_are_no_part_of_the_data(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"prompt": "a"}\r\n{"prompt": "b"}\r\n')

    assert [p.content for p in load_prompts(path)] == ["a", "b"]


def test_identical_rows_count_once_and_the_schema_says_so() -> None:
    loaded = load_prompts([*ROWS, ROWS[0], dict(ROWS[1])])

    assert (len(loaded), loaded.num_duplicates) == (3, 2)
    assert loaded.digest == load_prompts(ROWS).digest
    assert "2 repeated rows left out" in loaded.schema


def test_one_text_with_other_columns_is_kept_and_the_schema_says_so() -> None:
    loaded = load_prompts([{"prompt": "a", "answer": "1", "i": i} for i in range(3)])

    assert len(loaded) == 3
    assert "2 prompts repeat the text of another one" in loaded.schema


def test_columns_that_are_no_plain_data_are_left_out_and_named() -> None:
    rows = [{"prompt": "a", "image": b"\x00", "day": pd.Timestamp("2026-01-02")}]

    loaded = load_prompts(rows)

    assert loaded.prompts[0].columns == {"prompt": "a", "day": "2026-01-02T00:00:00"}
    assert "'image' (bytes)" in loaded.schema
    with pytest.raises(PromptSetError, match="column 'image' holds bytes"):
        load_prompts(rows, {"prompt": "image"})


def test_mapping_errors_name_what_is_known() -> None:
    with pytest.raises(PromptSetError, match="no column 'gold'; columns seen: 'prompt'"):
        load_prompts([{"prompt": "a"}], {"truth": "gold"})
    with pytest.raises(PromptSetError, match="map 'prompt=q': a mapping of prompt and truth"):
        load_prompts([{"prompt": "a"}], "prompt=q")  # type: ignore[arg-type]
    with pytest.raises(PromptSetError, match="known: prompt, truth"):
        load_prompts([{"prompt": "a"}], {"question": "prompt"})
    with pytest.raises(PromptSetError, match="cannot read prompts from int"):
        load_prompts(7)


@pytest.mark.mlflow
def test_mlflow_datasets_give_the_same_prompts_as_their_frame() -> None:
    import mlflow.data
    from mlflow.data.evaluation_dataset import EvaluationDataset

    rows = [{k: row[k] for k in ("prompt", "answer")} for row in ROWS]
    frame = pd.DataFrame(rows)
    expected = load_prompts(frame)

    for dataset in (
        mlflow.data.from_pandas(frame),
        EvaluationDataset(frame),
        EvaluationDataset(frame, targets="answer"),
    ):
        loaded = load_prompts(dataset)

        assert loaded.digest == expected.digest
        assert loaded.schema.startswith("MLflow dataset, 3 prompts")


def test_a_hugging_face_dataset_gives_the_same_prompts_as_its_rows() -> None:
    datasets = pytest.importorskip("datasets")

    assert load_prompts(datasets.Dataset.from_list(ROWS)).digest == load_prompts(ROWS).digest


def test_a_member_that_only_other_rows_have_does_not_change_the_digest(tmp_path: Path) -> None:
    # Parquet fills absent members of nested columns with null.
    rows = [{"prompt": "a", "meta": {"x": 1}}, {"prompt": "b", "meta": {"y": [{"z": 2}, {}]}}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")

    assert load_prompts(tmp_path / "rows.parquet").digest == load_prompts(rows).digest
