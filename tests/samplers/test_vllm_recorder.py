"""What the recorder computes and keeps, and what the client makes of it; vLLM is not needed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mlflow_rlrisk.checkpoint import open_checkpoint
from mlflow_rlrisk.config import AssessmentConfig, SamplingConfig
from mlflow_rlrisk.errors import CheckpointError, ConfigError, SamplerError
from mlflow_rlrisk.records import Prompt
from mlflow_rlrisk.samplers.entropy_table import EntropyTable
from mlflow_rlrisk.samplers.vllm_engine import Finished, Records
from mlflow_rlrisk.samplers.vllm_options import VllmOptions
from mlflow_rlrisk.samplers.vllm_recorder import core
from mlflow_rlrisk.samplers.vllm_recorder.in_band import OFFSET, entropy_of, spare_token_id
from mlflow_rlrisk.samplers.vllm_reference import ReferenceModel
from mlflow_rlrisk.samplers.vllm_stream import Drawn, Row, fill_gaps
from tests.tiny_models import write_llama


def _records(*rows: tuple[int, int, float]) -> Records:
    uids, positions, entropies = zip(*rows, strict=True)
    return Records(
        np.array(uids, np.int64), np.array(positions, np.int32), np.array(entropies, np.float32)
    )


@settings(deadline=None, max_examples=40)
@given(
    num_rows=st.integers(1, 9),
    num_words=st.integers(2, 40),
    spread=st.sampled_from([0.01, 3.0, 60.0]),
    temperature=st.sampled_from([0.3, 1.0, 2.5]),
    seed=st.integers(0, 2**31),
)
def test_row_statistics_equal_float64_for_masked_and_extreme_logits(
    num_rows: int, num_words: int, spread: float, temperature: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn((num_rows, num_words), generator=generator) * spread + 1e3
    logits[0, 0] = -torch.inf
    logs = (logits.double() / temperature).log_softmax(-1)
    expected = -(logs.exp() * logs).masked_fill(logs == -torch.inf, 0.0).sum(-1)
    before = logits.clone()

    for given_as in (temperature, torch.full((num_rows,), temperature)):
        found = core.row_statistics(logits, given_as)

        torch.testing.assert_close(found.entropies.double(), expected, rtol=1e-4, atol=2e-5)
        normalisers = (logits.double() / temperature).logsumexp(-1)
        torch.testing.assert_close(found.log_normalisers.double(), normalisers, rtol=1e-6, atol=0)
    assert torch.equal(logits, before)


def test_a_row_that_is_not_finite_never_gives_an_entropy() -> None:
    logits = torch.zeros((3, 8))
    logits[1, 4] = torch.nan
    logits[2, 4] = torch.inf

    entropies = core.row_statistics(logits).entropies

    assert entropies.isnan().tolist() == [False, True, True]


def test_rows_are_worked_on_in_tiles_without_changing_their_values(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logits = torch.randn((11, 7), generator=torch.Generator().manual_seed(0))
    whole = core.row_statistics(logits, 0.9).entropies

    monkeypatch.setitem(core.TILE_ELEMENTS, "cpu", 14)

    torch.testing.assert_close(core.row_statistics(logits, 0.9).entropies, whole)


def test_records_come_in_bounded_blocks_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "BLOCK", 4)
    recorder = core.Recorder()
    for step in range(3):
        recorder.record(torch.zeros((3, 5)), np.array([7, -1, 9]), np.array([step, 0, step - 1]))

    drained = [recorder.drain() for _ in range(3)]

    assert [each["left"] for each in drained] == [1, 0, 0]
    names = [
        list(zip(uids.tolist(), positions.tolist(), strict=True))
        for uids, positions in (
            (np.frombuffer(d["uid"], np.int64), np.frombuffer(d["position"], np.int32))
            for d in drained
        )
    ]
    # The row of nobody and the one within a prompt are not there.
    assert names == [[(7, 0), (7, 1), (9, 0), (7, 2)], [(9, 1)], []]


def test_the_last_record_of_a_token_counts_and_surplus_rows_do_not() -> None:
    table = EntropyTable(max_tokens=3, num_words=100)
    table.expect(4)

    table.add(_records((4, 0, 0.1), (4, 1, 0.2), (4, 0, 0.3), (4, 3, 9.0), (8, 0, 1.0)))
    table.add(_records((4, 1, 0.4)))

    assert table.take(4, 2) == pytest.approx([0.3, 0.4])


def test_missing_and_impossible_entropies_are_gaps_and_rows_are_reused_clean() -> None:
    table = EntropyTable(max_tokens=4, num_words=10)
    table.expect(1)
    table.add(_records((1, 0, 0.5), (1, 1, 2.4), (1, 3, -0.1)))

    first = table.take(1, 4)
    table.expect(2)

    assert first[0] == pytest.approx(0.5)
    assert np.isnan(first[1:]).all()  # above log 10, missing, negative
    assert np.isnan(table.take(2, 4)).all()


def test_tokens_without_a_record_get_the_entropy_of_a_forward_pass(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    folder = write_llama(tmp_path / "model")
    config = AssessmentConfig(sampling=SamplingConfig(temperature=0.7))
    reference = ReferenceModel(open_checkpoint(folder), config, "float32", None)
    prompt_ids, tokens = [5, 9, 12], np.array([7, 30, 8, 11])
    finished = Finished(
        uid=0, token_ids=tokens, logprobs=np.zeros(4, np.float32), finish_reason="length"
    )
    recorded = np.array([0.25, np.nan, 0.5, np.nan])
    drawn = Drawn(Row(0, Prompt(id="p", content=""), prompt_ids, 0, None), finished, recorded)

    fill_gaps([drawn], reference)

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    with torch.no_grad():
        logits = model(torch.tensor([prompt_ids + tokens.tolist()])).logits[0, 2:-1]
    logs = (logits / 0.7).log_softmax(-1)
    exact = -(logs.exp() * logs).sum(-1).numpy()
    assert drawn.entropies[[1, 3]] == pytest.approx(exact[[1, 3]], abs=1e-4)
    assert drawn.entropies[[0, 2]].tolist() == [0.25, 0.5]  # what was recorded stays


@pytest.mark.parametrize("logprob", [-3.0, -OFFSET + 0.1, -OFFSET - 9.0, float("-inf")])
def test_a_logprob_that_carries_no_entropy_is_refused(logprob: float) -> None:
    with pytest.raises(SamplerError, match="carries no entropy"):
        entropy_of(logprob, vocab_size=100)


def test_a_full_vocabulary_leaves_no_word_for_the_entropy() -> None:
    with pytest.raises(CheckpointError, match="none is left"):
        spare_token_id(4, range(4))


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"data_parallel_size": 2}, "data_parallel_size"),
        ({"speculative_config": "{}"}, "speculative_config"),
        ({"tensor_paralel_size": 2}, "tensor_paralel_size"),
        ({"tensor_parallel_size": 0}, "tensor_parallel_size"),
        ({"runner": "v3"}, "runner"),
    ],
)
def test_options_that_are_unknown_or_spoil_a_figure_are_refused(
    options: dict[str, Any], field: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        VllmOptions.of(AssessmentConfig(backend="vllm", backend_options=options))

    assert raised.value.field == field


def test_a_temperature_that_vllm_would_raise_is_refused() -> None:
    config = AssessmentConfig(backend="vllm", sampling=SamplingConfig(temperature=0.001))

    with pytest.raises(ConfigError, match=r"at 0\.01 at least"):
        VllmOptions.of(config)
