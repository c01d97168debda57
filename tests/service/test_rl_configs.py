"""RL runs that the operator names by their settings: what is drawn as they do, and what is not."""

import json
from pathlib import Path
from typing import Any

import pytest

from mlflow_rlrisk import ConfigError, LookaheadConfig, read_rl_config
from service.settings import TriggerSettings, load_settings
from service.triggering.triggers import load_triggers
from tests.service.running_service import write_settings
from tests.service.test_lookaheads import RUN, body, browser, settings_of, table

GRPO = {
    **{"num_generations": 4, "temperature": 0.8, "max_completion_length": 24, "top_p": 0.9},
    **{"learning_rate": 2e-6, "max_steps": 300, "loss_type": "grpo"},
}
"""Settings of TRL's trainer, as its YAML has them."""


def with_runs(folder: Path, runs: dict[str, dict[str, Any]], **more: Any) -> Any:
    for name, content in runs.items():
        (folder / f"{name}.yaml").write_text(json.dumps(content))
    return settings_of(folder, rl_configs={name: f"{name}.yaml" for name in runs}, **more)


def test_a_request_is_drawn_as_the_run_that_it_names(tmp_path: Path) -> None:
    settings = with_runs(tmp_path, {"maths": GRPO})
    jobs = table(settings)
    client = browser(settings, jobs)

    taken = client.post("/v1/assessments", json=body(rl_config="maths"))
    refused = client.post("/v1/assessments", json=body(rl_config="grpo.yaml"))

    assert (taken.status_code, taken.json["rl_config"]) == (202, "maths")
    row = jobs.find(taken.json["id"])
    assert row is not None
    drawn = row.request["sampling"]
    assert (row.request["group_size"], drawn["temperature"], drawn["top_p"]) == (4, 0.8, 0.9)
    assert drawn["max_new_tokens"] == 24
    assert drawn["num_samples"] == 4  # the operator's, of which the run says nothing
    assert refused.status_code == 422
    fault = {"pointer": "/rl_config", "code": "unknown_name", "message": "known: ['maths']"}
    assert refused.get_json(force=True)["errors"] == [fault]


def test_what_the_body_says_counts_more_than_the_run(tmp_path: Path) -> None:
    settings = with_runs(tmp_path, {"maths": GRPO})
    jobs = table(settings)
    asked = body(rl_config="maths", group_size=2, sampling={"temperature": 0.5, "num_samples": 6})

    taken = browser(settings, jobs).post("/v1/assessments", json=asked)

    row = jobs.find(taken.json["id"])
    assert row is not None
    drawn = row.request["sampling"]
    assert (row.request["group_size"], drawn["temperature"], drawn["num_samples"]) == (2, 0.5, 6)
    assert drawn["max_new_tokens"] == 24


def test_a_run_that_is_no_longer_as_it_was_changes_no_accepted_assessment(tmp_path: Path) -> None:
    settings = with_runs(tmp_path, {"maths": GRPO})
    jobs = table(settings)
    client = browser(settings, jobs)
    taken = client.post("/v1/assessments", json=body(rl_config="maths"))

    (tmp_path / "maths.yaml").write_text(json.dumps({**GRPO, "temperature": 0.3}))
    later = client.post("/v1/assessments", json=body(rl_config="maths"))

    temperatures = []
    for answer in (taken, later):
        row = jobs.find(answer.json["id"])
        assert row is not None
        temperatures.append(row.request["sampling"]["temperature"])
    assert temperatures == [0.8, 0.3]


def test_the_first_updates_of_a_run_are_those_of_its_settings(tmp_path: Path) -> None:
    settings = with_runs(tmp_path, {"maths": GRPO, "grpo": GRPO})
    client = browser(settings, table(settings))

    taken = client.post("/v1/assessments", json=body(rl_config="maths", lookahead="maths"))

    assert (taken.status_code, taken.json["lookahead"]) == (202, "maths")
    run = settings.lookahead("maths")
    assert run == read_rl_config(GRPO).lookahead_config()
    assert isinstance(run, LookaheadConfig)
    assert (run.learning_rate, run.run_steps) == (2e-6, 300)
    assert settings.lookahead("grpo") == RUN  # one of `lookaheads` counts more


@pytest.mark.parametrize(
    ("lacks", "asked", "pointer", "named"),
    [
        ("max_completion_length", {}, "/rl_config", "max_new_tokens"),
        ("max_steps", {"lookahead": "maths"}, "/lookahead", "run_steps"),
    ],
)
def test_what_the_settings_lack_is_told_without_the_operators_path(
    tmp_path: Path, lacks: str, asked: dict[str, Any], pointer: str, named: str
) -> None:
    known = {name: value for name, value in GRPO.items() if name != lacks}
    settings = with_runs(tmp_path, {"maths": known}, assessment={"sampling": {"num_samples": 4}})
    client = browser(settings, table(settings))

    refused = client.post("/v1/assessments", json=body(rl_config="maths", **asked))

    assert refused.status_code == 422
    (fault,) = refused.get_json(force=True)["errors"]
    assert (fault["pointer"], fault["code"]) == (pointer, "unusable")
    assert named in fault["message"]
    assert str(tmp_path) not in refused.get_data(as_text=True)


def test_a_file_that_is_no_rl_runs_settings_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="rl_config"):
        with_runs(tmp_path, {"maths": {"epochs": 3}})
    path = write_settings(tmp_path, "sqlite:///x.db", rl_configs={"gone": "gone.yaml"})
    with pytest.raises(ConfigError, match=r"rl_config.*gone\.yaml"):
        load_settings(path)


def test_a_trigger_asks_as_a_caller_does(tmp_path: Path) -> None:
    settings = with_runs(tmp_path, {"maths": GRPO})
    named = {"models": ("*",), "prompt_set": "heldout", "verifier": "chains"}
    trigger = TriggerSettings(**named, rl_config="maths", lookahead="maths")

    (loaded,) = load_triggers(settings.model_copy(update={"triggers": {"new": trigger}}))

    assert loaded.request["rl_config"] == loaded.request["lookahead"] == "maths"
    assert loaded.request["sampling"]["temperature"] == 0.8
    assert loaded.request["group_size"] == 4


def test_a_key_is_of_one_run(tmp_path: Path) -> None:
    settings = with_runs(tmp_path, {"maths": GRPO})
    client = browser(settings, table(settings))
    headers = {"Idempotency-Key": "k"}

    first = client.post("/v1/assessments", json=body(rl_config="maths"), headers=headers)
    again = client.post("/v1/assessments", json=body(rl_config="maths"), headers=headers)
    other = client.post("/v1/assessments", json=body(), headers=headers)

    assert first.json["id"] == again.json["id"]
    assert (first.status_code, other.status_code) == (202, 409)
