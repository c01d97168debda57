"""Values of an RL run's settings: what references, texts and the lengths of runs stand for."""

from typing import Any

import pytest

from mlflow_rlrisk import read_rl_config
from mlflow_rlrisk.rl_config.sources import flat_settings

TRL = {"num_generations": 8, "temperature": 1.0, "max_completion_length": 64}
VERL = {
    "actor_rollout_ref.actor.ppo_mini_batch_size": 8,
    "data.train_batch_size": 32,
    "trainer.total_training_steps": 50,
}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("${there}", 3),
        ("${through}", 3),
        ("${oc.select:there,4}", 3),
        ("${oc.select:none, 4 }", "4"),
        ("${oc.select:none}", None),
        ("${oc.select:none,null}", None),
        ("${none}", "${none}"),
    ],
)
def test_a_reference_stands_for_what_is_there_or_what_it_has_for_else(
    value: str, expected: Any
) -> None:
    settings = {"there": 3, "through": "${there}", "value": value}

    assert flat_settings(settings)["value"] == expected


@pytest.mark.parametrize("options", ['{"top_k": 20}', "{'top_k': 20}", {"top_k": 20}])
def test_options_of_trl_may_be_a_text(options: Any) -> None:
    found = read_rl_config({**TRL, "top_k": 5, "generation_kwargs": options})

    assert found.sampling["top_k"] == 20


@pytest.mark.parametrize(
    ("name", "off"), [("top_p", 1.0), ("top_k", 0), ("min_p", 0.0), ("repetition_penalty", 1.0)]
)
def test_null_switches_a_limit_off_and_leaves_what_has_no_such_value_open(
    name: str, off: float
) -> None:
    found = read_rl_config({**TRL, name: None, "temperature": None})

    assert found.sampling[name] == off
    assert "temperature" not in found.sampling
    assert name not in read_rl_config(TRL).sampling


@pytest.mark.parametrize(("max_steps", "run_steps"), [(1, 1), (0, None), (-1, None), (None, None)])
def test_trl_tells_the_length_of_its_run_by_positive_steps_only(
    max_steps: int | None, run_steps: int | None
) -> None:
    found = read_rl_config({**TRL, "max_steps": max_steps})

    assert found.run.get("run_steps") == run_steps


@pytest.mark.parametrize(
    ("changes", "run_steps"),
    [
        ({}, 200),  # four updates a step
        ({"actor_rollout_ref.actor.ppo_epochs": 2}, 400),
        ({"data.train_batch_size": 2}, 50),  # at least one a step
        ({"trainer.total_training_steps": 1}, 4),
        ({"trainer.total_training_steps": -1}, None),
        ({"trainer.total_training_steps": 0}, None),
        ({"data.train_batch_size": None}, None),
    ],
)
def test_the_length_of_a_run_of_verl_is_steps_times_updates(
    changes: dict[str, Any], run_steps: int | None
) -> None:
    found = read_rl_config({**VERL, **changes})

    assert found.run.get("run_steps") == run_steps
