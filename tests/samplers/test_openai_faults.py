"""An endpoint that returns 429, 500, garbage, half an answer, hangs or dies."""

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlflow_rlrisk import assess
from mlflow_rlrisk.config import AssessmentConfig, SamplingConfig
from mlflow_rlrisk.errors import SamplerError
from mlflow_rlrisk.records import Prompt, RolloutGroup
from mlflow_rlrisk.rollouts.store import RolloutStore
from mlflow_rlrisk.samplers.endpoint.client import EndpointClient
from mlflow_rlrisk.samplers.endpoint.options import EndpointOptions
from mlflow_rlrisk.samplers.openai import OpenAISampler
from tests.samplers.toy_endpoint import ToyModel, served, write_checkpoint
from tests.tiny_assessments import QUICK_OPTIONS, quick, rlrisk, sums, write_graders

PROMPTS = [Prompt(id=f"p{i}", content=f"{i} + {i} = ") for i in range(5)]
PASSING = ["429", "500", "502", "503", "408", "garbage", "nan", "half", "closed", "none", "bare"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("served"), ToyModel())


def _options(url: str, **options: Any) -> dict[str, Any]:
    return {
        **{"base_url": url, "model": "toy", "max_backoff_s": 0.01, "timeout_s": 0.6},
        **{"concurrency": 4, "max_retries": 8},
        **options,
    }


def _sampler(url: str, folder: Path, **options: Any) -> OpenAISampler:
    config = AssessmentConfig(
        sampling=SamplingConfig(num_samples=4, max_new_tokens=8),
        backend="openai",
        backend_options=_options(url, **options),
    )
    return OpenAISampler(folder, config)


def _texts(groups: Iterator[RolloutGroup]) -> dict[tuple[str, int], str]:
    found: dict[tuple[str, int], str] = {}
    for group in groups:
        for rollout in group.rollouts:
            key = (rollout.prompt_id, rollout.sample_index)
            assert key not in found
            found[key] = rollout.completion
    return found


@pytest.fixture(scope="module")
def undisturbed(folder: Path) -> dict[tuple[str, int], str]:
    with served(ToyModel()) as url:
        sampler = _sampler(url, folder)
        found = _texts(sampler.sample(PROMPTS))
        sampler.close()
    return found


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    faults=st.lists(st.sampled_from([*PASSING, "few", ""]), max_size=24).filter(
        lambda faults: not any(faults[i : i + 6].count("") == 0 for i in range(len(faults) - 5))
    ),
    together=st.integers(1, 4),
)
def test_whatever_passes_leaves_the_same_rollouts_none_twice_and_none_lost(
    folder: Path, undisturbed: dict[tuple[str, int], str], faults: list[str], together: int
) -> None:
    model = ToyModel()
    with served(model) as url:
        sampler = _sampler(url, folder, choices_per_request=together)
        model.faults = list(faults)
        try:
            found = _texts(sampler.sample(PROMPTS))
        finally:
            sampler.close()

    assert found == undisturbed


@pytest.mark.parametrize("fault", ["hang", "slow"])
def test_a_request_that_does_not_end_is_given_up_and_asked_again(
    folder: Path, undisturbed: dict[tuple[str, int], str], fault: str
) -> None:
    model = ToyModel()
    with served(model) as url:
        sampler = _sampler(url, folder)
        model.faults = [fault, "", "", fault]
        started = time.monotonic()
        found = _texts(sampler.sample(PROMPTS))
        sampler.close()

    assert found == undisturbed
    assert time.monotonic() - started < 30


def test_the_first_answers_may_fail_too(
    folder: Path, undisturbed: dict[tuple[str, int], str]
) -> None:
    with served(ToyModel(faults=["500", "garbage", "closed"])) as url:
        sampler = _sampler(url, folder)
        assert _texts(sampler.sample(PROMPTS)) == undisturbed
        sampler.close()


def test_an_endpoint_that_dies_leaves_what_was_complete_and_says_how_much_is_missing(
    folder: Path, undisturbed: dict[tuple[str, int], str]
) -> None:
    model = ToyModel()
    found: dict[tuple[str, int], str] = {}
    with served(model) as url:
        sampler = _sampler(url, folder, max_retries=1, concurrency=2)
        groups = sampler.sample(PROMPTS)
        found |= _texts(iter([next(groups), next(groups)]))
        model.is_dead = True
        with pytest.raises(SamplerError, match=r"of 20 rollouts are missing") as error:
            found |= _texts(groups)
        sampler.close()

    assert len(found) >= 8
    assert found.items() <= undisturbed.items()
    missing = int(str(error.value).split()[0])
    assert 0 < missing <= 20 - len(found)


@pytest.mark.parametrize("concurrency", [1, 16])
def test_one_prompt_that_always_fails_costs_no_other_one(folder: Path, concurrency: int) -> None:
    model = ToyModel()
    with served(model) as url:
        sampler = _sampler(url, folder, max_retries=1, concurrency=concurrency)
        model.poison = str(model.tokenizer(PROMPTS[1].content)["input_ids"])
        groups = sampler.sample(PROMPTS)
        found = [next(groups).prompt.id for _ in range(4)]
        with pytest.raises(SamplerError, match=r"4 of 20 rollouts are missing \(1 prompt failed"):
            next(groups)
        sampler.close()

    assert sorted(found) == ["p0", "p2", "p3", "p4"]


