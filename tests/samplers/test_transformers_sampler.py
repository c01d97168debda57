"""What a user relies on: stops, truncation, streams, templates, repeatability."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mlflow_rlrisk.config import AssessmentConfig, SamplingConfig
from mlflow_rlrisk.errors import ConfigError, SamplerError
from mlflow_rlrisk.records import FinishReason, Message, Prompt, RolloutGroup
from mlflow_rlrisk.samplers import load_sampler
from mlflow_rlrisk.samplers.transformers import TransformersSampler
from tests.tiny_models import CHAT_TEMPLATE, write_gpt2, write_llama

PROMPTS = [Prompt(id=f"p{i}", content="1 + 2 = 3; " * (1 + i % 4) + "4?") for i in range(9)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("llama"), template=CHAT_TEMPLATE)


def _config(batch_size: int = 256, **sampling: Any) -> AssessmentConfig:
    settings = SamplingConfig(**{"num_samples": 4, "max_new_tokens": 16, **sampling})
    return AssessmentConfig(sampling=settings, batch_size=batch_size, device="cpu")


def _edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def _bytes(groups: list[RolloutGroup]) -> dict[tuple[str, int], bytes]:
    return {
        (rollout.prompt_id, rollout.sample_index): rollout.token_ids.tobytes()
        + rollout.logprobs.tobytes()
        + rollout.entropies.tobytes()
        for group in groups
        for rollout in group.rollouts
        if rollout.logprobs is not None and rollout.entropies is not None
    }


def test_every_prompt_gets_one_whole_group_in_sample_order(folder: Path) -> None:
    groups = list(TransformersSampler(folder, _config(batch_size=6)).sample(PROMPTS))

    assert sorted(group.prompt.id for group in groups) == sorted(p.id for p in PROMPTS)
    for group in groups:
        assert [rollout.sample_index for rollout in group.rollouts] == [0, 1, 2, 3]


def test_a_stop_token_ends_a_rollout_counts_and_is_not_in_the_text(tmp_path: Path) -> None:
    # Half the vocabulary stops, so that nearly all rollouts end early.
    folder = write_llama(tmp_path)
    stop_ids = list(range(2, 82, 2))
    _edit(folder / "generation_config.json", eos_token_id=stop_ids)
    sampler = TransformersSampler(folder, _config(num_samples=32, max_new_tokens=8))

    rollouts = [r for group in sampler.sample(PROMPTS) for r in group.rollouts]

    stopped = [r for r in rollouts if r.finish_reason is FinishReason.STOP]
    assert len(stopped) > 100
    assert any(len(r.token_ids) == 1 and r.completion == "" for r in stopped)
    for rollout in rollouts:
        inner, last = rollout.token_ids[:-1], rollout.token_ids[-1]
        assert not np.isin(inner, stop_ids).any()
        assert np.isin(last, stop_ids) == (rollout.finish_reason is FinishReason.STOP)
        assert rollout.is_truncated == (not np.isin(last, stop_ids))
        assert not rollout.is_truncated or len(rollout.token_ids) == 8
    assert sampler.describe()["stop_token_ids"] == {
        "config": [2], "generation_config": stop_ids, "tokenizer": [2]
    }  # fmt: skip


def test_a_limit_of_one_token_gives_one_token_each(folder: Path) -> None:
    groups = list(TransformersSampler(folder, _config(max_new_tokens=1)).sample(PROMPTS))

    assert {len(r.token_ids) for group in groups for r in group.rollouts} == {1}


def test_the_generation_config_of_a_checkpoint_does_not_leak_in(tmp_path: Path) -> None:
    folder = write_llama(tmp_path)
    before = _bytes(list(TransformersSampler(folder, _config()).sample(PROMPTS)))
    _edit(
        folder / "generation_config.json",
        do_sample=True, temperature=0.01, top_k=1, top_p=0.1, repetition_penalty=3.0,
        max_new_tokens=2, min_new_tokens=2, suppress_tokens=[5, 6, 7],
    )  # fmt: skip

    after = _bytes(list(TransformersSampler(folder, _config()).sample(PROMPTS)))

    assert after == before


def test_the_same_call_twice_is_identical_to_the_byte(folder: Path) -> None:
    sampler = TransformersSampler(folder, _config())

    first = _bytes(list(sampler.sample(PROMPTS)))

    assert _bytes(list(sampler.sample(PROMPTS))) == first


def test_another_process_draws_the_same_bytes(folder: Path) -> None:
    script = (
        "import hashlib, sys\n"
        "from tests.samplers.test_transformers_sampler import PROMPTS, _bytes, _config\n"
        "from mlflow_rlrisk.samplers.transformers import TransformersSampler\n"
        "import torch; torch.set_num_threads(1)\n"
        "drawn = _bytes(list(TransformersSampler(sys.argv[1], _config()).sample(PROMPTS)))\n"
        "print(hashlib.sha256(b''.join(drawn[key] for key in sorted(drawn))).hexdigest())\n"
    )
    digests = []
    for hash_seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", script, str(folder)],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
        )
        digests.append(done.stdout.strip().splitlines()[-1])

    assert digests[0] == digests[1]
    assert len(digests[0]) == 64


@pytest.mark.parametrize("write", [write_llama, write_gpt2])
def test_a_rollout_does_not_depend_on_its_batch_up_to_ties(tmp_path: Path, write: Any) -> None:
    # Other batches round float32 logits otherwise; a token may change only where a uniform
    # falls within that rounding of a border, about once in 10^5 tokens.
    folder = write(tmp_path, initializer_range=0.2)
    drawn = {}
    for batch_size in (1, 7, 64):
        sampler = TransformersSampler(folder, _config(batch_size=batch_size, num_samples=8))
        drawn[batch_size] = {
            (r.prompt_id, r.sample_index): r for g in sampler.sample(PROMPTS) for r in g.rollouts
        }

    for batch_size in (7, 64):
        same = [
            key
            for key, rollout in drawn[1].items()
            if np.array_equal(rollout.token_ids, drawn[batch_size][key].token_ids)
        ]
        assert len(same) >= len(drawn[1]) - 1
        worst = max(
            np.abs(drawn[1][key].entropies - drawn[batch_size][key].entropies).max() for key in same
        )
        assert worst < 1e-4


def test_leaving_out_a_prompt_or_adding_samples_changes_no_other_rollout(folder: Path) -> None:
    few = TransformersSampler(folder, _config(batch_size=1, num_samples=2)).sample(PROMPTS[3:5])
    many = TransformersSampler(folder, _config(batch_size=1, num_samples=4)).sample(PROMPTS)

    expected = _bytes(list(many))
    for key, drawn in _bytes(list(few)).items():
        assert drawn == expected[key]


def test_seeds_and_samples_differ(folder: Path) -> None:
    first = _bytes(list(TransformersSampler(folder, _config(seed=0)).sample(PROMPTS)))
    second = _bytes(list(TransformersSampler(folder, _config(seed=1)).sample(PROMPTS)))

    assert len(set(first.values())) == len(first)
    assert not set(first.values()) & set(second.values())


def test_progress_counts_every_token_and_every_rollout(folder: Path) -> None:
    seen: list[tuple[int, int]] = []
    sampler = TransformersSampler(
        folder, _config(batch_size=8), on_tokens=lambda tokens, done: seen.append((tokens, done))
    )

    rollouts = [r for group in sampler.sample(PROMPTS) for r in group.rollouts]

    assert sum(tokens for tokens, _ in seen) == sum(len(r.token_ids) for r in rollouts)
    assert sum(done for _, done in seen) == len(rollouts)


def test_groups_stream_before_the_last_prompt_is_decoded(folder: Path) -> None:
    drawn = 0

    def count(tokens: int, _: int) -> None:
        nonlocal drawn
        drawn += tokens

    groups = TransformersSampler(folder, _config(batch_size=4), on_tokens=count).sample(PROMPTS)

    next(groups)

    assert drawn <= 4 * 16


def test_a_chat_prompt_is_rendered_with_the_template_and_a_string_stays_raw(folder: Path) -> None:
    # The same text, once written out and once as turns, must meet the same tokens.
    chat = Prompt(id="p", content=(Message(role="user", content="1+1?"),))
    raw = Prompt(id="p", content="<user>1+1?\n<assistant>")
    plain = Prompt(id="p", content="1+1?")

    rendered = _bytes(list(TransformersSampler(folder, _config()).sample([chat])))

    assert rendered == _bytes(list(TransformersSampler(folder, _config()).sample([raw])))
    always = TransformersSampler(folder, _config(chat_template="always"))
    assert rendered == _bytes(list(always.sample([plain])))
    assert rendered != _bytes(list(TransformersSampler(folder, _config()).sample([plain])))


def test_a_prompt_that_leaves_no_room_is_named(folder: Path) -> None:
    sampler = TransformersSampler(folder, _config(max_new_tokens=500))

    with pytest.raises(SamplerError, match=r"prompt long has 13 tokens.*513 positions.*512"):
        list(sampler.sample([Prompt(id="long", content="1" * 13)]))


def test_exactly_all_positions_can_be_used(folder: Path) -> None:
    sampler = TransformersSampler(folder, _config(max_new_tokens=500, num_samples=1))

    assert len(list(sampler.sample([Prompt(id="long", content="1" * 12)]))) == 1


def test_logits_that_turn_nan_while_sampling_stop_it_and_name_the_prompt(folder: Path) -> None:
    # Weights and probe are fine; the second generated token is not.
    sampler = TransformersSampler(folder, _config())
    calls = 0

    def poison(_module: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 2:
            output[2] = torch.nan
        return output

    sampler._model.model.norm.register_forward_hook(poison)

    with pytest.raises(SamplerError, match=r"prompt p0: logits of generated token 1 are not"):
        list(sampler.sample(PROMPTS[:1]))


def test_no_memory_names_the_batch_size(folder: Path) -> None:
    sampler = TransformersSampler(folder, _config(batch_size=48))

    def exhaust(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    sampler._model.model.norm.register_forward_hook(exhaust)

    with pytest.raises(SamplerError, match="batch_size=48"):
        list(sampler.sample(PROMPTS))


def test_a_failing_model_is_a_sampler_error_with_its_reason(folder: Path) -> None:
    sampler = TransformersSampler(folder, _config())

    def fail(*_: Any) -> None:
        raise RuntimeError("device-side assert")

    sampler._model.model.norm.register_forward_hook(fail)

    with pytest.raises(SamplerError, match=r"stopped while sampling.*device-side assert"):
        list(sampler.sample(PROMPTS))


def test_an_unknown_backend_names_the_installed_ones() -> None:
    with pytest.raises(ConfigError, match=r"replay.*transformers"):
        load_sampler("nosuch")


def test_an_unknown_device_is_a_setting_fault(folder: Path) -> None:
    with pytest.raises(ConfigError, match="device='warp'"):
        TransformersSampler(folder, AssessmentConfig(device="warp"))


def test_the_description_is_json_and_names_what_may_change_a_rollout(folder: Path) -> None:
    described = TransformersSampler(folder, _config()).describe()

    assert json.loads(json.dumps(described)) == described
    assert described["logits_dtype"] == "float32"
    assert described["backend"] == "transformers"
    assert described["vocab_size"] == 83


@pytest.mark.parametrize("is_dated", [True, False])
def test_a_template_that_inserts_the_date_is_told(tmp_path: Path, is_dated: bool) -> None:
    dated = "{{ strftime_now('%d %b %Y') }}" + CHAT_TEMPLATE
    folder = write_llama(tmp_path, template=dated if is_dated else CHAT_TEMPLATE)
    sampler = TransformersSampler(folder, _config())
    chat = Prompt(id="chat", content=(Message(role="user", content="1 + 2 ="),))

    assert sampler.describe()["template_is_dated"] is is_dated
    assert ("inserts today's date" in sampler.template([chat])) is is_dated
    assert "date" not in sampler.template(PROMPTS)


@pytest.mark.parametrize(
    ("template", "keeps_system"),
    [
        (CHAT_TEMPLATE, True),
        (CHAT_TEMPLATE.replace("in messages", "in messages if m['role'] != 'system'"), False),
        # As SmolLM 3 and Nemotron do with "/no_think", and some with quotes.
        (CHAT_TEMPLATE.replace("m['content']", "m['content'] | replace('be', '')"), True),
        (CHAT_TEMPLATE.replace("m['content']", "m['content'] | tojson"), True),
    ],
)
def test_a_template_that_leaves_out_the_system_turn_is_told(
    tmp_path: Path, template: str, keeps_system: bool
) -> None:
    folder = write_llama(tmp_path, template=template)
    turns = (Message(role="system", content="be\n\nbrief"), Message(role="user", content="1+1="))
    plain = Prompt(id="text", content="1+1=")
    sampler = TransformersSampler(folder, _config())

    said = sampler.template([plain, Prompt(id="chat", content=turns)])

    assert ("leaves out the system turn" in said) is not keeps_system
    assert "leaves out" not in sampler.template([plain, Prompt(id="chat", content=turns[1:])])
