"""Each trainer's log in its own format gives the alarms that its run deserves.

Every log tells the same run: entropy to a third between steps 10 and 60, most groups dead from
step 50 on, success from .5 down to .04, evaluation metrics of a perfect run beside it.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from mlflow_rlrisk.cli import cli
from mlflow_rlrisk.errors import ConfigError
from mlflow_rlrisk.monitor.trainers import ADAPTERS, adapter_name, detect, hint

STEPS = range(1, 101)


def entropy(step: int) -> float:
    return float(np.interp(step, [10, 60], [0.30, 0.10]))


def dead(step: int) -> float:
    return 0.25 if step < 50 else 0.75


def success(step: int) -> float:
    return float(np.interp(step, [10, 80], [0.5, 0.04]))


def trl(step: int) -> dict[str, Any]:
    return {
        "loss": 0.01,
        "grad_norm": 0.4,
        "reward": success(step),
        "reward_std": float(np.sqrt(success(step) * (1 - success(step)))),
        "rewards/accuracy_reward/mean": success(step),
        "frac_reward_zero_std": dead(step),
        "entropy": entropy(step),
        "completions/mean_length": 210.0,
        "completions/clipped_ratio": 0.02,
        "sampling/importance_sampling_ratio/mean": 1.01,
        "epoch": step / 100,
        "step": step,
    }


def verl(step: int) -> dict[str, Any]:
    data = {
        "actor/entropy": entropy(step),
        "actor/grad_norm": 0.2,
        "actor/ppo_kl": 0.001,
        "critic/score/mean": success(step),
        "critic/rewards/mean": success(step),
        "response_length/mean": 800.0,
        "response_length/clip_ratio": 0.01,
        "rollout_corr/kl": 0.001,
        "rollout_corr/rollout_is_mean": 1.0,
        "val-core/gsm8k/reward/mean@4": 1.0,
        "training/global_step": step,
    }
    return {"step": step, "data": data}


def prime_rl(step: int) -> dict[str, Any]:
    return {
        "step": step,
        "entropy/all/mean": entropy(step),
        "reward/all/mean": success(step),
        "solved_none": dead(step) * 0.9,
        "solved_all": dead(step) * 0.1,
        "solved_some": 1 - dead(step),
        "optim/grad_norm": 0.3,
        "mismatch_kl/all/mean": 0.002,
        "is_truncated/all/mean": 0.0,
        "eval/aime/avg@8": 1.0,
    }


def nemo_rl(step: int) -> dict[str, Any]:
    return {
        "step": step,
        "train/approx_entropy": entropy(step),
        "train/reward": success(step),
        "train/baseline_reward/pct_0": 100 * dead(step) * 0.9,
        "train/baseline_reward/pct_1": 100 * dead(step) * 0.1,
        "train/baseline_reward/pct_mixed": 100 * (1 - dead(step)),
        "train/grad_norm": 0.3,
        "train/token_mult_prob_error": 1.01,
        "validation/accuracy": 1.0,
    }


def slime(step: int) -> dict[str, Any]:
    return {
        "rollout/step": step,
        "rollout/entropy": entropy(step),
        "rollout/raw_reward": success(step),
        "train/grad_norm": 0.3,
        "train/train_rollout_logprob_abs_diff": 0.01,
        "eval/aime": 1.0,
    }


def skyrl(step: int) -> dict[str, Any]:
    return {
        "trainer/global_step": step,
        "policy/policy_entropy": entropy(step),
        "reward/avg_raw_reward": success(step),
        "policy/raw_grad_norm": 0.3,
        "generate/avg_num_tokens": 500.0,
        "eval/all/pass_at_1": 1.0,
    }


def rllm(step: int) -> dict[str, Any]:
    groups = 64
    return {
        "training/global_step": step,
        "actor/entropy": entropy(step),
        "critic/score/mean": success(step),
        "actor/grad_norm": 0.3,
        "batch/solve_none": int(groups * dead(step)) - 4,
        "batch/solve_all": 4,
        "batch/solve_partial": groups - int(groups * dead(step)),
        "val/test_score/math": 1.0,
    }


def tinker(step: int) -> dict[str, Any]:
    return {
        "step": step,
        "progress/batch": step,
        "optim/entropy": entropy(step),
        "env/all/reward/total": success(step) - 0.1,
        "env/all/correct": success(step),
        "env/all/by_group/frac_mixed": 1 - dead(step),
        "env/all/by_group/frac_all_good": 0.05,
        "env/all/by_group/frac_all_bad": dead(step) - 0.05,
        "optim/kl_sample_train_v1": 0.001,
        "test/env/all/correct": 1.0,
    }


def ms_swift(step: int) -> dict[str, Any]:
    row = trl(step)
    del row["step"], row["entropy"], row["sampling/importance_sampling_ratio/mean"]
    return {
        **{name: str(value) for name, value in row.items()},
        "entropy/mean": entropy(step),
        "entropy/max": 3.0,
        "global_step/max_steps": f"{step}/100",
        "percentage": f"{step}.00%",
        "elapsed_time": "1m 2s",
    }


WITH_SHARE = ["R1", "R3", "R4"]
CASES: dict[str, tuple[Callable[[int], dict[str, Any]], list[str]]] = {
    "trl": (trl, WITH_SHARE),
    "verl": (verl, ["R1", "R3"]),
    "prime-rl": (prime_rl, WITH_SHARE),
    "nemo-rl": (nemo_rl, WITH_SHARE),
    "slime": (slime, ["R1", "R3"]),
    "skyrl": (skyrl, ["R1", "R3"]),
    "rllm": (rllm, WITH_SHARE),
    "tinker": (tinker, WITH_SHARE),
    "ms-swift": (ms_swift, WITH_SHARE),
}


def judged(path: Path, *options: str) -> dict[str, Any]:
    result = CliRunner().invoke(
        cli, ["monitor", "--file", str(path), "--json", *options], standalone_mode=False
    )
    assert result.exception is None, result.exception
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


def check(answer: dict[str, Any], name: str, rules: list[str]) -> None:
    first = {alarm["rule"]: alarm["step"] for alarm in reversed(answer["alarms"])}
    assert answer["trainer"] == name
    assert sorted(first) == rules
    assert 35 < first["R1"] < 60
    if "R4" in rules:
        assert first["R4"] == 50
    else:
        assert "R4" in {each["rule"] for each in answer["missing"]}


@pytest.mark.parametrize("name", CASES)
def test_a_log_in_the_trainers_own_format_is_judged(name: str, tmp_path: Path) -> None:
    make, rules = CASES[name]
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(make(step)) + "\n" for step in STEPS))

    check(judged(path), name, rules)
    check(judged(path, "--trainer", name), name, rules)


def test_verls_mismatch_is_read_under_the_names_of_its_version_0_6(tmp_path: Path) -> None:
    def older(step: int) -> dict[str, Any]:
        row = verl(step)
        data = {n: v for n, v in row["data"].items() if not n.startswith("rollout_corr/")}
        known = {"mismatch/rollout_is_mean": 2.5, "mismatch/mismatch_kl": 0.001}
        return {**row, "data": {**data, **known}}

    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(older(step)) + "\n" for step in STEPS))

    answer = judged(path)

    assert answer["trainer"] == "verl"
    assert "R7" in {alarm["rule"] for alarm in answer["alarms"]}


def test_trls_trainer_state_is_judged_with_evaluations_in_between(tmp_path: Path) -> None:
    history = []
    for step in STEPS:
        history.append(trl(step))
        if step % 10 == 0:
            ideal = {"eval_reward": 1.0, "eval_entropy": 2.0, "eval_frac_reward_zero_std": 0.0}
            history.append({**ideal, "epoch": step / 100, "step": step})
    history.append({"train_runtime": 10.0, "train_loss": 0.0, "step": 100})
    folder = tmp_path / "checkpoint-100"
    folder.mkdir()
    (folder / "trainer_state.json").write_text(json.dumps({"log_history": history}))

    check(judged(folder), "trl", WITH_SHARE)
    check(judged(folder / "trainer_state.json"), "trl", WITH_SHARE)


def test_openrlhfs_tensorboard_folder_is_judged(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path / "ppo_0101")) as writer:
        for step in STEPS:
            scalars = {
                "train/entropy_loss": entropy(step),
                "train/reward": success(step),
                "train/dynamic_filtering_pass_rate": 100 * (1 - dead(step)),
                "train/actor_grad_norm": 0.3,
                "train/response_length": 400.0,
                "eval/default_pass1": 1.0,
            }
            for tag, value in scalars.items():
                writer.add_scalar(tag, value, step)

    check(judged(tmp_path), "openrlhf", WITH_SHARE)
    (events,) = tmp_path.rglob("events.out.*")
    check(judged(events), "openrlhf", WITH_SHARE)


def test_a_csv_export_is_judged(tmp_path: Path) -> None:
    path = tmp_path / "export.csv"
    names = ["reward", "entropy", "frac_reward_zero_std"]
    lines = [",".join(["Step", *(f"my-run - train/{name}" for name in names)])]
    lines += [",".join([str(step), *(str(trl(step)[name]) for name in names)]) for step in STEPS]
    path.write_text("\n".join(lines))

    check(judged(path), "trl", WITH_SHARE)


def test_all_ten_trainers_are_known_and_say_what_their_entropy_is() -> None:
    assert set(ADAPTERS) == {*CASES, "openrlhf"}
    comparable = {name for name, adapter in ADAPTERS.items() if adapter.entropy.levels_compare}
    assert comparable == {"trl", "verl", "prime-rl", "slime", "skyrl", "rllm", "ms-swift"}


def test_a_missing_metric_names_the_flag_that_brings_it() -> None:
    assert "actor.calculate_entropy=True" in hint(ADAPTERS["verl"], "entropy")
    assert "use_vllm=True" in hint(ADAPTERS["trl"], "is_mean")
    assert "--log_entropy true" in hint(ADAPTERS["ms-swift"], "entropy")
    for adapter in ADAPTERS.values():
        assert hint(adapter, "zero_variance")


def test_a_missing_metric_that_the_trainer_logs_is_named() -> None:
    said = hint(ADAPTERS["trl"], "truncated")

    assert said == "trl logs it as completions/clipped_ratio, which this log does not have"
    assert "verl logs it as response_length/mean, which" in hint(ADAPTERS["verl"], "length")
    assert hint(ADAPTERS["skyrl"], "truncated") == "skyrl does not log it"


@pytest.mark.parametrize(
    ("spelling", "name"),
    [("TRL", "trl"), ("nemo_rl", "nemo-rl"), ("prime-rl", "prime-rl"), ("swift", "ms-swift")],
)
def test_a_trainer_may_be_spelt_in_several_ways(spelling: str, name: str) -> None:
    assert adapter_name(spelling) == name


def test_an_unknown_trainer_and_unknown_names_are_said() -> None:
    with pytest.raises(ConfigError, match="known: trl, verl"):
        adapter_name("ppo")
    assert detect(["my/own/loss"]) is None
