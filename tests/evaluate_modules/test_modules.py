import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlflow_rlrisk import statistics
from mlflow_rlrisk.errors import ConfigError
from mlflow_rlrisk.evaluate_modules import MODULES, evaluate_path

pytest.importorskip("evaluate")
RNG = np.random.Generator(np.random.PCG64(7))
SIZES = [8, 8, 12, 16, 9, 10]
BINARY = [
    (RNG.random(size) < rate).astype(float).tolist()
    for size, rate in zip(SIZES, RNG.random(6), strict=True)
]
OTHER = [(RNG.random(size) < 0.5).astype(float).tolist() for size in SIZES]
VALUED = [RNG.choice([0.0, 0.1, 1.0], size=size).tolist() for size in SIZES]
ENTROPIES = [RNG.random(size).tolist() for size in SIZES]
LOGITS = [RNG.normal(size=(size, 11)).tolist() for size in SIZES]
INDEX = [0, 0, 1, 2, 2, 2]
SCORES = RNG.random((2, 7)).tolist()

CASES: list[tuple[str, dict[str, Any]]] = [
    ("rlrisk_pass_at_k", {"predictions": BINARY, "k": [1, 2, 8]}),
    ("rlrisk_pass_at_k", {"predictions": VALUED, "k": 4, "threshold": 0.1}),
    ("rlrisk_pass_at_k", {"predictions": BINARY, "k": 9}),
    ("rlrisk_pass_at_k", {"predictions": VALUED}),
    ("rlrisk_group_signal", {"predictions": BINARY, "group_size": 8}),
    ("rlrisk_group_signal", {"predictions": VALUED, "group_size": 4}),
    ("rlrisk_token_entropy", {"data": ENTROPIES, "prompt_index": INDEX}),
    ("rlrisk_token_entropy", {"data": LOGITS, "temperature": 0.7}),
    ("rlrisk_rank_inversion", {"predictions1": BINARY, "predictions2": OTHER, "k": 4}),
    ("rlrisk_rank_inversion", {"predictions1": SCORES[0], "predictions2": SCORES[1]}),
]
UNUSABLE: list[tuple[str, dict[str, Any], str]] = [
    ("rlrisk_pass_at_k", {"predictions": [[math.nan, 0.0]], "threshold": 0.5}, "StatisticsError"),
    ("rlrisk_pass_at_k", {"predictions": [[math.inf, 0.0]], "threshold": 0.5}, "StatisticsError"),
    ("rlrisk_pass_at_k", {"predictions": [[None, 0.0]], "threshold": 0.5}, "StatisticsError"),
    ("rlrisk_pass_at_k", {"predictions": BINARY, "threshold": math.nan}, "ConfigError"),
    ("rlrisk_pass_at_k", {"predictions": BINARY, "threshold": "1"}, "ConfigError"),
    ("rlrisk_pass_at_k", {"predictions": BINARY, "k": []}, "ConfigError"),
    ("rlrisk_pass_at_k", {"predictions": BINARY, "k": None}, "ConfigError"),
    ("rlrisk_group_signal", {"predictions": [[None, 1.0]], "group_size": 2}, "StatisticsError"),
    ("rlrisk_group_signal", {"predictions": [[-1e308, 1e308]], "group_size": 2}, "StatisticsError"),
    ("rlrisk_rank_inversion", {"predictions1": [None], "predictions2": [1.0]}, "StatisticsError"),
    ("rlrisk_token_entropy", {"data": [[[1.0, 2.0]], [[1.0, 2.0, 3.0]]]}, "StatisticsError"),
    ("rlrisk_token_entropy", {"data": [[None, 1.0]]}, "StatisticsError"),
    # Logprobs of sampled tokens as [T, 1]: a vocabulary of one word has entropy 0.
    ("rlrisk_token_entropy", {"data": [[[-1.5], [-0.2]]]}, "StatisticsError"),
    ("rlrisk_token_entropy", {"data": ENTROPIES, "temperature": 0.0}, "ConfigError"),
    ("rlrisk_token_entropy", {"data": ENTROPIES, "temperature": math.nan}, "ConfigError"),
    ("rlrisk_token_entropy", {"data": LOGITS, "temperature": "1"}, "ConfigError"),
    ("rlrisk_rank_inversion", dict(predictions1=[1.0], predictions2=[2.0], k=2), "ConfigError"),
]


