"""Stop strings: they end a completion, stay in it, and change nothing before them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from mlflow_rlrisk.config import AssessmentConfig, SamplingConfig
from mlflow_rlrisk.errors import ConfigError, SamplerError
from mlflow_rlrisk.records import FinishReason, Prompt, Rollout
from mlflow_rlrisk.samplers.endings import Endings
from mlflow_rlrisk.samplers.openai import OpenAISampler
from mlflow_rlrisk.samplers.transformers import TransformersSampler
from tests.samplers.toy_endpoint import ToyModel, served, write_checkpoint
from tests.tiny_models import character_tokenizer, write_llama

PROMPTS = [Prompt(id=f"p{i}", content="1 + 2 = 3; " * (1 + i % 4) + "4?") for i in range(9)]


def _sampling(**more: Any) -> SamplingConfig:
    return SamplingConfig(**{"num_samples": 6, "max_new_tokens": 40, **more})


def _drawn(model: Path, **more: Any) -> dict[tuple[str, int], Rollout]:
    config = AssessmentConfig(sampling=_sampling(**more), batch_size=20, device="cpu")
    groups = TransformersSampler(model, config).sample(PROMPTS)
    return {(r.prompt_id, r.sample_index): r for group in groups for r in group.rollouts}


def _byte_tokenizer() -> Any:
    """A token a byte, and one without text: letters beyond ASCII take several tokens."""
    vocabulary = {letter: i for i, letter in enumerate(pre_tokenizers.ByteLevel.alphabet())}
    core = Tokenizer(models.BPE({**vocabulary, "<eos>": 256, "<gap>": 257}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<eos>", additional_special_tokens=["<gap>"]
    )


def test_a_completion_ends_with_its_first_stop_string_and_is_the_same_before(
    tmp_path: Path,
) -> None:
    model = write_llama(tmp_path)
    stop = ("+", "ab", "9")
    whole, ended = _drawn(model), _drawn(model, stop=stop)

    ends = 0
    for name, twin in whole.items():
        texts = [Endings(character_tokenizer(), {2}, ()).completion(twin.token_ids[: n + 1])
                 for n in range(len(twin.token_ids))]  # fmt: skip
        size = next(
            (n + 1 for n, text in enumerate(texts) if any(s in text for s in stop)), len(texts)
        )
        rollout = ended[name]
        is_ended = size < len(texts) or any(s in texts[-1] for s in stop)
        assert rollout.token_ids.tolist() == twin.token_ids[:size].tolist()
        assert rollout.completion == texts[size - 1]
        for values in (rollout.logprobs, rollout.entropies):
            assert values is not None
            assert len(values) == size
        expected = FinishReason.STOP if is_ended else twin.finish_reason
        assert rollout.finish_reason is expected
        ends += is_ended
    assert 0 < ends < len(whole)


@settings(max_examples=200, deadline=None)
@given(text=st.text("aäb€", max_size=12), gaps=st.lists(st.integers(0, 40), max_size=12))
def test_the_size_is_that_of_the_first_prefix_whose_text_holds_the_string(
    text: str, gaps: list[int]
) -> None:
    tokenizer = _byte_tokenizer()
    endings = Endings(tokenizer, {256}, ("äb", "€€"))
    ids = tokenizer(text)["input_ids"]
    for gap in gaps:
        ids.insert(min(gap, len(ids)), 257)

    prefixes = [tokenizer.decode(ids[:n], skip_special_tokens=True) for n in range(len(ids) + 1)]
    holds = [n for n, prefix in enumerate(prefixes) if "äb" in prefix or "€€" in prefix]

    assert endings.size(ids) == (holds[0] if holds else len(ids))
    if not gaps and ids and (not holds or holds[0] == len(ids)):
        assert endings.are_met(torch.tensor([ids])).tolist() == [bool(holds)]


def test_a_stop_token_behind_a_completion_is_not_in_its_text() -> None:
    tokenizer = _byte_tokenizer()
    endings = Endings(tokenizer, {256, tokenizer("b")["input_ids"][0]}, ())

    assert endings.completion([*tokenizer("aab")["input_ids"]]) == "aa"
    assert endings.completion([*tokenizer("aab")["input_ids"], 256]) == "aab"


@pytest.mark.parametrize("text", ["<bos>", "a<eos>"])
def test_a_special_token_is_no_text_that_could_end_a_completion(text: str, tmp_path: Path) -> None:
    config = AssessmentConfig(sampling=_sampling(stop=("a", text)), device="cpu")

    with pytest.raises(ConfigError, match=rf"stop='{text}'.*special token <.os> "):
        TransformersSampler(write_llama(tmp_path), config)


def test_a_stop_token_among_the_strings_ends_completions_as_it_does_anyway(tmp_path: Path) -> None:
    model = write_llama(tmp_path)
    plain, named = _drawn(model), _drawn(model, stop=("<eos>",))

    assert {name: r.completion for name, r in plain.items()} == {
        name: r.completion for name, r in named.items()
    }


@pytest.mark.parametrize("stop", ["", 3, None, [""], [3]])
def test_what_is_no_text_is_refused(stop: Any) -> None:
    with pytest.raises(ConfigError, match="stop"):
        SamplingConfig(stop=stop)


def test_order_and_repeats_of_stop_strings_make_no_other_settings() -> None:
    assert SamplingConfig(stop=["b", "a", "b"]).digest() == SamplingConfig(stop=("a", "b")).digest()
    assert SamplingConfig().digest() != SamplingConfig(stop=("a",)).digest()
    assert SamplingConfig().digest() == SamplingConfig(stop=()).digest()


def _from_endpoint(toy: ToyModel, source: Path | str, **more: Any) -> list[Rollout]:
    with served(toy) as url:
        options = {"base_url": url, "model": "toy", "max_backoff_s": 0.01, "timeout_s": 5.0}
        config = AssessmentConfig(
            sampling=_sampling(**more), backend="openai", backend_options=options
        )
        sampler = OpenAISampler(source, config)
        try:
            return [rollout for group in sampler.sample(PROMPTS) for rollout in group.rollouts]
        finally:
            sampler.close()


def test_a_server_of_vllm_is_asked_to_end_with_them(tmp_path: Path) -> None:
    toy = ToyModel()
    rollouts = _from_endpoint(toy, write_checkpoint(tmp_path, toy), stop=("1", "2"))

    body = toy.bodies[-1]
    assert (body["stop"], body["include_stop_str_in_output"]) == (["1", "2"], True)
    ended = [r for r in rollouts if r.completion.endswith(("1", "2"))]
    assert ended
    for rollout in rollouts:
        assert not {"1", "2"} & set(rollout.completion[:-1])
        assert rollout.finish_reason is FinishReason.STOP or rollout not in ended


def test_an_answer_that_goes_on_behind_a_stop_string_is_refused(tmp_path: Path) -> None:
    toy = ToyModel()
    toy.ends_at_strings = False

    with pytest.raises(SamplerError, match="behind a stop string"):
        _from_endpoint(toy, write_checkpoint(tmp_path, toy), stop=("1", "2"))
