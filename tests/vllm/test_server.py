"""A real vLLM server started by our own command: entropies come in band and are exact."""

import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mlflow_rlrisk.checkpoint import open_checkpoint
from mlflow_rlrisk.config import AssessmentConfig, SamplingConfig
from mlflow_rlrisk.records import Message, Prompt
from mlflow_rlrisk.samplers.endpoint.vllm_server import server_command
from mlflow_rlrisk.samplers.openai import OpenAISampler
from tests.tiny_assessments import QUICK_OPTIONS, start_rlrisk, sums, write_graders
from tests.tiny_models import CHAT_TEMPLATE, character_tokenizer
from tests.vllm.oracle import penalise, reference, write_model

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(600)  # a server needs minutes to start on a busy machine

TOLERANCE = 1e-4
SPARE_WORD = 319
PROMPTS = [Prompt(id=f"p{i}", content="a1+b2=" * (1 + 3 * i)) for i in range(6)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_model(tmp_path_factory.mktemp("model"))
    # The head has 320 words, the tokenizer 300: the last 20 are never sampled on purpose.
    character_tokenizer(vocab_size=300, template=CHAT_TEMPLATE).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def url(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = server_command(
        open_checkpoint(model),
        name="toy/1",
        host="127.0.0.1",
        port=port,
        runner="v1",
        python=None,
        dtype="auto",
        extra=["--max-model-len", "256", "--kv-cache-memory-bytes", str(2**26)],
    )
    log = tmp_path_factory.mktemp("log") / "server.log"
    environment = {**os.environ, **command.environment, "PYTHONPATH": str(ROOT)}
    environment |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    environment |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    with (
        log.open("w") as stream,
        subprocess.Popen(
            command.arguments,
            stdout=stream,
            stderr=stream,
            env=environment,
            cwd=log.parent,
            start_new_session=True,
        ) as server,
    ):
        try:
            _await_ready(f"http://127.0.0.1:{port}/health", server, log)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.terminate()
            try:
                server.wait(30)
            except subprocess.TimeoutExpired:  # its engine and workers would live on
                os.killpg(server.pid, signal.SIGKILL)


def _await_ready(address: str, server: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + 540
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text()[-4000:]
        try:
            with urllib.request.urlopen(address, timeout=5) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"not ready: {log.read_text()[-4000:]}")


def _sampler(source: Path | str, url: str, **given: Any) -> OpenAISampler:
    options = {"base_url": url, "model": "toy/1", **given.pop("options", {})}
    sampling = SamplingConfig(
        **{"num_samples": 8, "max_new_tokens": 40, "temperature": 0.7, **given}
    )
    return OpenAISampler(
        source, AssessmentConfig(sampling=sampling, backend="openai", backend_options=options)
    )


def _answer(sampler: OpenAISampler, prompts: list[Prompt]) -> dict[str, Any]:
    rollouts = [r for group in sampler.sample(prompts) for r in group.rollouts]
    local = sampler._local
    assert local is not None
    return {
        "rollouts": [
            {
                "prompt_id": r.prompt_id,
                "token_ids": r.token_ids.tolist(),
                "logprobs": [] if r.logprobs is None else r.logprobs.tolist(),
                "entropies": [] if r.entropies is None else r.entropies.tolist(),
            }
            for r in rollouts
        ],
        "bounds": [r.entropy_bounds for r in rollouts],
        "prompt_ids": dict(zip([p.id for p in prompts], local.contents(prompts), strict=True)),
    }


def test_entropies_in_band_equal_a_float64_forward_pass(model: Path, url: str) -> None:
    sampler = _sampler(model, url, options={"check_weights": True})
    assert "exact" in sampler.describe()["entropy"]
    assert "serves this checkpoint: " in sampler.describe()["remark"]

    answer = _answer(sampler, PROMPTS)
    sampler.close()

    oracle = reference(model)
    entropy = logprob = 0.0
    num_tokens = 0
    for rollout in answer["rollouts"]:
        # What is sampled from, and therefore measured, lacks the word that carries the entropy.
        entropies, logprobs = _exact(answer, rollout, oracle, 0.7, without=SPARE_WORD)
        entropy = np.maximum(entropy, np.abs(entropies - rollout["entropies"]).max())
        logprob = np.maximum(logprob, np.abs(logprobs - rollout["logprobs"]).max())
        num_tokens += len(rollout["token_ids"])
    print(json.dumps({"tokens": num_tokens, "entropy": entropy, "logprob": logprob}))
    assert num_tokens > 500
    assert entropy <= TOLERANCE
    assert logprob <= TOLERANCE


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_bounds_from_the_same_server_hold_the_exact_entropy(
    model: Path, url: str, temperature: float
) -> None:
    sampler = _sampler(model, url, options={"entropy": "bounds"}, temperature=temperature)
    answer = _answer(sampler, PROMPTS)
    sampler.close()

    oracle = reference(model)
    for rollout, bounds in zip(answer["rollouts"], answer["bounds"], strict=True):
        assert bounds is not None
        assert bounds.estimate is not None
        exact, _ = _exact(answer, rollout, oracle, temperature)
        assert (bounds.lower <= exact + TOLERANCE).all()
        assert (exact <= bounds.upper + TOLERANCE).all()


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_the_server_samples_with_the_penalty_and_tells_logprobs_of_what_that_makes(
    model: Path, url: str, temperature: float
) -> None:
    sampler = _sampler(
        model, url, repetition_penalty=1.6, temperature=temperature, max_new_tokens=16
    )
    described = sampler.describe()
    answer = _answer(sampler, PROMPTS)
    sampler.close()

    assert described["logprobs_mode"] == {"completions": "processed"}
    assert "repetition_penalty=1.6" in described["entropy"]
    oracle = reference(model)
    apart = []
    for rollout, bounds in zip(answer["rollouts"], answer["bounds"], strict=True):
        assert (rollout["entropies"], bounds) == ([], None)
        _, logprobs = _exact(answer, rollout, oracle, temperature, penalty=1.6)
        _, without = _exact(answer, rollout, oracle, temperature)
        assert np.abs(logprobs - rollout["logprobs"]).max() <= TOLERANCE
        apart.append(np.abs(without - rollout["logprobs"]).max())
    assert np.mean(apart) > 0.1


def _exact(
    answer: dict[str, Any],
    rollout: dict[str, Any],
    oracle: Any,
    temperature: float,
    without: int | None = None,
    penalty: float = 1.0,
) -> tuple[Any, Any]:
    """Entropies and logprobs of one rollout by the float64 model."""
    prompt, tokens = answer["prompt_ids"][rollout["prompt_id"]], rollout["token_ids"]
    with torch.no_grad():
        logits = oracle(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
    if without is not None:
        logits[:, without] = -torch.inf
    penalise(logits, prompt, tokens, penalty)
    logs = (logits / temperature).log_softmax(-1)
    chosen = logs.gather(1, torch.tensor(tokens)[:, None])[:, 0]
    return torch.special.entr(logs.exp()).sum(-1).numpy(), chosen.numpy()


def test_the_same_seed_gives_the_same_rollouts_however_they_are_asked_for(
    model: Path, url: str
) -> None:
    found = []
    for together in (1, 8):
        sampler = _sampler(model, url, options={"choices_per_request": together})
        found.append(sorted(tuple(r["token_ids"]) for r in _answer(sampler, PROMPTS)["rollouts"]))
        sampler.close()

    assert found[0] == found[1]
    assert len(set(found[0])) > 40


def test_a_chat_without_files_is_answered_by_the_servers_own_template(url: str) -> None:
    chats = [Prompt(id="c", content=(Message(role="user", content="1+1?"),))]
    sampler = _sampler("endpoint:toy/1", url)

    (group,) = sampler.sample(chats)
    sampler.close()

    for rollout in group.rollouts:
        assert rollout.entropy_bounds is not None
        assert (rollout.token_ids >= 0).all()


def test_rounds_and_the_mismatch_work_over_the_same_server(
    model: Path, url: str, tmp_path: Path
) -> None:
    (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, sums(70))), encoding="utf-8")
    write_graders(tmp_path)
    arguments = [
        *("assess", str(model), "--backend", "openai", "--backend-option", f"base_url={url}"),
        *("--backend-option", "model=toy/1", "--backend-option", "entropy=bounds"),
        *("--prompts", "prompts.jsonl", "--verifier", "graders.py:zero", "--no-preflight"),
        *(*QUICK_OPTIONS, "--budget", "auto", "--mismatch", "--out", "out", "--json"),
    ]

    with start_rlrisk(*arguments, cwd=tmp_path) as process:
        out, err = process.communicate(timeout=290)

    assert process.returncode in (0, 10, 11), err
    report = json.loads(out)
    found = json.loads((tmp_path / "out" / "mismatch.json").read_text(encoding="utf-8"))
    assert report["num_rollouts"] == found["num_rollouts"] == 64 * 4
    assert report["budget"]["is_stopped_early"]
    assert found["metrics"]["sampling/sampling_logp_difference/max"] < TOLERANCE
    assert report["metrics"]["rlrisk/mismatch_k3_kl"]["value"] < 1e-8
