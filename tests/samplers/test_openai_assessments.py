"""Whole assessments over an endpoint: in rounds, and held against the trainer's forward pass."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from transformers import AutoModelForCausalLM

from mlflow_rlrisk import assess
from mlflow_rlrisk.assessment.rescored import open_rollouts
from mlflow_rlrisk.commands.assessment import assess as assess_command
from mlflow_rlrisk.errors import ComparabilityError
from mlflow_rlrisk.report import RiskReport
from tests.samplers.toy_endpoint import ToyModel, served, write_checkpoint
from tests.tiny_assessments import QUICK_OPTIONS, quick, sums, write_graders

TEMPERATURE = 0.7


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("served"), ToyModel())


def _options(url: str, **more: Any) -> dict[str, Any]:
    return {"base_url": url, "model": "toy", "timeout_s": 30.0, **more}


def _num_asked(model: ToyModel) -> int:
    """Rollouts that were asked for; probes have fewer or another temperature."""
    return sum(body["n"] for body in model.bodies if body["n"] == 4)


def test_sampling_in_rounds_stops_early_and_a_fixed_budget_asks_for_the_rest_alone(
    checkpoint: Path, tmp_path: Path
) -> None:
    grader = f"{write_graders(tmp_path)}:zero"
    model = ToyModel(stop_bias=5.0)  # answers end, so that they can be judged
    asked = []

    def run(folder: str, budget: Any) -> RiskReport:
        with served(model) as url:
            options = _options(url, choices_per_request=4)
            config = quick(backend="openai", backend_options=options, budget=budget)
            report = assess(
                checkpoint,
                sums(80),
                verifier=grader,
                config=config,
                out_dir=tmp_path / folder,
                run_preflight=False,
            )
        asked.append(_num_asked(model))
        model.bodies.clear()
        return report

    # The address of the server, which is another each time, does not make other rollouts.
    stopped, whole, anew = run("out", "auto"), run("out", "fixed"), run("anew", "fixed")

    assert stopped.budget is not None
    assert stopped.budget.is_stopped_early
    assert asked == [64 * 4, 80 * 8 - 64 * 4, 80 * 8]
    assert stopped.num_rollouts == 64 * 4
    assert stopped.risk_level == whole.risk_level == "high"
    assert whole.metrics == anew.metrics


def _assess(
    checkpoint: Path, home: Path, model: ToyModel, *arguments: str, temperature: float
) -> Any:
    (home / "prompts.jsonl").write_text("\n".join(map(json.dumps, sums(12))), encoding="utf-8")
    with served(model) as url:
        command = [
            *(str(checkpoint), "--mismatch", "--backend", "openai", "--no-preflight"),
            *("--prompts", str(home / "prompts.jsonl"), "--verifier", "numeric"),
            *("--temperature", str(temperature), "--out", str(home / "out"), "--json"),
            *(*QUICK_OPTIONS, *arguments),
        ]
        for name, value in _options(url, choices_per_request=4).items():
            command += ["--backend-option", f"{name}={value}"]
        return CliRunner().invoke(assess_command, command, standalone_mode=False)


def test_the_mismatch_of_an_endpoint_is_that_of_its_logprobs_and_a_float64_forward_pass(
    checkpoint: Path, tmp_path: Path
) -> None:
    served_model = ToyModel(mode="processed_logprobs")  # a table, and no forward pass of these

    result = _assess(checkpoint, tmp_path, served_model, temperature=TEMPERATURE)

    assert result.exception is None, result.output
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    found = json.loads((tmp_path / "out" / "mismatch.json").read_text(encoding="utf-8"))
    policy = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float64).eval()
    differences = []
    for group in open_rollouts(tmp_path / "out", None).groups:
        prompt = served_model.tokenizer(group.prompt.content)["input_ids"]
        for rollout in group.rollouts:
            tokens = rollout.token_ids.tolist()
            with torch.no_grad():
                logits = policy(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
            logs = (logits / TEMPERATURE).log_softmax(-1).numpy()
            for last, token, trainer in zip([prompt[-1], *tokens], tokens, logs, strict=False):
                differences.append(trainer[token] - served_model.logprobs(last, TEMPERATURE)[token])
    apart = np.array(differences)
    assert found["num_rollouts"] == 12 * 8
    assert found["metrics"]["rollout_corr/kl"] == pytest.approx(-apart.mean(), abs=1e-5)
    k3 = (np.exp(apart) - apart - 1.0).mean()
    assert found["metrics"]["rollout_corr/k3_kl"] == pytest.approx(k3, rel=1e-4)
    name = "rlrisk/mismatch_k3_kl"
    assert report["metrics"][name]["value"] == found[name]["value"]
    assert any("declared, not checked" in note for note in found["notes"])


@pytest.mark.parametrize(
    ("model", "arguments", "reason"),
    [
        (ToyModel(mode="raw_logprobs"), [], "processed_logprobs"),
        (ToyModel(tells_logprobs=False), [], "does not tell the logprobs"),
        (ToyModel(mode="processed_logprobs", is_vllm=False), [], "does not tell token ids"),
        (ToyModel(mode="processed_logprobs"), ["--top-p", "0.9"], "with top_p=0.9: "),
        (
            ToyModel(mode="processed_logprobs"),
            ["--repetition-penalty", "1.1"],
            "with repetition_penalty=1.1: ",
        ),
    ],
)
def test_what_cannot_be_held_against_a_forward_pass_is_refused_before_sampling(
    checkpoint: Path, tmp_path: Path, model: ToyModel, arguments: list[str], reason: str
) -> None:
    result = _assess(checkpoint, tmp_path, model, *arguments, temperature=TEMPERATURE)

    assert isinstance(result.exception, ComparabilityError), result.output
    assert reason in str(result.exception)
    assert _num_asked(model) == 0
    assert not (tmp_path / "out").exists()
