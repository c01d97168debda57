"""Values that are too deep or too long to be carried on are named, whoever holds them."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from mlflow_rlrisk.errors import PromptSetError
from mlflow_rlrisk.prompts import load_prompts

DEEPEST = 200


def nested(levels: int) -> Any:
    """A value inside as many lists and objects in turn."""
    value: Any = 1
    for level in range(levels):
        value = [value] if level % 2 else {"x": value}
    return value


def cyclic() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    "value",
    [nested(600), nested(DEEPEST + 1), cyclic()],
    ids=["deep", "one level too deep", "cyclic"],
)
def test_a_value_that_is_nested_too_deeply_is_named(value: object) -> None:
    rows = [{"prompt": "a", "x": 1}, {"prompt": "b", "x": value}]

    with pytest.raises(PromptSetError, match=r"row 2, column 'x': nested too .* 200 levels"):
        load_prompts(rows)


def test_a_deep_value_is_read_up_to_the_level_that_the_message_names() -> None:
    (prompt,) = load_prompts([{"prompt": "a", "x": nested(DEEPEST)}])

    assert prompt.columns["x"] == nested(DEEPEST)


@pytest.mark.parametrize("levels", [600, 900, 3000])
def test_a_deep_column_of_a_file_is_named_at_every_depth(tmp_path: Path, levels: int) -> None:
    # Some depths the JSON parser refuses, less deep ones only what comes after it.
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "a", "x": ' + "[" * levels + "]" * levels + "}")

    with pytest.raises(PromptSetError, match=r"p\.jsonl: line 1.* nested too deeply"):
        load_prompts(path)


@pytest.mark.parametrize(
    "value",
    [10**5000, -(10**5000), [{"x": 10**5000}], Decimal("1e5000"), Decimal("-1e999999")],
    ids=["long", "negative", "nested", "decimal", "long decimal"],
)
def test_an_integer_that_is_too_long_to_write_is_named(value: object) -> None:
    with pytest.raises(PromptSetError, match=r"row 1, column 'answer': .*more than 4300 digits"):
        load_prompts([{"prompt": "a", "answer": value}])


def test_an_integer_of_as_many_digits_as_can_be_written_is_read() -> None:
    (prompt,) = load_prompts([{"prompt": "a", "answer": 10**4299}])

    assert prompt.truth == 10**4299


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 700 + "]" * 700, "nested too deeply"),
        ('[{"input": "1", "output": 1e999}]', "infinity"),
        ('[{"input": "1", "output": "\\ud800"}]', "lone surrogate"),
    ],
)
def test_a_truth_held_as_json_text_is_held_to_the_same_rules(text: str, message: str) -> None:
    with pytest.raises(PromptSetError, match=f"row 1, column 'input_output': .*{message}"):
        load_prompts([{"question": "double it", "input_output": text}])


def test_a_chat_held_as_json_text_is_held_to_the_same_rules() -> None:
    text = json.dumps([{"role": "user", "content": "\ud800"}])

    for column in ("prompt", "messages"):
        with pytest.raises(PromptSetError, match=f"row 1, column '{column}': lone surrogate"):
            load_prompts([{column: text}])


def test_a_mapping_to_something_that_is_no_name_says_so() -> None:
    for mapping, message in (
        ({"prompt": 5}, "map prompt=5: the name of a column is needed"),
        ({"truth": ["a"]}, r"map truth=\['a'\]: the name of a column is needed"),
        ({"truth": 0}, "map truth=0: the name of a column is needed"),
    ):
        with pytest.raises(PromptSetError, match=message):
            load_prompts([{"prompt": "a"}], mapping)  # type: ignore[arg-type]


def test_a_hugging_face_dataset_with_a_transform_is_read_as_a_trainer_reads_it() -> None:
    datasets = pytest.importorskip("datasets")
    plain = datasets.Dataset.from_list([{"prompt": "a", "answer": "1"}])

    asked = plain.with_transform(
        lambda rows: {**rows, "prompt": [f"{text}? Think." for text in rows["prompt"]]}
    )

    assert [prompt.content for prompt in load_prompts(asked)] == ["a? Think."]
