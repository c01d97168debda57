import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mlflow_rlrisk.assessment.rescored import open_rollouts
from mlflow_rlrisk.config import AssessmentConfig, SamplingConfig
from mlflow_rlrisk.errors import SamplerError
from mlflow_rlrisk.prompts import load_prompts
from mlflow_rlrisk.records import FinishReason, Prompt
from mlflow_rlrisk.rollouts.store import RolloutStore
from mlflow_rlrisk.samplers.replay import ReplaySampler
from mlflow_rlrisk.samplers.transformers import TransformersSampler
from tests.tiny_models import write_llama

CONFIG = AssessmentConfig(sampling=SamplingConfig(num_samples=3, max_new_tokens=6), device="cpu")
PROMPTS = [Prompt(id=f"p{i}", content=f"{i}+1=") for i in range(4)]


def _dump(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pd.DataFrame(rows).to_parquet(path)
    return path


def test_what_was_sampled_is_replayed_to_the_byte(tmp_path: Path) -> None:
    groups = list(TransformersSampler(write_llama(tmp_path / "model"), CONFIG).sample(PROMPTS))
    store = RolloutStore(tmp_path / "store")
    store.bind({"checkpoint": "c"})
    store.append(groups)

    sampler = ReplaySampler(tmp_path / "store", CONFIG)
    replayed = {group.prompt.id: group for group in sampler.sample(PROMPTS)}

    for group in groups:
        for got, expected in zip(replayed[group.prompt.id].rollouts, group.rollouts, strict=True):
            assert got.completion == expected.completion
            assert got.token_ids.tolist() == expected.token_ids.tolist()
            assert got.logprobs.tobytes() == expected.logprobs.tobytes()
            assert got.entropies.tobytes() == expected.entropies.tobytes()
    assert sampler.describe()["stored"] == {"checkpoint": "c"}


GOOD = {"prompt": "q", "completion": "a", "token_ids": [1], "finish_reason": "stop"}


@pytest.mark.parametrize("name", ["dump.jsonl", "dump.parquet"])
def test_a_trainers_dump_becomes_groups_in_the_order_of_its_samples(
    tmp_path: Path, name: str
) -> None:
    rows = [
        {
            "prompt": "1+1=", "completion": "2", "token_ids": [5, 6], "logprobs": [-0.5, -0.25],
            "finish_reason": "stop", "sample_index": 1,
        },
        {
            "prompt": "1+1=", "completion": "11", "token_ids": [7, 7, 7],
            "logprobs": [-1.0, -2.0, -3.0], "finish_reason": "length", "sample_index": 0,
        },
    ]  # fmt: skip
    sampler = ReplaySampler(_dump(tmp_path / name, rows), CONFIG)
    prompt = Prompt(id="x", content="1+1=")

    (group,) = sampler.sample([prompt])

    assert [rollout.completion for rollout in group.rollouts] == ["11", "2"]
    assert group.rollouts[0].finish_reason is FinishReason.LENGTH
    assert group.rollouts[0].logprobs is not None
    assert group.rollouts[0].logprobs.tolist() == [-1.0, -2.0, -3.0]
    assert [rollout.entropies for rollout in group.rollouts] == [None, None]


@pytest.mark.parametrize("name", ["dump.jsonl", "dump.parquet"])
@pytest.mark.parametrize("written", [list, json.dumps])
def test_the_rollouts_of_a_chat_are_found_as_those_of_a_text(
    tmp_path: Path, name: str, written: Any
) -> None:
    # They were said to be missing: a list of turns was looked up as Python shows it.
    turns = [{"role": "system", "content": "Add."}, {"role": "user", "content": "1+1="}]
    rows = [{**GOOD, "prompt": written(turns), "completion": text} for text in ("2", "3")]
    dump = _dump(tmp_path / name, [*rows, {**GOOD, "prompt": written(turns[1:])}])
    (prompt,) = load_prompts([{"prompt": turns}]).prompts

    (group,) = ReplaySampler(dump, CONFIG).sample([prompt])

    assert [rollout.completion for rollout in group.rollouts] == ["2", "3"]
    assert [len(each.rollouts) for each in open_rollouts(dump, None).groups] == [2, 1]


@pytest.mark.parametrize("line", ["[" * 100_000, '{"prompt": "q", "prompt": "z"}', "{oops"])
def test_a_line_of_a_dump_that_says_nothing_certain_is_named(tmp_path: Path, line: str) -> None:
    path = _dump(tmp_path / "d.jsonl", [GOOD | {"completion": "a\u2028b"}])
    path.write_text(path.read_text().encode().decode("unicode_escape") + line, encoding="utf-8")

    with pytest.raises(SamplerError, match="line 2"):
        ReplaySampler(path, CONFIG)


def test_tokens_without_ids_are_counted_by_their_logprobs(tmp_path: Path) -> None:
    rows = [{"prompt": "q", "completion": "a", "logprobs": [-1.0, -2.0], "finish_reason": "stop"}]

    (group,) = ReplaySampler(_dump(tmp_path / "d.jsonl", rows), CONFIG).sample(
        [Prompt(id="x", content="q")]
    )

    assert np.array_equal(group.rollouts[0].token_ids, [-1, -1])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"prompt": "q", "completion": "a"}], "cannot be counted"),
        ([{"prompt": "q", "token_ids": [1]}], "lacks the columns"),
        ([{"prompt": "q", "completion": "a", "token_ids": [1]}], "no column finish_reason"),
        ([GOOD | {"logprobs": [-1.0, 0.0]}], "length"),
        ([[1], [2]], "a line is no object"),
        ([GOOD | {"prompt": "z"}], "no rollouts of 1 of 1 prompts"),
        ([GOOD | {"finish_reason": "x"}], "finish_reason='x': stop or length is needed"),
        ([GOOD | {"finish_reason": None}], "finish_reason=None"),
        ([GOOD | {"completion": None}], "no text"),
        ([GOOD | {"token_ids": "abc"}], "token_ids: 'abc' is no list of numbers"),
        ([GOOD | {"token_ids": 5}], "token_ids: '5' is no list"),
        ([GOOD | {"token_ids": [1.5]}], "no integers"),
        ([GOOD | {"entropies": [-0.5]}], "entropies has values outside"),
        ([GOOD | {"entropies": [40.0]}], "entropies has values outside"),
        ([GOOD | {"entropies": [float("nan")]}], "not finite"),
        ([GOOD | {"logprobs": [0.5]}], "logprobs has values outside"),
        (
            [GOOD | {"sample_index": 0}, GOOD | {"sample_index": 0}],
            "1 rollout repeats the sample_index",
        ),
        ([GOOD | {"sample_index": 0}, GOOD | {"sample_index": "b"}], "no integers"),
    ],
)
def test_a_dump_that_does_not_fit_is_refused(
    tmp_path: Path, rows: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(SamplerError, match=message):
        list(
            ReplaySampler(_dump(tmp_path / "d.jsonl", rows), CONFIG).sample(
                [Prompt(id="x", content="q")]
            )
        )


def test_a_folder_without_rollouts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SamplerError, match="neither a folder of stored rollouts"):
        ReplaySampler(tmp_path, CONFIG)


def test_prompts_that_share_their_text_do_not_count_rollouts_of_a_dump_twice(
    tmp_path: Path,
) -> None:
    row = {"prompt": "1+1=", "completion": "2", "finish_reason": "stop", "logprobs": [-0.5]}
    dump = _dump(tmp_path / "dump.jsonl", [row, {**row, "completion": "3"}])
    prompts = [Prompt(id=name, content="1+1=") for name in ("a", "b")]

    sampler = ReplaySampler(dump, AssessmentConfig(backend="replay"))

    assert [len(group.rollouts) for group in sampler.sample(prompts[:1])] == [2]
    with pytest.raises(SamplerError, match="a and b have the same text"):
        list(sampler.sample(prompts))
