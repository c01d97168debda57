"""An endpoint that answers a prompt with copies of one answer has measured no group."""

from dataclasses import dataclass
from typing import Any

import pytest

from mlflow_rlrisk.config import AssessmentConfig, SamplingConfig
from mlflow_rlrisk.errors import SamplerError
from mlflow_rlrisk.records import Prompt, Rollout
from mlflow_rlrisk.samplers.openai import OpenAISampler
from tests.samplers.toy_endpoint import ToyModel, served

PROMPTS = [Prompt(id=f"p{i}", content=f"{i} + {i} = ") for i in range(4)]


@dataclass
class CopyingModel(ToyModel):
    """Answers as if some fields of the request were others."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.ignored: dict[str, Any] = {}
        self.copies_choices = False

    def answer(self, api: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = super().answer(api, body | self.ignored)
        if self.copies_choices:
            first = answer["choices"][0]
            answer["choices"] = [{**first, "index": i} for i in range(body["n"])]
        return answer


def sampled(model: ToyModel, **options: Any) -> list[Rollout]:
    with served(model) as url:
        config = AssessmentConfig(
            sampling=SamplingConfig(num_samples=8, max_new_tokens=12),
            backend="openai",
            backend_options={"base_url": url, "model": "toy", "max_retries": 0, **options},
        )
        sampler = OpenAISampler("endpoint:toy", config)
        try:
            return [each for group in sampler.sample(PROMPTS) for each in group.rollouts]
        finally:
            sampler.close()


@pytest.mark.parametrize("ignored", [{"seed": 7}, {"temperature": 0.0}])
def test_answers_that_are_all_the_same_are_refused(ignored: dict[str, Any]) -> None:
    model = CopyingModel()
    model.ignored = ignored

    with pytest.raises(SamplerError, match=r"8 of 8 answers are the same.*chance of e\^-"):
        sampled(model)


def test_choices_that_are_copies_of_one_another_are_refused() -> None:
    model = CopyingModel(scale=1.0)
    model.copies_choices = True

    with pytest.raises(SamplerError, match="4 of 8 answers are the same"):
        sampled(model, choices_per_request=4)


def test_a_model_that_has_collapsed_is_measured_as_it_is() -> None:
    rollouts = sampled(CopyingModel(scale=60.0))

    assert {len({r.completion for r in rollouts if r.prompt_id == p.id}) for p in PROMPTS} == {1}
