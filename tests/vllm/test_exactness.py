"""Every token has its entropy and logprob, exact to 1e-4 nats, however vLLM schedules."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.vllm.draw import draw
from tests.vllm.oracle import reference, worst_differences, write_model

pytestmark = pytest.mark.timeout(600)

TOLERANCE = 1e-4
PROMPTS = ["a1+b2=" * (1 + 3 * i) for i in range(6)]
TIGHT = {"block_size": 32, "max_model_len": 192, "kv_cache_memory_bytes": 30 * 2**15}
"""30 blocks of 32 tokens, for 32 sequences that grow to 4 or 5: some must give theirs up."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


def _require_exact(
    answer: dict[str, Any], model: Path, num_rollouts: int, **reshaping: Any
) -> None:
    assert len(answer["rollouts"]) == num_rollouts
    entropy, logprob, num_tokens = worst_differences(answer, reference(model), **reshaping)
    assert num_tokens > num_rollouts
    assert entropy <= TOLERANCE
    assert logprob <= TOLERANCE
    assert answer["progress"] == [num_tokens, num_rollouts]


def test_v1_is_exact_under_preemption_and_the_same_seed_gives_the_same_rollouts(
    model: Path, tmp_path: Path
) -> None:
    first, second = draw(
        tmp_path,
        model=str(model),
        prompts=PROMPTS,
        repeats=2,  # the second engine of a process finds nothing of the first
        sampling={"num_samples": 8, "max_new_tokens": 60, "seed": 3},
        options=TIGHT,
    )

    assert first["num_preempted"] > 0
    _require_exact(first, model, 48)
    assert first["describe"]["runner"] == "v1"
    completions = [rollout["token_ids"] for rollout in first["rollouts"]]
    assert len({tuple(tokens) for tokens in completions}) == 48
    assert _by_name(first) == _by_name(second)


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_v1_is_exact_unseeded_in_chunks_and_in_processes_of_its_own(
    model: Path, tmp_path: Path, num_ranks: int
) -> None:
    (answer,) = draw(
        tmp_path,
        model=str(model),
        prompts=PROMPTS,
        sampling={"num_samples": 8, "max_new_tokens": 40, "top_k": 300},
        options={
            **TIGHT,
            "seeded": False,
            "multiprocessing": True,
            "tensor_parallel_size": num_ranks,
            "max_num_batched_tokens": 48,  # the longer prompts take two and three steps
        },
    )

    assert answer["describe"]["own_process"]
    assert answer["describe"]["logprobs"] == "of the softmax that top_k=300 makes"
    # The entropy is of the full softmax, although 20 of 320 words are cut away.
    _require_exact(answer, model, 48, top_k=300)


@pytest.mark.slow
def test_v2_is_exact_seeded_in_chunks_and_under_preemption(model: Path, tmp_path: Path) -> None:
    (answer,) = draw(
        tmp_path,
        model=str(model),
        prompts=PROMPTS[::2],
        sampling={"num_samples": 3, "max_new_tokens": 24},
        options={
            "runner": "v2",
            "block_size": 32,
            "max_model_len": 128,
            "max_num_batched_tokens": 48,
            "kv_cache_memory_bytes": 10 * 2**15,
        },
    )

    assert answer["describe"]["runner"] == "v2"
    assert answer["num_preempted"] > 0
    _require_exact(answer, model, 9)


def test_v2_is_exact_in_a_process_of_its_own(model: Path, tmp_path: Path) -> None:
    (answer,) = draw(
        tmp_path,
        model=str(model),
        prompts=PROMPTS[:2],
        sampling={"num_samples": 2, "max_new_tokens": 8},
        options={"runner": "v2", "multiprocessing": True, "max_model_len": 64},
    )

    assert answer["describe"]["runner"] == "v2"
    assert answer["describe"]["own_process"]
    _require_exact(answer, model, 4)


@pytest.mark.parametrize("runner", ["v1", "v2"])
@pytest.mark.parametrize(
    ("reshaping", "name"),
    [
        ({"min_p": 0.2}, "min_p=0.2"),
        (
            {"repetition_penalty": 1.6, "min_p": 0.01},
            "min_p=0.01, repetition_penalty=1.6",
        ),
    ],
)
def test_entropies_are_of_the_softmax_before_min_p_and_a_penalty_reshape_it(
    model: Path, tmp_path: Path, runner: str, reshaping: dict[str, float], name: str
) -> None:
    (answer,) = draw(
        tmp_path,
        model=str(model),
        prompts=PROMPTS[:2],
        sampling={"num_samples": 4, "max_new_tokens": 12, **reshaping},
        options={"runner": runner, "max_model_len": 64},
    )

    assert answer["describe"]["logprobs"] == f"of the softmax that {name} makes"
    assert "entropy differs by" in answer["describe"]["self_check"]
    _require_exact(answer, model, 8, **reshaping)


def test_a_stop_string_ends_a_completion_and_stays_in_it(model: Path, tmp_path: Path) -> None:
    logged = tmp_path / "logged"  # as mlflow.transformers lays it out, the tokenizer apart
    (logged / "components" / "tokenizer").mkdir(parents=True)
    (logged / "model").mkdir()
    (logged / "MLmodel").write_text("flavors: {transformers: {}}\n")
    for path in model.iterdir():
        is_model = path.name in ("config.json", "generation_config.json", "model.safetensors")
        shutil.copy(path, logged / ("model" if is_model else "components/tokenizer"))
    sampling = {"num_samples": 6, "max_new_tokens": 40, "seed": 5}
    stop = list("abcABC+")  # letters that no word of several holds
    for name in "ab":
        (tmp_path / name).mkdir()
    whole, ended = (
        draw(
            folder,
            model=str(logged),
            prompts=PROMPTS[:2],
            sampling={**sampling, **more},
            options={"max_model_len": 96},
        )[0]
        for folder, more in ((tmp_path / "a", {}), (tmp_path / "b", {"stop": stop}))
    )

    _require_exact(ended, model, 12)
    num_ended = 0
    before = {(r["prompt_id"], r["sample_index"]): r for r in whole["rollouts"]}
    for rollout in ended["rollouts"]:
        twin = before[rollout["prompt_id"], rollout["sample_index"]]
        size = len(rollout["token_ids"])
        assert rollout["token_ids"] == twin["token_ids"][:size]
        is_ended = bool(set(stop) & set(twin["completion"]))
        assert (rollout["completion"][-1:] in stop) == is_ended
        assert not set(stop) & set(rollout["completion"][:-1])
        num_ended += is_ended
    assert num_ended


def _by_name(answer: dict[str, Any]) -> dict[tuple[str, int], list[int]]:
    return {(r["prompt_id"], r["sample_index"]): r["token_ids"] for r in answer["rollouts"]}
