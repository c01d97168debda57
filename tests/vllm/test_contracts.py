"""The processors keep vLLM's two contracts; run against the installed vLLM and the newest wheel.

No engine runs: vLLM's own loaders, interfaces and update types are real, the batches made up.
"""

import os
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, MoveDirectionality
from vllm.v1.sample.logits_processor import LogitsProcessor as V1Processor

from mlflow_rlrisk.samplers.vllm_environment import prepare_vllm
from mlflow_rlrisk.samplers.vllm_recorder import RECORDER, UID
from mlflow_rlrisk.samplers.vllm_recorder.core import RECORDER as RECORDS
from mlflow_rlrisk.samplers.vllm_recorder.in_band import (
    ENTROPY_ID,
    IN_BAND,
    entropy_of,
    request_fields,
    spare_token_id,
)
from mlflow_rlrisk.samplers.vllm_recorder.in_band_v1 import InBandEntropy as InBandV1
from mlflow_rlrisk.samplers.vllm_recorder.v1 import EntropyRecorder as RecorderV1

v2_processors = pytest.importorskip("vllm.v1.worker.gpu.sample.logits_processor")

from mlflow_rlrisk.samplers.vllm_recorder.in_band_v2 import InBandEntropy as InBandV2  # noqa: E402
from mlflow_rlrisk.samplers.vllm_recorder.v2 import EntropyRecorder as RecorderV2  # noqa: E402

WORDS, SPARE, TEMPERATURE = 50, 49, 0.7
ENGINE = SimpleNamespace(
    speculative_config=None, parallel_config=SimpleNamespace(tensor_parallel_size=1)
)


@pytest.fixture(autouse=True)
def _no_records() -> None:
    RECORDS.clear()


def _params(**settings: Any) -> SamplingParams:
    return SamplingParams(**{"temperature": TEMPERATURE, "seed": 1, **settings})


def _logits(rows: int) -> torch.Tensor:
    return torch.randn((rows, WORDS), generator=torch.Generator().manual_seed(rows)) * 3


def _entropies(logits: torch.Tensor) -> np.ndarray:
    logs = (logits.double() / TEMPERATURE).log_softmax(-1)
    return -(logs.exp() * logs).masked_fill(logs == -torch.inf, 0.0).sum(-1).numpy()


def _drained() -> dict[tuple[int, int], float]:
    found = RECORDS.drain()
    names = zip(
        np.frombuffer(found["uid"], np.int64).tolist(),
        np.frombuffer(found["position"], np.int32).tolist(),
        strict=True,
    )
    return dict(zip(names, np.frombuffer(found["entropy"], np.float32).tolist(), strict=True))


def _context(slots: list[int], visible: list[int]) -> Any:
    """What ``LogitsContext`` tells of rows in these slots that see so many tokens."""
    index = torch.tensor(slots, dtype=torch.int32)
    return v2_processors.LogitsContext(
        expanded_idx_mapping=index,
        idx_mapping=index,
        idx_mapping_np=np.array(slots, dtype=np.int32),
        expanded_local_pos=torch.zeros(len(slots), dtype=torch.int32),
        input_ids=torch.zeros(len(slots), dtype=torch.int32),
        pos=torch.tensor(visible) - 1,
        seq_lens_upper_bound_np=np.array(visible, dtype=np.int32),
    )


def _states(prompt_lengths: dict[int, int], words: dict[int, list[int]] | None = None) -> Any:
    lengths = np.zeros(8, dtype=np.int32)
    for slot, length in prompt_lengths.items():
        lengths[slot] = length
    texts = torch.full((8, 16), WORDS - 2, dtype=torch.int32)  # what earlier requests left
    for slot, text in (words or {}).items():
        texts[slot, : len(text)] = torch.tensor(text, dtype=torch.int32)
    return SimpleNamespace(
        max_num_reqs=8,
        prompt_len=SimpleNamespace(np=lengths),
        all_token_ids=SimpleNamespace(gpu=texts),
    )


def test_v2_loads_the_v2_classes_by_name_and_rejects_those_of_v1() -> None:
    build = v2_processors.build_custom_logits_processors_params_validator

    build([RECORDER["v2"], IN_BAND["v2"]])
    for name in (RECORDER["v1"], IN_BAND["v1"]):
        with pytest.raises(ValueError, match="not a subclass"):
            build([name])
    assert issubclass(RecorderV1, V1Processor)
    assert issubclass(InBandV1, V1Processor)


