"""What an endpoint's answers mean: ids, texts, logprobs, exact entropies, bounds, estimates."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlflow_rlrisk.config import AssessmentConfig, SamplingConfig
from mlflow_rlrisk.errors import ConfigError, SamplerError
from mlflow_rlrisk.records import Message, Prompt, Rollout
from mlflow_rlrisk.samplers import load_sampler
from mlflow_rlrisk.samplers.endpoint.options import read_options
from mlflow_rlrisk.samplers.openai import OpenAISampler
from tests.samplers.toy_endpoint import ToyModel, served, write_checkpoint
from tests.tiny_models import CHAT_TEMPLATE

PROMPTS = [Prompt(id=f"p{i}", content=f"{i} + {i} = ") for i in range(6)]
CHATS = [Prompt(id=f"c{i}", content=(Message(role="user", content=f"{i}?"),)) for i in range(3)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    return write_checkpoint(folder, ToyModel(), CHAT_TEMPLATE)


def _config(url: str, *, options: dict[str, Any] | None = None, **sampling: Any) -> Any:
    return AssessmentConfig(
        sampling=SamplingConfig(**{"num_samples": 4, "max_new_tokens": 12, **sampling}),
        backend="openai",
        backend_options={
            **{"base_url": url, "model": "toy", "max_backoff_s": 0.01, "timeout_s": 5.0},
            **(options or {}),
        },
    )


@contextmanager
def _sampler(model: ToyModel, source: Path | str, **given: Any) -> Iterator[OpenAISampler]:
    with served(model) as url:
        sampler = OpenAISampler(source, _config(url, **given))
        try:
            yield sampler
        finally:
            sampler.close()


def _rollouts(sampler: OpenAISampler, prompts: list[Prompt] = PROMPTS) -> list[Rollout]:
    return [each for group in sampler.sample(prompts) for each in group.rollouts]


def _exact(model: ToyModel, rollout: Rollout, temperature: float = 1.0) -> Any:
    (prompt,) = [prompt for prompt in PROMPTS if prompt.id == rollout.prompt_id]
    ids = model.tokenizer(prompt.content)["input_ids"]
    return model.entropies(ids, rollout.token_ids.tolist(), temperature)


def test_it_is_found_under_its_name() -> None:
    assert load_sampler("openai") is OpenAISampler


def test_every_prompt_gets_one_whole_group_with_the_logprobs_of_its_tokens(folder: Path) -> None:
    model = ToyModel()
    with _sampler(model, folder) as sampler:
        groups = list(sampler.sample(PROMPTS))

    assert sorted(group.prompt.id for group in groups) == [prompt.id for prompt in PROMPTS]
    for group in groups:
        ids = model.tokenizer(group.prompt.content)["input_ids"]
        assert [rollout.sample_index for rollout in group.rollouts] == [0, 1, 2, 3]
        for rollout in group.rollouts:
            tokens = rollout.token_ids.tolist()
            lasts = [ids[-1], *tokens[:-1]]
            wanted = [model.logprobs(a)[b] for a, b in zip(lasts, tokens, strict=True)]
            np.testing.assert_allclose(rollout.logprobs, wanted, atol=1e-6)
            body = tokens[:-1] if tokens[-1] == model.tokenizer.eos_token_id else tokens
            wanted_text = model.tokenizer.decode(body, skip_special_tokens=True)
            assert rollout.completion == wanted_text


def test_samples_of_a_prompt_differ_and_a_rerun_repeats_them(folder: Path) -> None:
    runs = []
    for concurrency, together in ((1, 1), (7, 1), (3, 4), (2, 3)):
        options = {"concurrency": concurrency, "choices_per_request": together}
        with _sampler(ToyModel(), folder, options=options) as sampler:
            found = {(r.prompt_id, r.sample_index): r.completion for r in _rollouts(sampler)}
        runs.append(found)

    assert all(run == runs[0] for run in runs)
    assert len(set(runs[0].values())) > 20


def test_a_range_of_samples_is_the_same_as_in_the_whole_group(folder: Path) -> None:
    with _sampler(ToyModel(), folder) as sampler:
        whole = {(r.prompt_id, r.sample_index): r.completion for r in _rollouts(sampler)}
        part = [r for g in sampler.sample_range(PROMPTS, range(1, 3)) for r in g.rollouts]

    assert [r.sample_index for r in part] == [1, 2] * len(PROMPTS)
    assert all(whole[r.prompt_id, r.sample_index] == r.completion for r in part)


@pytest.mark.parametrize(("temperature", "mode"), [(1.0, "raw_logprobs"), (0.7, "processed")])
@pytest.mark.parametrize("told", [5, 20])
def test_bounds_hold_the_exact_entropy_and_the_estimate_is_unbiased(
    folder: Path, temperature: float, mode: str, told: int
) -> None:
    model = ToyModel(mode=mode, max_logprobs=told)
    given = {"temperature": temperature, "num_samples": 48, "max_new_tokens": 24}
    with _sampler(model, folder, **given) as sampler:
        rollouts = _rollouts(sampler)

    errors = []
    for rollout in rollouts:
        assert rollout.entropies is None
        known = rollout.entropy_bounds
        exact = _exact(model, rollout, temperature)
        assert known is not None
        assert known.estimate is not None
        assert (known.lower <= exact + 1e-5).all()
        assert (exact <= known.upper + 1e-5).all()
        errors.append(known.estimate - exact)
    flat = np.concatenate(errors)
    assert flat.size > 2000
    if told < 20:
        assert flat.std() > 1e-3  # else there is nothing to be unbiased about
    # Given their past, errors have mean 0: martingale differences, so that their variances add.
    assert abs(flat.mean()) < 4.0 * flat.std() / np.sqrt(flat.size) + 1e-6


@pytest.mark.parametrize("is_vllm", [True, False])
def test_a_sampled_token_that_takes_a_likely_ones_place_biases_nothing(is_vllm: bool) -> None:
    model = ToyModel(max_logprobs=5, is_vllm=is_vllm)
    given = {"num_samples": 48, "max_new_tokens": 24, "chat_template": "always"}
    options = {"vocab_size": model.vocab_size}
    with _sampler(model, "endpoint:toy", options=options, **given) as sampler:
        rollouts = _rollouts(sampler)

    widths, errors = [], []
    for rollout in rollouts:
        known = rollout.entropy_bounds
        assert known is not None
        assert known.estimate is not None
        widths.append(known.upper - known.lower)
        if is_vllm:  # else the ids are not told, and the oracle has nothing to go by
            exact = _exact(model, rollout)
            assert ((known.lower - 1e-5 <= exact) & (exact <= known.upper + 1e-5)).all()
            errors.append(known.estimate - exact)
    assert np.concatenate(widths).mean() < 1.5
    if is_vllm:
        flat = np.concatenate(errors)
        assert abs(flat.mean()) < 4.0 * flat.std() / np.sqrt(flat.size)


def test_entropies_in_band_are_exact(folder: Path) -> None:
    model = ToyModel(has_recorder=True, mode="processed")
    with _sampler(model, folder, temperature=0.7) as sampler:
        rollouts = _rollouts(sampler)
        described = sampler.describe()

    assert "exact" in described["entropy"]
    for rollout in rollouts:
        assert rollout.entropy_bounds is None
        np.testing.assert_allclose(rollout.entropies, _exact(model, rollout, 0.7), atol=3e-5)
        assert rollout.logprobs is not None


def test_exact_entropies_are_not_made_up_where_the_server_has_no_recorder(folder: Path) -> None:
    with pytest.raises(SamplerError, match="rlrisk serve-vllm"), served(ToyModel()) as url:
        OpenAISampler(folder, _config(url, options={"entropy": "exact"}))


@pytest.mark.parametrize(
    "reshaping", [{"top_p": 0.5}, {"top_k": 3}, {"min_p": 0.1}, {"repetition_penalty": 1.1}]
)
def test_exact_entropies_of_a_softmax_that_is_not_sampled_from_are_refused(
    folder: Path, reshaping: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match=next(iter(reshaping))):
        OpenAISampler(folder, _config("http://h/v1", options={"entropy": "exact"}, **reshaping))


@pytest.mark.parametrize(
    ("mode", "sampling", "has_logprobs", "has_bounds", "has_estimate"),
    [
        ("raw_logprobs", {}, True, True, True),
        ("processed", {}, True, True, True),
        ("raw_logprobs", {"temperature": 0.6}, False, False, False),
        ("processed", {"temperature": 0.6}, True, True, True),
        ("raw_logprobs", {"top_p": 0.6}, False, True, False),
        ("processed", {"top_p": 0.6}, True, False, False),
        ("raw_logprobs", {"top_k": 2}, False, True, False),
        ("processed", {"top_k": 2}, True, False, False),
        ("raw_logprobs", {"min_p": 0.3}, False, True, False),
        ("processed", {"min_p": 0.3}, True, False, False),
        ("raw_logprobs", {"repetition_penalty": 1.5}, False, True, False),
        ("processed", {"repetition_penalty": 1.5}, True, False, False),
        ("raw_logprobs", {"repetition_penalty": 1.5, "top_k": 2}, False, True, False),
        ("processed", {"repetition_penalty": 1.5, "top_k": 2}, True, False, False),
        ("raw_logprobs", {"repetition_penalty": 1.5, "temperature": 0.6}, False, False, False),
        ("processed", {"repetition_penalty": 1.5, "temperature": 0.6}, True, False, False),
        ("raw_logprobs", {"temperature": 1.7, "top_p": 0.6}, False, False, False),
        ("processed", {"temperature": 1.7, "top_p": 0.6}, True, False, False),
    ],
)
def test_what_the_logprobs_are_of_is_found_out_and_nothing_else_is_claimed(
    folder: Path,
    mode: str,
    sampling: dict[str, Any],
    has_logprobs: bool,
    has_bounds: bool,
    has_estimate: bool,
) -> None:
    model = ToyModel(mode=mode)
    with _sampler(model, folder, **sampling) as sampler:
        rollouts = _rollouts(sampler)

    for rollout in rollouts:
        bounds = rollout.entropy_bounds
        assert rollout.entropies is None
        assert (rollout.logprobs is not None) == has_logprobs
        assert (bounds is not None) == has_bounds
        if bounds is not None:
            assert (bounds.estimate is not None) == has_estimate
            exact = _exact(model, rollout, sampling.get("temperature", 1.0))
            assert ((bounds.lower - 1e-5 <= exact) & (exact <= bounds.upper + 1e-5)).all()


def test_an_endpoint_without_extensions_is_asked_in_the_common_language(folder: Path) -> None:
    model = ToyModel(is_vllm=False, max_logprobs=5)
    with _sampler(model, folder, max_new_tokens=40) as sampler:
        rollouts = _rollouts(sampler)
        described = sampler.describe()

    assert described["num_top"] == {"completions": 5}
    assert "return_token_ids" not in model.bodies[-1]
    sent = [body["prompt"] for body in model.bodies]
    assert all(model.tokenizer(prompt.content)["input_ids"] in sent for prompt in PROMPTS)
    for rollout in rollouts:
        assert (rollout.token_ids < -1).all()  # names of tokens, never ids of the vocabulary
        assert rollout.entropy_bounds is not None


@pytest.mark.parametrize(
    "cut", [{"top_k": 5}, {"min_p": 0.1}, {"repetition_penalty": 0.9}, {"stop": ("a",)}]
)
def test_what_the_endpoint_does_not_know_is_refused(folder: Path, cut: dict[str, Any]) -> None:
    (name,) = cut
    with pytest.raises(SamplerError, match=name), served(ToyModel(is_vllm=False)) as url:
        OpenAISampler(folder, _config(url, **cut))


def test_without_logprobs_tokens_are_counted_and_nothing_is_said_of_them() -> None:
    model = ToyModel(is_vllm=False, tells_logprobs=False)
    with _sampler(model, "endpoint:toy") as sampler:
        rollouts = _rollouts(sampler)

    assert "not known" in sampler.describe()["entropy"]
    for rollout in rollouts:
        assert (rollout.token_ids == -1).all()
        assert rollout.logprobs is None
        assert rollout.entropy_bounds is None
    assert 1 < np.mean([rollout.token_ids.size for rollout in rollouts]) <= 12


def test_tokens_that_cannot_be_counted_are_an_error() -> None:
    model = ToyModel(is_vllm=False, tells_logprobs=False, tells_usage=False)
    with (
        _sampler(model, "endpoint:toy", options={"max_retries": 1}) as sampler,
        pytest.raises(SamplerError, match="cannot be counted"),
    ):
        _rollouts(sampler)


def test_a_model_known_by_name_only_is_asked_by_the_api_that_a_prompt_needs() -> None:
    model = ToyModel(is_vllm=False)
    with _sampler(model, "endpoint:toy") as sampler:
        groups = list(sampler.sample([*PROMPTS, *CHATS]))
        described = sampler.describe()
        sentence = sampler.template([*PROMPTS, *CHATS])

    assert len(groups) == 9
    assert "name only" in described["remark"]
    assert "endpoint" in described["stored"]
    assert "for 3 chat prompts" in sentence
    assert {"prompt", "messages"} <= {key for body in model.bodies for key in body}


def test_a_prompt_whose_api_is_missing_is_told_with_the_way_out() -> None:
    with (
        _sampler(ToyModel(is_vllm=False, apis=("chat",)), "endpoint:toy") as sampler,
        pytest.raises(SamplerError, match="--chat-template always"),
    ):
        _rollouts(sampler)


def test_chat_prompts_of_a_checkpoint_are_rendered_by_its_own_template(folder: Path) -> None:
    model = ToyModel()
    with _sampler(model, folder) as sampler:
        list(sampler.sample(CHATS))

    rendered = model.tokenizer("<user>0?\n<assistant>", add_special_tokens=False)["input_ids"]
    assert rendered in [body.get("prompt") for body in model.bodies]
    assert "messages" not in model.bodies[-1]


def test_the_key_comes_from_the_environment_and_from_nowhere_else(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with served(ToyModel(key="s3cret")) as url:
        with pytest.raises(SamplerError, match="401"):
            OpenAISampler(folder, _config(url))
        monkeypatch.setenv("OTHER_KEY", "s3cret")
        sampler = OpenAISampler(folder, _config(url, options={"api_key_env": "OTHER_KEY"}))
        assert len(_rollouts(sampler)) == 24
        assert "s3cret" not in repr(sampler.describe())
        sampler.close()
        monkeypatch.setenv("OTHER_KEY", "wr0ng")
        with pytest.raises(SamplerError) as error:
            OpenAISampler(folder, _config(url, options={"api_key_env": "OTHER_KEY"}))
        assert "wr0ng" not in str(error.value)


def test_an_endpoint_that_serves_another_model_is_found_out(folder: Path) -> None:
    with pytest.raises(SamplerError, match="toy is not"), served(ToyModel()) as url:
        OpenAISampler(folder, _config(url, options={"check_weights": True}))


def test_weights_that_cannot_be_compared_are_not_called_checked(folder: Path) -> None:
    options = {"check_weights": True}
    with served(ToyModel(is_vllm=False)) as url:
        with pytest.raises(ConfigError, match="token ids"):
            OpenAISampler(folder, _config(url, options=options))
        with pytest.raises(ConfigError, match="no files"):
            OpenAISampler("endpoint:toy", _config(url, options=options))


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"base_url": "h:8000"}, "base_url"),
        ({"base_url": "http://me:pw@h/v1"}, "base_url"),
        ({"model": ""}, "model"),
        ({"api_key": "x"}, "OPENAI_API_KEY"),
        ({"concurency": 3}, "concurency"),
        ({"concurrency": 0}, "concurrency"),
        ({"entropy": "precise"}, "entropy"),
    ],
)
def test_an_unusable_option_is_named(folder: Path, options: dict[str, Any], fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        OpenAISampler(folder, _config("http://h/v1", options=options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base_ur": "http://host/v1", "model": "toy"}, "backend_option.base_ur=.*unknown"),
        ({"base_url": "http://host/v1"}, "backend_option.model=None: a value is needed"),
        ({"base_url": " ", "model": "toy"}, "backend_option.base_url=None: a value is needed"),
    ],
)
def test_a_misspelt_option_is_named_before_one_that_is_missing(
    options: dict[str, str], message: str
) -> None:
    config = AssessmentConfig(backend="openai", backend_options=options)

    with pytest.raises(ConfigError, match=message):
        read_options(config, "models:/coder-sft/3")
