import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from mlflow_rlrisk.errors import RolloutStoreError
from mlflow_rlrisk.records import (
    FinishReason,
    Grade,
    GradedGroup,
    GradeStatus,
    Message,
    Prompt,
    Rollout,
    RolloutGroup,
)
from mlflow_rlrisk.rollouts.shard_folder import MAX_LOOSE_SHARDS
from mlflow_rlrisk.rollouts.store import RolloutStore
from mlflow_rlrisk.rollouts.writer import RolloutWriter

IDENTITY = {"checkpoint": "c1", "prompts": "p1", "sampling": "s1"}


def _rollout(prompt_id: str, index: int, *, is_recorded: bool = True) -> Rollout:
    rng = np.random.default_rng([index, *prompt_id.encode()])
    length = int(rng.integers(1, 9))
    recorded = rng.random(length).astype(np.float32)
    return Rollout(
        prompt_id=prompt_id,
        sample_index=index,
        completion=f"answer {index}\nof {prompt_id} ∞",
        token_ids=rng.integers(0, 150_000, length),
        logprobs=-recorded if is_recorded else None,
        entropies=recorded if is_recorded else None,
        finish_reason=FinishReason.LENGTH if index % 2 else FinishReason.STOP,
    )


def _group(prompt_id: str, num_samples: int = 3, *, is_recorded: bool = True) -> RolloutGroup:
    rollouts = [_rollout(prompt_id, i, is_recorded=is_recorded) for i in range(num_samples)]
    prompt = Prompt(id=prompt_id, content=f"question {prompt_id}")
    return RolloutGroup(prompt=prompt, rollouts=tuple(rollouts))


def _graded(group: RolloutGroup) -> GradedGroup:
    grades = (
        Grade.scored(1.0, answer="42"),
        Grade(status=GradeStatus.TIMED_OUT, reason="no answer in 10 s"),
        Grade.scored(-0.25),
    )
    return GradedGroup(prompt=group.prompt, rollouts=group.rollouts, grades=grades)


def _assert_equal(got: Rollout, expected: Rollout) -> None:
    for name in ("prompt_id", "sample_index", "completion", "finish_reason"):
        assert getattr(got, name) == getattr(expected, name)
    for name in ("token_ids", "logprobs", "entropies"):
        stored, original = getattr(got, name), getattr(expected, name)
        assert (stored is None) == (original is None)
        assert original is None or np.array_equal(stored, original)


def test_rollouts_come_back_as_they_were(tmp_path: Path) -> None:
    groups = [_group("a"), _group("b", is_recorded=False), _group("c", 1)]
    RolloutStore(tmp_path).append(groups[:2])
    RolloutStore(tmp_path).append(groups[2:])

    read = {g.prompt.id: g for g in RolloutStore(tmp_path).groups([g.prompt for g in groups])}

    assert set(read) == {"a", "b", "c"}
    for group in groups:
        assert len(read[group.prompt.id].rollouts) == len(group.rollouts)
        for got, expected in zip(read[group.prompt.id].rollouts, group.rollouts, strict=True):
            _assert_equal(got, expected)


def test_grades_come_back_with_their_reasons(tmp_path: Path) -> None:
    graded = _graded(_group("a"))
    RolloutStore(tmp_path).append([graded])

    (read,) = RolloutStore(tmp_path).graded_groups([graded.prompt])

    assert read.grades == graded.grades


def test_only_the_wanted_prompts_are_read_and_a_chat_prompt_is_stored_as_text(
    tmp_path: Path,
) -> None:
    chat = Prompt(id="b", content=(Message(role="user", content="hi"),))
    store = RolloutStore(tmp_path)
    store.append([_group("a"), RolloutGroup(prompt=chat, rollouts=(_rollout("b", 0),))])

    (read,) = store.groups([chat])

    assert read.prompt is chat
    frame = pd.concat(pd.read_parquet(path) for path in (tmp_path / "rollouts").iterdir())
    assert set(frame["prompt"]) == {"question a", "user: hi"}


def test_other_inputs_are_refused_and_what_differs_is_named(tmp_path: Path) -> None:
    RolloutStore(tmp_path).bind(IDENTITY)
    RolloutStore(tmp_path).bind(IDENTITY)

    with pytest.raises(RolloutStoreError, match=r"prompts: stored p1, wanted p2") as error:
        RolloutStore(tmp_path).bind({**IDENTITY, "prompts": "p2"})
    assert "sampling" not in str(error.value)


def test_rollouts_without_a_manifest_are_not_adopted(tmp_path: Path) -> None:
    RolloutStore(tmp_path).append([_group("a")])

    with pytest.raises(RolloutStoreError, match=r"rollouts and no manifest\.json"):
        RolloutStore(tmp_path).bind(IDENTITY)


@pytest.mark.parametrize("text", ["{", "[]", '{"schema_version": 99, "identity": {}}'])
def test_a_manifest_that_cannot_be_read_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)

    with pytest.raises(RolloutStoreError, match=r"manifest\.json"):
        RolloutStore(tmp_path).bind(IDENTITY)