def test_v1_follows_requests_that_are_added_moved_swapped_and_removed() -> None:
    recorder = RecorderV1(ENGINE, torch.device("cpu"), False)
    texts: dict[int, list[int]] = {uid: [0] * uid for uid in range(4)}
    added = [(uid, _params(extra_args={UID: 10 + uid}), [1], texts[uid]) for uid in range(4)]

    recorder.update_state(BatchUpdate(batch_size=4, removed=[], added=added, moved=[]))
    moves = [(3, 1, MoveDirectionality.UNIDIRECTIONAL), (0, 2, MoveDirectionality.SWAP)]
    recorder.update_state(BatchUpdate(batch_size=3, removed=[1], added=[], moved=moves))
    texts[2].append(0)
    logits = _logits(3)
    returned = recorder.apply(logits.clone())

    assert not recorder.is_argmax_invariant()  # min_p is, and cuts before any other that is
    torch.testing.assert_close(returned, logits, rtol=0, atol=0)
    expected = _entropies(logits)
    assert _drained() == pytest.approx(
        {(12, 3): expected[0], (13, 3): expected[1], (10, 0): expected[2]}, abs=1e-6
    )


def test_v1_leaves_requests_of_others_alone() -> None:
    recorder = RecorderV1(ENGINE, torch.device("cpu"), False)
    other = _params(temperature=1.9)
    added = [(0, other, [1], []), (1, _params(extra_args={UID: 5}), [1], [])]

    recorder.update_state(BatchUpdate(batch_size=2, removed=[], added=added, moved=[]))
    logits = _logits(2)
    recorder.apply(logits)

    assert _drained() == pytest.approx({(5, 0): _entropies(logits)[1]}, abs=1e-6)


def test_v2_divides_by_each_temperature_and_skips_rows_within_the_prompt() -> None:
    recorder = RecorderV2(ENGINE, _states({2: 4, 5: 3, 6: 9}))
    assert recorder.add_request(2, _params(extra_args={UID: 1}))
    assert recorder.add_request(5, _params(extra_args={UID: 2}, temperature=2.0))
    assert recorder.add_request(6, _params(extra_args={UID: 3}))
    assert not recorder.add_request(7, _params())
    logits = _logits(3)

    # Slot 6 sees 6 of its 9 prompt tokens: a partial prefill.
    returned = recorder.apply(logits, _context([5, 2, 6], [3, 10, 6]))

    assert returned is logits
    wide = _entropies(logits * TEMPERATURE / 2.0)[0]
    assert _drained() == pytest.approx({(2, 0): wide, (1, 6): _entropies(logits)[1]}, abs=1e-6)


def test_v2_records_what_was_before_the_penalty_and_returns_what_was_after_it() -> None:
    logits = _logits(3)
    likeliest = logits.argmax(dim=-1).tolist()
    texts = {1: [4, likeliest[0], 4, 7], 3: [0, 5], 6: [8, 8, likeliest[2]]}
    penalties = {1: 1.5, 3: 1.0, 6: 0.6}
    recorder = RecorderV2(ENGINE, _states({1: 2, 3: 2, 6: 1}, texts))
    for slot, penalty in penalties.items():
        recorder.add_request(slot, _params(extra_args={UID: slot}, repetition_penalty=penalty))
    after = logits.clone()
    for row, (slot, text) in enumerate(texts.items()):  # word by word, as vLLM documents it
        for word in set(text):
            penalty = penalties[slot]
            after[row, word] *= 1 / penalty if logits[row, word] > 0 else penalty

    returned = recorder.apply(after.clone(), _context(list(texts), [4, 2, 3]))

    torch.testing.assert_close(returned, after, rtol=0, atol=0)
    expected = _entropies(logits)
    assert _drained() == pytest.approx(
        {(1, 2): expected[0], (3, 0): expected[1], (6, 2): expected[2]}, abs=1e-6
    )
    assert np.abs(_entropies(after) - expected)[[0, 2]].min() > 0.01