@pytest.fixture(scope="module")
def computed(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What the modules give in a process that cannot open a connection."""
    home = tmp_path_factory.mktemp("hf")
    script = Path(__file__).parent / "offline.py"
    done = subprocess.run(
        [sys.executable, str(script)],
        input=json.dumps([*CASES, *[(name, given) for name, given, _ in UNUSABLE]]),
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        env={**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    values: list[dict[str, Any]] = json.loads(done.stdout)
    return values


def same(value: float) -> Any:
    return pytest.approx(value, abs=1e-12, rel=0)


def counts(rewards: list[list[float]], line: float = 1.0) -> tuple[Any, Any]:
    return (
        np.array([sum(r >= line for r in each) for each in rewards]),
        np.array([len(each) for each in rewards]),
    )


def test_pass_at_k_is_that_of_statistics(computed: list[dict[str, Any]]) -> None:
    for k in (1, 2, 8):
        expected = statistics.pass_at_k(*counts(BINARY), k).mean()
        assert computed[0][f"pass_at_{k}"] == same(expected)
    assert computed[1]["pass_at_4"] == same(statistics.pass_at_k(*counts(VALUED, 0.1), 4).mean())


def test_what_is_undefined_raises_and_is_not_left_out(computed: list[dict[str, Any]]) -> None:
    assert computed[2] == {"error": "InsufficientRolloutsError"}
    assert computed[3] == {"error": "StatisticsError"}


def test_rewards_and_settings_that_are_no_numbers_give_no_estimate(
    computed: list[dict[str, Any]],
) -> None:
    # NaN is at least no threshold: it would count as a wrong answer, and a threshold of NaN as
    # a checkpoint that solves nothing.
    found = zip(UNUSABLE, computed[len(CASES) :], strict=True)

    assert {i: r for i, (case, r) in enumerate(found) if r != {"error": case[2]}} == {}


def test_group_signal_is_that_of_statistics(computed: list[dict[str, Any]]) -> None:
    correct, scored = counts(BINARY)
    found, valued = computed[4], computed[5]

    signal = statistics.group_signal(correct, scored, 8).mean()
    assert found["group_signal_fraction"] == same(signal)
    assert found["frac_reward_zero_std"] == same(1 - signal)
    for name in ("frac_all_correct", "frac_all_wrong", "expected_group_variance"):
        assert found[name] == same(getattr(statistics, name)(correct, scored, 8).mean())
    assert found["headroom"] == same((correct / scored).mean() / statistics.critical_success(8))
    assert valued["group_signal_fraction"] == same(
        statistics.group_signal_from_values(VALUED, 4).mean()
    )
    assert valued["expected_group_variance"] == same(statistics.reward_variance(VALUED, 4).mean())
    assert "frac_all_correct" not in valued


def test_token_entropy_is_that_of_statistics(computed: list[dict[str, Any]]) -> None:
    known, exact = computed[6], computed[7]
    entropies = [statistics.entropy_from_logits(each, 0.7) for each in LOGITS]

    assert known["token_entropy"] == same(statistics.prompt_mean(ENTROPIES, INDEX))
    assert known["token_entropy_token_mean"] == same(statistics.token_mean(ENTROPIES))
    assert known["token_entropy_seq_mean"] == same(statistics.sequence_mean(ENTROPIES))
    assert exact["token_entropy"] == same(statistics.sequence_mean(entropies))
    assert exact["token_entropy_token_mean"] == same(statistics.token_mean(entropies))


def test_rank_inversion_is_that_of_statistics(computed: list[dict[str, Any]]) -> None:
    found, measures = computed[8], computed[9]
    columns = [
        statistics.pass_at_k(*counts(BINARY), k) - statistics.pass_at_k(*counts(OTHER), k)
        for k in (1, 4)
    ]
    draws = statistics.PromptBootstrap(6, 2000, 0).means(np.stack(columns, axis=1))

    assert found["pass_at_1_difference"] == same(columns[0].mean())
    assert found["pass_at_4_difference"] == same(columns[1].mean())
    assert found["is_inverted"] is bool(columns[0].mean() * columns[1].mean() < 0)
    assert found["probability_inverted"] == same((draws.prod(axis=1) < 0).mean())
    pairs = statistics.pair_counts(*SCORES)
    assert measures["inversion_rate"] == same(pairs.inversion_rate)
    assert measures["spearman"] == same(statistics.spearman(*SCORES))
    assert measures["kendall_tau_b"] == same(statistics.kendall_tau_b(*SCORES))


def test_two_checkpoints_that_change_places_are_inverted() -> None:
    import evaluate

    module = evaluate.load(evaluate_path("rlrisk_rank_inversion"), keep_in_memory=True)
    sure = [[1.0] * 4, [0.0] * 4] * 10  # pass@1 .5, pass@4 .5
    broad = [[1.0, 0.0, 0.0, 0.0]] * 20  # pass@1 .25, pass@4 1

    found = module.compute(predictions1=sure, predictions2=broad, k=4)

    assert found["is_inverted"]
    assert found["probability_inverted"] > 0.9
    assert (found["pass_at_1_first"], found["pass_at_4_second"]) == (0.5, 1.0)


def test_every_module_has_a_folder_of_its_name() -> None:
    for name in MODULES:
        assert (Path(evaluate_path(name)) / f"{name}.py").is_file()
    with pytest.raises(ConfigError, match="no module of that name"):
        evaluate_path("rlrisk_nothing")