@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_a_damaged_shard_is_said_and_its_prompts_count_as_missing(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = RolloutStore(tmp_path)
    store.append([_group("a")])
    (hurt,) = (tmp_path / "rollouts").iterdir()
    store.append([_group("b")])
    content = bytearray(hurt.read_bytes())
    if damage == "flip":
        first = pq.ParquetFile(hurt).metadata.row_group(0).column(0)
        content[first.data_page_offset + first.total_compressed_size - 2] ^= 0xFF
    hurt.write_bytes({"cut": content[:-20], "flip": content, "empty": b""}[damage])

    reopened = RolloutStore(tmp_path)

    assert reopened.completed_prompt_ids() == {"b"}
    assert reopened.damaged == [hurt.name]
    assert f"{hurt.name} is damaged" in caplog.text
    reopened.append([_group("a")])
    assert RolloutStore(tmp_path).completed_prompt_ids() == {"a", "b"}


def test_a_group_stored_twice_is_read_once(tmp_path: Path) -> None:
    store = RolloutStore(tmp_path)
    store.append([_group("a")])
    store.append([_group("a"), _group("b")])
    store.append([_group("a")])

    prompts = [_group(name).prompt for name in ("a", "b")]
    assert sorted(group.prompt.id for group in store.groups(prompts)) == ["a", "b"]


def test_many_single_appends_are_merged_without_loss(tmp_path: Path) -> None:
    names = [f"p{i}" for i in range(MAX_LOOSE_SHARDS + 30)]
    store = RolloutStore(tmp_path)
    for name in names:
        store.append([_group(name, 1)])

    assert len(list((tmp_path / "rollouts").iterdir())) <= MAX_LOOSE_SHARDS
    read = list(store.groups([_group(name, 1).prompt for name in names]))
    assert {group.prompt.id for group in read} == set(names)
    for group in read:
        _assert_equal(group.rollouts[0], _rollout(group.prompt.id, 0))


def test_compacting_leaves_one_shard_of_each_kind(tmp_path: Path) -> None:
    store = RolloutStore(tmp_path)
    for name in "abcd":
        store.append([_graded(_group(name))])

    store.compact()

    assert len(list(tmp_path.rglob("*.parquet"))) == 2
    assert len(list(store.graded_groups([_group(name).prompt for name in "abcd"]))) == 4


def test_grades_of_another_verifier_replace_the_old_and_leave_the_rollouts(tmp_path: Path) -> None:
    store = RolloutStore(tmp_path)
    store.bind_grades({"verifier": "v1"})
    store.append([_graded(_group("a"))])

    store.bind_grades({"verifier": "v1"})
    assert store.graded_prompt_ids() == {"a"}
    store.bind_grades({"verifier": "v2"})

    assert store.graded_prompt_ids() == set()
    assert store.completed_prompt_ids() == {"a"}
    assert list(store.graded_groups([_group("a").prompt])) == []


def test_text_that_is_no_unicode_is_stored_with_replacement_characters(tmp_path: Path) -> None:
    rollout = Rollout(
        prompt_id="a",
        sample_index=0,
        completion="half \ud800 a pair",
        token_ids=np.array([1]),
        logprobs=None,
        entropies=None,
        finish_reason=FinishReason.STOP,
    )
    prompt = Prompt(id="a", content="q")
    store = RolloutStore(tmp_path)
    store.append([RolloutGroup(prompt=prompt, rollouts=(rollout,))])

    (read,) = store.groups([prompt])

    assert read.rollouts[0].completion.replace("�", "") == "half  a pair"


def test_leaving_the_writer_stores_the_rest_also_when_it_is_interrupted(tmp_path: Path) -> None:
    store = RolloutStore(tmp_path)

    def assess() -> None:
        with RolloutWriter(store, flush_s=3600) as writer:
            writer.add(_group("a"))
            writer.add(_group("b"))
            assert RolloutStore(tmp_path).completed_prompt_ids() == set()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        assess()

    assert RolloutStore(tmp_path).completed_prompt_ids() == {"a", "b"}


def test_a_kill_leaves_whole_groups_only(tmp_path: Path) -> None:
    # SIGKILL while appending as fast as possible: what was reported as stored must be there.
    script = (
        "import sys\n"
        "from tests.rollouts.test_store import _graded, _group, RolloutStore\n"
        "store = RolloutStore(sys.argv[1])\n"
        "for i in range(100_000):\n"
        "    store.append([_graded(_group(f'p{i}'))])\n"
        "    print(i, flush=True)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None
    reported = [int(process.stdout.readline()) for _ in range(25)]
    os.kill(process.pid, signal.SIGKILL)
    reported += [int(line) for line in process.stdout.read().split()]
    process.wait()
    process.stdout.close()

    store = RolloutStore(tmp_path)

    names = [f"p{i}" for i in reported]
    assert store.damaged == []
    assert store.completed_prompt_ids() >= set(names)
    graded = list(store.graded_groups([_group(name).prompt for name in names]))
    assert len(graded) == len(names)
    assert {len(group.rollouts) for group in graded} == {3}
