"""The repetition penalty: drawn from as transformers' generate does, entropies without it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    RepetitionPenaltyLogitsProcessor,
)

from mlflow_rlrisk.config import AssessmentConfig, SamplingConfig
from mlflow_rlrisk.records import Prompt, Rollout
from mlflow_rlrisk.samplers.repetition_penalty import penalised
from mlflow_rlrisk.samplers.token_choice import TokenChooser
from mlflow_rlrisk.samplers.transformers import TransformersSampler
from tests.tiny_models import write_gpt2, write_llama

TEXTS = ["12+3=", "aaaa bbbb aaaa", "a", "what is 12 + 3, what is it?"]
WRITERS = {"llama": write_llama, "gpt2": write_gpt2}


def _rollouts(folder: Path, **sampling: Any) -> list[tuple[str, Rollout]]:
    settings = SamplingConfig(**{"num_samples": 3, "max_new_tokens": 10, **sampling})
    config = AssessmentConfig(sampling=settings, batch_size=64, device="cpu")
    prompts = [Prompt(id=f"p{i}", content=text) for i, text in enumerate(TEXTS)]
    groups = TransformersSampler(folder, config).sample(prompts)
    return [(str(g.prompt.content), rollout) for g in groups for rollout in g.rollouts]


def _word_by_word(logits: torch.Tensor, seen: list[int], penalty: float) -> torch.Tensor:
    """The definition: once a word, by the sign of its logit."""
    changed = logits.clone()
    for word in set(seen):
        changed[word] = logits[word] / penalty if logits[word] > 0 else logits[word] * penalty
    return changed


@pytest.mark.parametrize("penalty", [0.4, 1.3])
def test_logits_are_changed_as_transformers_changes_them_and_can_be_changed_back(
    penalty: float,
) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn((50, 30), generator=generator)
    logits[:, 3], logits[:, 4] = 0.0, -torch.inf
    seen = torch.randint(0, 30, (50, 12), generator=generator)

    found = penalised(logits, seen, penalty)

    assert torch.equal(found, RepetitionPenaltyLogitsProcessor(penalty)(seen, logits.clone()))
    torch.testing.assert_close(penalised(found, seen, 1 / penalty), logits, rtol=1e-6, atol=0)
    each = penalised(logits, seen, torch.full((50, 1), penalty))
    assert torch.equal(each, found)


@pytest.mark.parametrize("architecture", WRITERS)
@pytest.mark.parametrize(
    "sampling",
    [
        {"repetition_penalty": 1.5},
        {"repetition_penalty": 0.7, "temperature": 0.6},
        {"repetition_penalty": 2.0, "temperature": 1.4, "top_k": 40, "top_p": 0.9, "min_p": 0.02},
    ],
)
def test_every_token_has_the_probability_that_generate_would_draw_it_with(
    tmp_path: Path, architecture: str, sampling: dict[str, Any]
) -> None:
    # Half of the words stop, so that rows leave the batch and others take their places.
    folder = WRITERS[architecture](tmp_path, initializer_range=0.2)
    path = folder / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token_id": [2, *range(50)]}))
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    asked = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, **sampling}

    rollouts = _rollouts(folder, **sampling)

    lengths = set()
    for text, rollout in rollouts:
        ids = tokenizer(text)["input_ids"]
        for place, token in enumerate(rollout.token_ids.tolist()):
            context = torch.tensor([[*ids, *rollout.token_ids[:place].tolist()]])
            given = model.generate(
                context,
                attention_mask=torch.ones_like(context),
                do_sample=True,
                max_new_tokens=1,
                output_scores=True,
                output_logits=True,
                return_dict_in_generate=True,
                pad_token_id=0,
                **asked,
            )
            expected = given.scores[0][0].double().log_softmax(-1)
            plain = (given.logits[0][0].double() / asked["temperature"]).log_softmax(-1)
            assert rollout.logprobs is not None
            assert rollout.entropies is not None
            assert rollout.logprobs[place] == pytest.approx(expected[token].item(), abs=1e-4)
            entropy = -(plain.exp() * plain).sum().item()
            assert rollout.entropies[place] == pytest.approx(entropy, abs=1e-4)
        lengths.add(len(rollout.token_ids))
    assert len(lengths) > 1


def test_prompt_and_completion_are_counted_and_padding_is_not(tmp_path: Path) -> None:
    folder = write_llama(tmp_path, initializer_range=0.2)
    model = AutoModelForCausalLM.from_pretrained(folder).double()
    tokenizer = AutoTokenizer.from_pretrained(folder)

    rollouts = _rollouts(folder, repetition_penalty=1.8)

    counts = 0
    for text, rollout in rollouts:
        ids, tokens = tokenizer(text)["input_ids"], rollout.token_ids.tolist()
        with torch.no_grad():
            logits = model(torch.tensor([[*ids, *tokens]])).logits[0, len(ids) - 1 : -1]
        for place, token in enumerate(tokens):
            seen = [*ids, *tokens[:place]]
            logs = _word_by_word(logits[place], seen, 1.8).log_softmax(-1)
            assert rollout.logprobs is not None
            assert rollout.logprobs[place] == pytest.approx(logs[token].item(), abs=1e-5)
            if 0 not in seen:  # the word that fills short prompts up
                padded = _word_by_word(logits[place], [0, *seen], 1.8).log_softmax(-1)
                counts += abs(float(padded[token] - logs[token])) > 1e-4
    assert counts > 20


@pytest.mark.parametrize("settings", [{}, {"min_p": 0.1}])
def test_the_words_are_drawn_with_their_probabilities(settings: dict[str, float]) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = 1.5 * torch.randn((1, 40), generator=generator)
    seen = [3, 3, 17, 20, 31]
    expected = _word_by_word(logits[0].double(), seen, 1.7).softmax(-1)
    expected[expected < settings.get("min_p", 0.0) * expected.max()] = 0.0
    expected /= expected.sum()
    chooser = TokenChooser(40, SamplingConfig(repetition_penalty=1.7, **settings))  # type: ignore[arg-type]
    draws = torch.from_numpy(np.random.default_rng(0).random(40_000))

    tokens = chooser.choose(
        logits.repeat(40_000, 1), draws, torch.tensor([seen]).repeat(40_000, 1)
    ).tokens

    counts = np.bincount(tokens.numpy(), minlength=40)
    is_kept = expected.numpy() > 0
    assert counts[~is_kept].sum() == 0
    test = stats.chisquare(counts[is_kept], 40_000 * expected.numpy()[is_kept])
    assert test.pvalue > 1e-4


def test_settings_without_a_penalty_are_those_of_before_there_was_one() -> None:
    assert "repetition_penalty" not in SamplingConfig().model_dump()
    assert SamplingConfig(repetition_penalty=1.0).digest() == SamplingConfig().digest()
    assert SamplingConfig(repetition_penalty=1.1).digest() != SamplingConfig().digest()
    assert SamplingConfig(**SamplingConfig(repetition_penalty=1.1).model_dump()).reshaping == (
        "repetition_penalty=1.1"
    )
