"""Every family of RL datasets, in every format that users keep it in."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlflow_rlrisk.errors import PromptSetError
from mlflow_rlrisk.overlap import sft_prompts
from mlflow_rlrisk.prompts import PromptSet, load_prompts
from mlflow_rlrisk.records import Message

CHAT = [{"role": "user", "content": "9+8="}]
TESTS = {"inputs": ["1\n"], "outputs": ["2\n"]}
CASES = {"language": "python", "test_cases": [{"input": "1", "output": "2", "type": "stdin"}]}

FAMILIES: dict[str, tuple[dict[str, Any], Any, str]] = {
    "trl": ({"prompt": CHAT, "solution": "17"}, "17", "TRL or verifiers"),
    "trl text": ({"prompt": "9+8=", "ground_truth": "17"}, "17", "TRL or verifiers"),
    "verl": (
        {
            "data_source": "own",
            "prompt": CHAT,
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": "17"},
            "extra_info": {"split": "train", "index": 3},
        },
        "17",
        "verl",
    ),
    "verifiers": (
        {"question": "9+8=", "answer": "17", "info": {"level": 1}},
        "17",
        "verifiers",
    ),
    "verifiers by info": ({"prompt": CHAT, "info": {"answer": "17"}}, "17", "verifiers"),
    "openrlhf": ({"input": "9+8=", "label": "17"}, "17", "OpenRLHF"),
    "openrlhf chat": ({"context_messages": CHAT, "label": "17"}, "17", "OpenRLHF"),
    "open-instruct": (
        {"messages": CHAT, "ground_truth": ["17"], "dataset": ["gsm8k"]},
        ["17"],
        "open-instruct",
    ),
    "open-r1 code": ({"prompt": "double it", "verification_info": CASES}, CASES, "prime, open-r1"),
    "open-r1 code with problem": (
        {"problem": "double it", "verification_info": CASES, "gold_standard_solution": "x"},
        CASES,
        "prime, open-r1",
    ),
    "humaneval": (
        {
            "task_id": "own/0",
            "prompt": "def f(x):\n",
            "canonical_solution": "    return x\n",
            "test": "def check(candidate):\n    assert candidate(1) == 1\n",
            "entry_point": "f",
        },
        "def check(candidate):\n    assert candidate(1) == 1\n",
        "HumanEval",
    ),
    "mbpp": (
        {"task_id": 3, "text": "double it", "code": "def f(x): ...", "test_list": ["assert f(1)"]},
        ["assert f(1)"],
        "MBPP",
    ),
    "mbpp plus": (
        {"prompt": "double it", "code": "x", "test_imports": [], "test_list": ["assert 1"]},
        ["assert 1"],
        "MBPP",
    ),
    "gsm8k": ({"question": "9+8=", "answer": "so\n#### 17"}, "17", "GSM8K"),
    "math": (
        {"problem": "9+8=", "solution": r"thus $\boxed{\frac{1}{2}}$."},
        r"\frac{1}{2}",
        "MATH",
    ),
    "math-500": (
        {"problem": "9+8=", "solution": r"thus $\boxed{17}$.", "answer": "17"},
        "17",
        "MATH",
    ),
    "aime": ({"problem": "9+8=", "answer": "17"}, "17", "MATH or AIME"),
    "dapo": ({"prompt": "9+8=", "solution": "17"}, "17", "TRL or verifiers"),
    "apps": ({"question": "double it", "input_output": TESTS, "solutions": "[]"}, TESTS, "APPS"),
    "livecodebench": (
        {"question_content": "double it", "public_test_cases": [{"input": "1", "output": "2"}]},
        [{"input": "1", "output": "2"}],
        "LiveCodeBench",
    ),
    "reasoning-gym": (
        {"question": "9+8=", "answer": "17", "metadata": {"source_dataset": "basic"}},
        "17",
        "reasoning-gym",
    ),
}


def as_jsonl(rows: list[dict[str, Any]], folder: Path) -> object:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def as_parquet(rows: list[dict[str, Any]], folder: Path) -> object:
    path = folder / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def as_csv(rows: list[dict[str, Any]], folder: Path) -> object:
    """Nested values are JSON text there."""
    path = folder / "rows.csv"
    flat = [
        {n: v if isinstance(v, str | int) else json.dumps(v) for n, v in row.items()}
        for row in rows
    ]
    pd.DataFrame(flat).to_csv(path, index=False)
    return path


def as_saved_dataset(rows: list[dict[str, Any]], folder: Path) -> object:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list(rows).save_to_disk(folder / "saved")
    return folder / "saved"


def as_frame(rows: list[dict[str, Any]], folder: Path) -> object:
    return pd.DataFrame(rows)


def as_mlflow_dataset(rows: list[dict[str, Any]], folder: Path) -> object:
    from mlflow.data.evaluation_dataset import EvaluationDataset

    return EvaluationDataset(pd.DataFrame(rows))


FORMATS: list[Callable[[list[dict[str, Any]], Path], object]] = [
    as_jsonl,
    as_parquet,
    as_saved_dataset,
    as_frame,
    as_mlflow_dataset,
]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("write", [*FORMATS, as_csv])
def test_every_family_is_recognised_in_every_format(
    family: str, write: Callable[[list[dict[str, Any]], Path], object], tmp_path: Path
) -> None:
    row, truth, name = FAMILIES[family]

    loaded = load_prompts(write([row], tmp_path))

    prompt = loaded.prompts[0]
    is_chat = any(row.get(column) == CHAT for column in row)
    assert prompt.content == (
        (Message(role="user", content="9+8="),) if is_chat else prompt_text(row)
    )
    if write is as_csv and family == "open-instruct":
        truth = '["17"]'  # a cell that may be a label in brackets as well
    assert prompt.truth == truth
    assert name in loaded.schema.partition("recognised as ")[2]


def prompt_text(row: dict[str, Any]) -> str:
    names = ("prompt", "question", "problem", "text", "question_content", "input")
    return next(row[name] for name in names if name in row)


def test_a_mapping_wins_over_the_family() -> None:
    row, _, _ = FAMILIES["verl"]
    loaded = load_prompts(
        [{**row, "gold": "x", "ask": "why?"}], {"prompt": "ask", "truth": "extra_info.index"}
    )

    assert (loaded.prompts[0].content, loaded.prompts[0].truth) == ("why?", 3)
    assert "recognised as" not in loaded.schema


def test_the_reply_of_an_open_instruct_chat_is_no_part_of_its_prompt() -> None:
    turns = [*CHAT, {"role": "assistant", "content": "17"}]

    loaded = load_prompts([{"messages": turns, "ground_truth": "17", "dataset": "gsm8k"}])

    assert loaded.prompts[0].content == (Message(role="user", content="9+8="),)


def test_a_solution_without_a_box_among_others_is_named() -> None:
    rows = [{"problem": "a", "solution": r"\boxed{1}"}, {"problem": "b", "solution": "2"}]

    with pytest.raises(PromptSetError, match="row 2, column 'solution' states no box"):
        load_prompts(rows)


def test_test_cases_that_are_no_json_are_named() -> None:
    with pytest.raises(PromptSetError, match="row 1, column 'input_output' is not JSON"):
        load_prompts([{"question": "a", "input_output": "{oops"}])


def test_a_folder_with_several_splits_asks_for_one(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    part = datasets.Dataset.from_list([{"prompt": "a", "answer": "1"}])
    datasets.DatasetDict({"train": part, "test": part}).save_to_disk(tmp_path / "both")
    datasets.DatasetDict({"train": part}).save_to_disk(tmp_path / "one")

    with pytest.raises(PromptSetError, match=r"several splits; name one: .*/both/train"):
        load_prompts(tmp_path / "both")
    with pytest.raises(PromptSetError, match=r"both/tst: no such split; there are train, test"):
        load_prompts(tmp_path / "both" / "tst")

    for folder in ("both/test", "one"):
        loaded = load_prompts(tmp_path / folder)
        assert loaded.schema.startswith("Hugging Face dataset folder, 1 prompt")


def test_the_shards_of_one_split_of_a_repository_are_read_together(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for split, index, total in (("train", 0, 2), ("train", 1, 2), ("test", 0, 1)):
        write_shard(tmp_path / "data" / f"{split}-{index:05}-of-{total:05}.parquet")

    with pytest.raises(PromptSetError, match="several splits"):
        load_prompts(tmp_path)
    assert texts(load_prompts(tmp_path / "train")) == [
        "train-00000-of-00002",
        "train-00001-of-00002",
    ]
    assert texts(load_prompts(str(tmp_path / "test"))) == ["test-00000-of-00001"]
    with pytest.raises(PromptSetError, match="no such file"):
        load_prompts(tmp_path / "dev")


@pytest.mark.parametrize("folder", ["", "data"])
@pytest.mark.parametrize("ending", [".parquet", "-0123456789abcdef.parquet", ".jsonl"])
def test_a_split_of_which_shards_are_missing_is_refused_naming_them(
    tmp_path: Path, folder: str, ending: str
) -> None:
    (tmp_path / folder).mkdir(exist_ok=True)
    for index in (0, 2):
        write_shard(tmp_path / folder / f"train-{index:05}-of-00004{ending}")
    missing = r"2 of 4 shards are missing: train-00001-of-00004, train-00003-of-00004"

    for source in (tmp_path, tmp_path / "train"):
        with pytest.raises(PromptSetError, match=missing):
            load_prompts(source)
        with pytest.raises(PromptSetError, match=missing):
            list(sft_prompts(source))


def test_a_shard_that_is_named_itself_is_read_alone(tmp_path: Path) -> None:
    write_shard(tmp_path / "train-00000-of-00002.parquet")

    loaded = load_prompts(tmp_path / "train-00000-of-00002.parquet")

    assert texts(loaded) == ["train-00000-of-00002"]


def test_missing_shards_of_another_split_do_not_matter(tmp_path: Path) -> None:
    write_shard(tmp_path / "train-00000-of-00002.parquet")
    write_shard(tmp_path / "test-00000-of-00001.parquet")

    assert texts(load_prompts(tmp_path / "test")) == ["test-00000-of-00001"]


def test_of_many_missing_shards_the_first_are_named(tmp_path: Path) -> None:
    write_shard(tmp_path / "train-00000-of-01000.parquet")

    with pytest.raises(PromptSetError, match="999 of 1000 shards") as refused:
        load_prompts(tmp_path)

    assert "train-00001-of-01000" in str(refused.value)
    assert len(str(refused.value)) < len(str(tmp_path)) + 250


def write_shard(path: Path) -> None:
    """One row, whose prompt is the name of the file up to its suffix."""
    row = {"prompt": path.stem, "answer": "1"}
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist([row]), path)
    else:
        path.write_text(json.dumps(row))


def texts(prompts: PromptSet) -> list[str]:
    return [prompt.text for prompt in prompts]