def test_v2_refuses_rows_of_drafts() -> None:
    recorder = RecorderV2(ENGINE, _states({}))

    with pytest.raises(RuntimeError, match="one row a request"):
        recorder.apply(_logits(3), _context([0, 1], [5, 5]))


@pytest.mark.parametrize("runner", ["v1", "v2"])
def test_in_band_the_spare_word_carries_the_entropy_and_nothing_else_changes(runner: str) -> None:
    params = _params(
        extra_args={ENTROPY_ID: SPARE}, logprob_token_ids=[SPARE], logprobs=1, temperature=0.7
    )
    logits = _logits(2)
    if runner == "v1":
        processor = InBandV1(ENGINE, torch.device("cpu"), False)
        processor.validate_params(params)
        added = [(0, params, [1], []), (1, _params(), [1], [])]
        processor.update_state(BatchUpdate(batch_size=2, removed=[], added=added, moved=[]))
        scaled = processor.apply(logits / TEMPERATURE)
    else:
        other = InBandV2(ENGINE, _states({3: 1, 4: 1}))
        other.validate_params(params)
        other.add_request(3, params)
        other.add_request(4, _params())
        scaled = other.apply(logits.clone(), _context([3, 4], [2, 2])) / TEMPERATURE

    masked = logits.clone()
    masked[0, SPARE] = -torch.inf
    logs = scaled.log_softmax(-1)
    assert entropy_of(float(logs[0, SPARE]), WORDS) == pytest.approx(
        float(_entropies(masked)[0]), abs=5e-5
    )
    expected = (masked / TEMPERATURE).log_softmax(-1)
    torch.testing.assert_close(logs[:, :SPARE], expected[:, :SPARE], rtol=0, atol=1e-5)
    torch.testing.assert_close(logs[1], expected[1], rtol=0, atol=1e-5)
    assert logs[0, SPARE].exp() == 0.0


@pytest.mark.parametrize("processor", [RecorderV1, RecorderV2])
@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.0},
        {"presence_penalty": 0.5},
        {"frequency_penalty": 0.5},
        {"logit_bias": {3: 1.0}},
        {"allowed_token_ids": [3, 4]},
    ],
)
def test_settings_that_change_the_distribution_are_refused(
    processor: Any, settings: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        processor.validate_params(_params(extra_args={UID: 0}, **settings))
    processor.validate_params(_params(**settings))  # nobody asked for its entropy


@pytest.mark.parametrize("processor", [InBandV1, InBandV2])
def test_in_band_refuses_truncation_a_penalty_and_a_word_that_is_not_asked_for(
    processor: Any,
) -> None:
    asked = {"extra_args": {ENTROPY_ID: SPARE}, "logprob_token_ids": [SPARE], "logprobs": 1}

    for settings in ({"top_p": 0.9}, {"top_k": 5}, {"min_p": 0.1}, {"repetition_penalty": 1.1}):
        with pytest.raises(ValueError, match="sample from the softmax"):
            processor.validate_params(_params(**asked, **settings))
    with pytest.raises(ValueError, match="logprob_token_ids"):
        processor.validate_params(_params(extra_args={ENTROPY_ID: SPARE}))


def test_an_engine_with_speculative_decoding_is_refused() -> None:
    engine = SimpleNamespace(**{**vars(ENGINE), "speculative_config": object()})

    with pytest.raises(ValueError, match="speculative"):
        RecorderV1(engine, torch.device("cpu"), False)
    with pytest.raises(ValueError, match="speculative"):
        RecorderV2(engine, _states({}))


def test_the_engines_process_can_be_forked_after_asking_for_a_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # torch: "will NOT poison fork if the environment variable PYTORCH_NVML_BASED_CUDA_CHECK=1".
    name = "PYTORCH_NVML_BASED_CUDA_CHECK"
    monkeypatch.setattr(os, "environ", {k: v for k, v in os.environ.items() if k != name})
    asked: list[str | None] = []

    def is_available() -> bool:
        asked.append(os.environ.get(name))
        return False

    monkeypatch.setattr(torch.cuda, "is_available", is_available)

    prepare_vllm()

    assert asked == ["1"]


def test_the_spare_word_is_the_last_one_that_the_tokenizer_lacks() -> None:
    assert spare_token_id(6, [0, 1, 2, 3]) == 5
    assert request_fields(5)["logprob_token_ids"] == [5]