def test_a_refusal_is_not_repeated(folder: Path) -> None:
    model = ToyModel()
    with served(model) as url:
        sampler = _sampler(url, folder)
        before = model.num_requests
        model.faults = ["403"] * 100
        with pytest.raises(SamplerError, match=r"20 of 20 rollouts are missing.*HTTP 403"):
            list(sampler.sample(PROMPTS))
        sampler.close()

    assert model.num_requests - before <= 8  # what was in flight, once each


def test_who_stops_listening_does_not_wait_for_requests_that_hang(folder: Path) -> None:
    model = ToyModel()
    with served(model) as url:
        sampler = _sampler(url, folder, timeout_s=30.0)
        groups = sampler.sample(PROMPTS)
        next(groups)
        model.faults = ["hang"] * 100
        started = time.monotonic()
        groups.close()  # type: ignore[attr-defined]
        sampler.close()

        assert time.monotonic() - started < 10


@pytest.mark.parametrize("is_late", [False, True])
def test_a_stopped_call_wakes_up_on_a_socket_that_keeps_its_number(is_late: bool) -> None:
    # Closed, its number could be another file's, on which the call would wait for its timeout.
    client = EndpointClient(EndpointOptions(base_url="http://127.0.0.1:1/v1", model="toy"))
    ours, theirs = socket.socketpair()
    with ours, theirs:
        stream = SimpleNamespace(get_extra_info=lambda name: ours)
        connected = ("connection.connect_tcp.complete", {"return_value": stream})
        if not is_late:
            client._watch(*connected)
        client.stop()
        if is_late:  # it was under way when the others were stopped
            client._watch(*connected)

        ours.settimeout(5.0)
        assert ours.recv(1) == b""
        assert ours.fileno() >= 0
    client.close()


def test_retry_after_is_waited_for(folder: Path) -> None:
    from mlflow_rlrisk.samplers.endpoint.client import _retry_after_s

    assert _retry_after_s({"retry-after": "7"}) == 7.0
    assert _retry_after_s({"retry-after": "-7"}) == 0.0
    assert _retry_after_s({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0.0
    assert _retry_after_s({"retry-after": "Wed, 21 Oct 2065 07:28:00 GMT"}) > 1e6
    assert _retry_after_s({"retry-after": "soon"}) == 0.0
    assert _retry_after_s({}) == 0.0


def test_the_command_fails_with_counts_keeps_its_groups_and_goes_on(
    folder: Path, tmp_path: Path
) -> None:
    model = ToyModel()
    graders = write_graders(tmp_path)
    (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, sums(12))))
    with served(model) as url:
        options = _options(url, concurrency=1, max_retries=0, timeout_s=30.0)
        command = [
            *("assess", str(folder), "--backend", "openai", "--prompts", "prompts.jsonl"),
            *("--verifier", f"{graders}:digit", *QUICK_OPTIONS, "--no-preflight", "--json"),
            *("--out", "out"),
        ]
        for name, value in options.items():
            command += ["--backend-option", f"{name}={value}"]
        # Two probes and 40 of 96 requests are answered, then the endpoint is broken.
        model.faults = [""] * 42 + ["500"] * 1000
        code, out, err = rlrisk(*command, cwd=tmp_path)
        assert code == 1, err
        told = json.loads(out)["error"]
        assert told["code"] == "sampling_failed"
        assert "56 of 96 rollouts are missing" in told["message"]
        stored = RolloutStore(tmp_path / "out").completed_prompt_ids()
        assert len(stored) == 5

        model.faults = []
        model.bodies.clear()
        code, out, err = rlrisk(*command, cwd=tmp_path)

    assert code in (0, 10, 11), err
    report = json.loads(out)
    assert report["num_rollouts"] == 96
    drawn = [body for body in model.bodies if body["temperature"] and "vllm_xargs" not in body]
    assert len(drawn) == 56
    assert report["metrics"]["rlrisk/token_entropy_estimate"]["num_prompts"] == 12
    assert "rlrisk/token_entropy" in report["undefined"]


def test_the_report_says_that_the_entropy_is_an_estimate_and_who_vouches_for_the_model(
    folder: Path, tmp_path: Path
) -> None:
    graders = write_graders(tmp_path)
    with served(ToyModel(stop_bias=5.0)) as url:
        config = quick(backend="openai", backend_options=_options(url))
        report = assess(folder, sums(60), verifier=f"{graders}:digit", config=config)
        named = assess("endpoint:toy", sums(10), verifier=f"{graders}:digit", config=config)

    (entropy,) = [part for part in report.components if part.name == "entropy_abs"]
    assert "estimate" in entropy.measure
    bounds = [report.metrics[f"rlrisk/token_entropy_{end}"].value for end in ("lower", "upper")]
    assert bounds[0] < bounds[1]
    assert report.risk_level != "unknown"
    assert any("declared, not checked" in note for note in report.notes)
    assert any("not exact" in note for note in report.notes)
    assert "checkpoint" in report.provenance.digests
    assert "checkpoint" not in named.provenance.digests
    assert any("known by its name only" in note for note in named.notes)
