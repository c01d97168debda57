"""Rows of one width, as trainers keep completions, are measured as the answers in them."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlflow_rlrisk.assess import assess
from mlflow_rlrisk.assessment.inputs import AssessmentInputs
from mlflow_rlrisk.assessment.rescored import open_rollouts, rescore_mismatch
from mlflow_rlrisk.config import AssessmentConfig, LookaheadConfig, SamplingConfig
from mlflow_rlrisk.errors import SamplerError
from mlflow_rlrisk.forward.padded_rollouts import without_padding
from mlflow_rlrisk.lookahead.stored_rollouts import look_ahead_from
from mlflow_rlrisk.records import FinishReason, Prompt, Rollout, RolloutGroup
from mlflow_rlrisk.report import RiskReport
from mlflow_rlrisk.rollouts.store import RolloutStore
from tests.tiny_models import write_llama

PROMPTS = [{"prompt": f"{a}{b}=", "answer": "e"} for a in range(8) for b in range(4)]
PAD, EOS = 0, 2
WIDTH = 16


def has_a_letter(completions: list[str], **_: object) -> list[float]:
    return [float(any(c in "abcdefghijklm" for c in each)) for each in completions]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def assessed(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    folder = tmp_path_factory.mktemp("assessed") / "out"
    config = AssessmentConfig(
        sampling=SamplingConfig(num_samples=8, max_new_tokens=12),
        group_size=4,
        num_resamples=200,
        device="cpu",
        verifier_workers=1,
    )
    assess(
        model,
        PROMPTS,
        verifier="tests.forward.test_padded_rollouts:has_a_letter",
        config=config,
        out_dir=folder,
        run_preflight=False,
    )
    return folder


def widened(filler: int) -> Callable[[Rollout], Rollout]:
    """All rows of one width, filled as a trainer fills them."""

    def widen(rollout: Rollout) -> Rollout:
        missing = WIDTH - len(rollout.token_ids)
        return replace(
            rollout,
            token_ids=np.pad(rollout.token_ids, (0, missing), constant_values=filler),
            logprobs=np.pad(np.asarray(rollout.logprobs), (0, missing)),
            entropies=np.pad(np.asarray(rollout.entropies), (0, missing)),
        )

    return widen


def rewritten(source: Path, target: Path, change: Callable[[Rollout], Rollout]) -> Path:
    folder = Path(shutil.copytree(source, target))
    groups = list(RolloutStore(folder).groups(AssessmentInputs.load(folder).prompts.prompts))
    for path in (folder / "rollouts").glob("*.parquet"):
        path.unlink()
    RolloutStore(folder).append(
        [
            RolloutGroup(prompt=each.prompt, rollouts=tuple(map(change, each.rollouts)))
            for each in groups
        ]
    )
    return folder


@pytest.mark.parametrize("filler", [PAD, EOS])
def test_a_padded_dump_has_the_mismatch_of_the_answers_in_it(
    assessed: Path, model: Path, tmp_path: Path, filler: int
) -> None:
    groups = open_rollouts(assessed, None).groups
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    widen = widened(filler)
    rows = [
        {
            "prompt": group.prompt.text,
            "completion": rollout.completion,
            "finish_reason": str(rollout.finish_reason),
            "token_ids": widen(rollout).token_ids.tolist(),
            "logprobs": np.asarray(widen(rollout).logprobs).tolist(),
        }
        for group in groups
        for rollout in group.rollouts
    ]
    dump = tmp_path / "dump.jsonl"
    dump.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert {len(row["token_ids"]) for row in rows} == {WIDTH}
    assert len({rollout.finish_reason for rollout in rollouts}) == 2

    found = rescore_mismatch(dump, str(model), device="cpu", num_resamples=50)

    assert found.num_tokens == sum(len(rollout.token_ids) for rollout in rollouts)
    assert found.values["max_abs"] < 2e-5
    assert f"padding behind {len(rows)} of {len(rows)} rollouts was left out" in found.notes


@pytest.mark.parametrize("filler", [PAD, EOS, None])
def test_a_padded_dump_is_refused_where_no_tokenizer_says_what_to_cut(
    assessed: Path, tmp_path: Path, filler: int | None
) -> None:
    groups = open_rollouts(assessed, None).groups
    shape: Callable[[Rollout], Rollout] = (lambda each: each) if filler is None else widened(filler)
    rows = [
        {
            "prompt": group.prompt.text,
            "completion": rollout.completion,
            "finish_reason": str(rollout.finish_reason),
            "token_ids": shape(rollout).token_ids.tolist(),
            "entropies": np.asarray(shape(rollout).entropies).tolist(),
        }
        for group in groups
        for rollout in group.rollouts
    ]
    dump = tmp_path / "dump.jsonl"
    dump.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    def replayed() -> RiskReport:
        return assess(
            dump,
            PROMPTS,
            verifier="tests.forward.test_padded_rollouts:has_a_letter",
            config=AssessmentConfig(
                backend="replay", group_size=4, num_resamples=200, verifier_workers=1
            ),
            out_dir=tmp_path / "out",
            run_preflight=False,
        )

    if filler is None:
        lengths = [len(each.token_ids) for group in groups for each in group.rollouts]
        tokens = replayed().metrics["rlrisk/completion_tokens"].value
        assert tokens == pytest.approx(np.mean(lengths))
        return
    with pytest.raises(SamplerError, match=f"end in token {filler} more than once"):
        replayed()
    assert not (tmp_path / "out" / "rollouts").exists()


def test_first_updates_do_not_train_on_padding(assessed: Path, tmp_path: Path) -> None:
    run = LookaheadConfig(learning_rate=1e-2, run_steps=40, prompts_per_step=8, steps=2, repeats=2)
    plain = Path(shutil.copytree(assessed, tmp_path / "plain"))
    padded = rewritten(assessed, tmp_path / "padded", widened(PAD))

    expected, found = (look_ahead_from(each, run, device="cpu") for each in (plain, padded))

    assert found.closed == expected.closed
    assert found.reach == expected.reach
    assert any("padding" in note for note in found.notes)


def test_rollouts_as_our_samplers_keep_them_are_left_alone(assessed: Path) -> None:
    groups = list(open_rollouts(assessed, None).groups)

    found, num_cut = without_padding(groups, [EOS], [PAD])

    assert num_cut == 0
    assert [each.rollouts for each in found] == [each.rollouts for each in groups]


@pytest.mark.parametrize(
    ("token_ids", "logprobs", "finish_reason", "kept"),
    [
        ([7, 8, EOS, PAD, PAD], [-1.0, -1.0, -0.5, -4.0, -4.0], "stop", 3),
        ([7, 8, EOS, EOS, EOS], [-1.0, -1.0, -0.5, 0.0, 0.0], "stop", 3),
        ([EOS, PAD], None, "stop", 1),
        ([7, 5, EOS, EOS], [-1.0, -1.0, 0.0, 0.0], "stop", 2 + 1),
        # Another stop token ended it, and the row is filled with this one.
        ([7, 5, EOS, EOS], [-1.0, -0.5, 0.0, 0.0], "stop by 5", 2),
        # Cut at the limit or by a stop string, so that no stop token stands before the filling.
        ([7, 8, PAD, PAD], [-1.0, -1.0, 0.0, 0.0], "length", 2),
        ([7, 8, EOS, EOS], [-1.0, -1.0, 0.0, 0.0], "length", 2),
        # Drawn, however odd: a probability was recorded.
        ([7, 8, PAD, PAD], [-1.0, -1.0, -3.0, -3.0], "length", 4),
        ([7, 8, PAD, PAD], [-1.0, -1.0, -3.0, 0.0], "length", 3),
        ([7, 8, PAD], None, "length", 3),
        ([7, EOS, 8, 8], [-1.0, -1.0, 0.0, 0.0], "length", 4),
        ([PAD, PAD], [0.0, 0.0], "length", 2),
    ],
)
def test_what_was_drawn_is_kept_and_what_fills_the_row_is_not(
    token_ids: list[int], logprobs: list[float] | None, finish_reason: str, kept: int
) -> None:
    stop_ids = [EOS, 5] if finish_reason == "stop by 5" else [EOS]
    values: dict[str, Any] = {
        "prompt_id": "p",
        "sample_index": 0,
        "completion": "",
        "token_ids": np.array(token_ids),
        "logprobs": None if logprobs is None else np.array(logprobs),
        "entropies": None,
        "finish_reason": FinishReason(finish_reason.split()[0]),
    }
    group = RolloutGroup(prompt=Prompt(id="p", content="p"), rollouts=(Rollout(**values),))

    (found,), num_cut = without_padding([group], stop_ids, [PAD])

    assert found.rollouts[0].token_ids.tolist() == token_ids[:kept]
    assert num_cut == (kept < len(token_ids))
    if logprobs is not None:
        assert np.asarray(found.rollouts[0].logprobs).tolist() == logprobs[:kept]
