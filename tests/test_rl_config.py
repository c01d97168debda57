"""Settings of an RL run, from the files and runs in which its trainer has them."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from mlflow_rlrisk import LookaheadConfig, read_rl_config
from mlflow_rlrisk.errors import ConfigError
from mlflow_rlrisk.evaluator_settings import Settings
from tests.test_cli import BASE, REWARD, one_object, rlrisk

TRL = {
    "num_generations": 16,
    "temperature": 0.9,
    "top_p": 0.95,
    "top_k": None,
    "repetition_penalty": 1.1,
    "max_completion_length": 1024,
    "generation_kwargs": {"stop": ["</answer>"]},
    "chat_template_kwargs": {"enable_thinking": False},
    "learning_rate": "1e-6",  # as YAML 1.1 reads it
    "max_steps": 400,
    "epsilon": 0.1,
}
VERL: dict[str, Any] = {
    "data": {"max_response_length": 2048, "train_batch_size": 512},
    "actor_rollout_ref": {
        "rollout": {
            "n": 8,
            "temperature": 1.0,
            "top_k": -1,
            "top_p": 1,
            "do_sample": True,
            "ignore_eos": False,
            "response_length": "${oc.select:data.max_response_length,512}",
            "multi_turn": {"enable": False},
        },
        "actor": {
            "ppo_mini_batch_size": 128,
            "ppo_epochs": 2,
            "clip_ratio": 0.2,
            "grad_clip": 1.0,
            "optim": {"lr": 1e-6, "total_training_steps": -1},
        },
    },
    "trainer": {"total_training_steps": 100},
}

NEMO_RL: dict[str, Any] = {
    "grpo": {"num_generations_per_prompt": 4, "max_rollout_turns": 1},
    "policy": {
        "max_total_sequence_length": 512,
        "max_grad_norm": 0.5,
        "generation": {
            "max_new_tokens": "${policy.max_total_sequence_length}",
            "temperature": 0.8,
            "top_p": 0.9,
            "top_k": None,
            "stop_token_ids": None,
            "stop_strings": ["User:"],
        },
    },
    "loss_fn": {"ratio_clip_min": 0.3},
}
SKYRL: dict[str, Any] = {
    "generator": {
        "n_samples_per_prompt": 5,
        "max_turns": 1,
        "chat_template_kwargs": {},
        "sampling_params": {
            "max_generate_length": 96,
            "repetition_penalty": 1.0,
            "temperature": 0.6,
            "top_p": 1.0,
            "min_p": 0.05,
            "top_k": -1,
            "stop": None,
        },
    },
    "trainer": {
        "policy_mini_batch_size": 64,
        "policy": {"optimizer_config": {"lr": 2e-6, "max_grad_norm": 1.0}},
        "algorithm": {"eps_clip_low": 0.2},
    },
}


def written(folder: Path, settings: Any) -> str:
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return str(path)


def with_rollout(**changes: Any) -> dict[str, Any]:
    policy = VERL["actor_rollout_ref"]
    rollout = {**policy["rollout"], **changes}
    return {**VERL, "actor_rollout_ref": {**policy, "rollout": rollout}}


def test_settings_of_trl_are_those_of_its_file(tmp_path: Path) -> None:
    found = read_rl_config(written(tmp_path, TRL))
    config = found.assessment_config()

    assert found.trainer == "TRL"
    assert (config.group_size, config.sampling.num_samples) == (16, 32)
    assert (config.sampling.temperature, config.sampling.top_p, config.sampling.top_k) == (
        0.9,
        0.95,
        0,
    )
    assert (config.sampling.max_new_tokens, config.sampling.repetition_penalty) == (1024, 1.1)
    assert config.sampling.stop == ("</answer>",)
    assert config.sampling.chat_template_kwargs == {"enable_thinking": False}
    assert found.lookahead_config() == LookaheadConfig(
        learning_rate=1e-6, run_steps=400, clip_range=0.1
    )


def test_settings_of_verl_are_read_through_their_references(tmp_path: Path) -> None:
    found = read_rl_config(written(tmp_path, VERL))
    config = found.assessment_config()

    assert found.trainer == "verl"
    assert (config.group_size, config.sampling.num_samples) == (8, 16)
    assert (config.sampling.top_k, config.sampling.max_new_tokens) == (0, 2048)
    # 100 times 512 prompts, in mini-batches of 128, gone through twice
    assert found.lookahead_config() == LookaheadConfig(
        learning_rate=1e-6, run_steps=100 * (512 // 128) * 2, prompts_per_step=128
    )


def test_settings_of_nemo_rl_and_skyrl_are_read_and_the_length_of_the_run_asked_for() -> None:
    nemo, skyrl = read_rl_config(NEMO_RL), read_rl_config(SKYRL)
    first, second = nemo.assessment_config(), skyrl.assessment_config()

    assert (nemo.trainer, skyrl.trainer) == ("NeMo-RL", "SkyRL")
    assert (first.group_size, first.sampling.max_new_tokens) == (4, 512)
    assert (first.sampling.temperature, first.sampling.top_p) == (0.8, 0.9)
    assert (first.sampling.top_k, first.sampling.stop) == (0, ("User:",))
    assert (second.group_size, second.sampling.max_new_tokens) == (5, 96)
    assert (second.sampling.temperature, second.sampling.min_p) == (0.6, 0.05)
    assert second.sampling.top_k == 0
    for run in (nemo, skyrl):
        with pytest.raises(ConfigError, match=r"learning_rate|run_steps"):
            run.lookahead_config()
    assert nemo.lookahead_config(learning_rate=1e-6, run_steps=90) == LookaheadConfig(
        learning_rate=1e-6, run_steps=90, clip_range=0.3, max_grad_norm=0.5
    )
    assert skyrl.lookahead_config(run_steps=90) == LookaheadConfig(
        learning_rate=2e-6, run_steps=90, prompts_per_step=64
    )


def test_what_trl_itself_has_is_read_as_it_samples(tmp_path: Path) -> None:
    """The settings of TRL's own class, as a file and as its callback logs them to MLflow."""
    import mlflow
    from trl import GRPOConfig

    args = GRPOConfig(
        output_dir=str(tmp_path), temperature=0.7, top_k=20, min_p=0.1, max_completion_length=300,
        generation_kwargs={"stop_strings": "User:", "top_k": 5}, bf16=False, use_cpu=True,
    )  # fmt: skip
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    with mlflow.start_run() as run:
        mlflow.log_params({name: str(value)[:500] for name, value in args.to_dict().items()})
    (tmp_path / "args.json").write_text(args.to_json_string(), encoding="utf-8")

    for source in (str(tmp_path / "args.json"), f"runs:/{run.info.run_id}"):
        config = read_rl_config(source).assessment_config()

        assert config.group_size == args.num_generations
        assert config.sampling.temperature == args.temperature
        assert config.sampling.min_p == args.min_p
        assert config.sampling.max_new_tokens == args.max_completion_length
        assert config.sampling.top_k == 5  # its options of the generation count more
        assert config.sampling.stop == ("User:",)


@pytest.mark.parametrize("length", [{}, {"generator/sampling_params/stop/list_len": 2}])
def test_lists_and_booleans_that_a_trainer_logs_one_by_one_are_read(
    length: dict[str, int], tmp_path: Path
) -> None:
    # "False" is true to a template, and stop strings that nobody finds end nothing.
    import mlflow

    stop = ["User:", "</a>"]
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    with mlflow.start_run() as run:
        mlflow.log_params(
            {
                "generator/n_samples_per_prompt": 4,
                "generator/chat_template_kwargs/enable_thinking": False,
                "generator/chat_template_kwargs/budget": 7,
                "generator/sampling_params/temperature": 1.0,
                "generator/sampling_params/max_generate_length": 9,
                **{f"generator/sampling_params/stop/{k}": text for k, text in enumerate(stop)},
                **length,
            }
        )

    sampling = read_rl_config(f"runs:/{run.info.run_id}").assessment_config().sampling

    assert set(sampling.stop) == set(stop)
    assert sampling.chat_template_kwargs["enable_thinking"] is False
    assert sampling.chat_template_kwargs["budget"] == 7


def test_stop_tokens_that_nemo_rl_logs_one_by_one_are_refused_as_in_its_file(
    tmp_path: Path,
) -> None:
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    with mlflow.start_run() as run:
        mlflow.log_params(
            {"grpo.num_generations_per_prompt": 4, "policy.generation.stop_token_ids.0": 128009}
        )

    with pytest.raises(ConfigError, match=r"policy\.generation\.stop_token_ids"):
        read_rl_config(f"runs:/{run.info.run_id}")


def test_parameters_that_verl_logs_are_read(tmp_path: Path) -> None:
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    with mlflow.start_run() as run:
        mlflow.log_params(
            {
                "actor_rollout_ref/rollout/n": 4,
                "actor_rollout_ref/rollout/temperature": 0.6,
                "actor_rollout_ref/rollout/response_length": 64,
                "actor_rollout_ref/rollout/do_sample": True,
                "data/apply_chat_template_kwargs": "{'enable_thinking': True}",
            }
        )

    config = read_rl_config(f"runs:/{run.info.run_id}").assessment_config(num_samples=8)

    assert (config.group_size, config.sampling.num_samples) == (4, 8)
    assert (config.sampling.temperature, config.sampling.max_new_tokens) == (0.6, 64)
    assert config.sampling.chat_template_kwargs == {"enable_thinking": True}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (TRL | {"repetition_penalty": 0.0}, "repetition_penalty"),
        (TRL | {"generation_kwargs": {"typical_p": 0.9}}, "generation_kwargs.typical_p"),
        (TRL | {"generation_kwargs": "top_k 5"}, "generation_kwargs"),
        (TRL | {"vllm_structured_outputs_regex": "[0-9]+"}, "vllm_structured_outputs_regex"),
        (TRL | {"num_generations": 8.5}, "num_generations"),
        (TRL | {"num_generations": True}, "num_generations"),
        (TRL | {"temperature": "hot"}, "temperature"),
        (TRL | {"temperature": 0.0}, "temperature"),
        (TRL | {"num_generations": 1}, "group_size"),
        (with_rollout(do_sample=False), "actor_rollout_ref.rollout.do_sample"),
        (with_rollout(multi_turn={"enable": True}), "multi_turn.enable"),
        (with_rollout(n=1), "group_size"),
        (with_rollout(temperature="${data.heat}"), "temperature"),
        (with_rollout(top_p="${data.nucleus}"), "rollout.top_p.*refers"),
        (TRL | {"chat_template_kwargs": "${common.variables}"}, "chat_template_kwargs.*refers"),
        (TRL | {"generation_kwargs": "${learning_rates}"}, "generation_kwargs.*refers"),
        (TRL | {"generation_kwargs": {"stop": "${missing}"}}, "generation_kwargs.stop.*refers"),
        (NEMO_RL | {"grpo": {"num_generations_per_prompt": 4, "max_rollout_turns": 3}}, "turns"),
        (SKYRL | {"generator": {**SKYRL["generator"], "max_turns": 2}}, "generator.max_turns"),
        ({"learning_rate": 1e-6}, "TRL"),
        ([1, 2], "mapping"),
    ],
)
def test_what_cannot_be_sampled_so_is_refused_by_its_name(
    settings: Any, said: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=said):
        read_rl_config(written(tmp_path, settings)).assessment_config()


@pytest.mark.parametrize("name", ["num_generations", "temperature", "max_completion_length"])
def test_what_a_trainer_changed_its_mind_about_has_to_stand_somewhere(name: str) -> None:
    ours = {"num_generations": "group_size", "max_completion_length": "max_new_tokens"}
    run = read_rl_config({key: TRL[key] for key in TRL if key != name})

    with pytest.raises(ConfigError, match=ours.get(name, name)):
        run.assessment_config()

    run.assessment_config(**{ours.get(name, name): 2})


def test_settings_that_hold_themselves_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("num_generations: 8\nmore: &more\n  again: *more\n", encoding="utf-8")

    with pytest.raises(ConfigError, match=r"run\.yaml.*never end"):
        read_rl_config(path)


def test_a_run_that_is_not_there_and_a_source_of_no_kind_are_named(tmp_path: Path) -> None:
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    for source in ("runs:/0123456789abcdef0123456789abcdef", str(tmp_path / "none.yaml"), 7):
        with pytest.raises(ConfigError, match="rl_config"):
            read_rl_config(source)  # type: ignore[arg-type]


def test_the_length_of_a_run_that_is_not_known_is_asked_for(tmp_path: Path) -> None:
    found = read_rl_config(TRL | {"max_steps": -1})

    with pytest.raises(ConfigError, match="run_steps"):
        found.lookahead_config()
    assert found.lookahead_config(run_steps=9, learning_rate=0.1).run_steps == 9


def test_the_evaluator_reads_it_and_its_own_settings_count_more(tmp_path: Path) -> None:
    given = {"verifier": "exact", "rl_config": written(tmp_path, TRL), "temperature": 0.5}

    found = Settings.parse({**given, "lookahead": True})

    assert found.config.group_size == 16
    assert (found.config.sampling.temperature, found.config.sampling.top_p) == (0.5, 0.95)
    assert found.lookahead == LookaheadConfig(learning_rate=1e-6, run_steps=400, clip_range=0.1)
    assert Settings.parse(given).lookahead is None
    with pytest.raises(ConfigError, match="rl_config"):
        Settings.parse({"verifier": "exact", "lookahead": True})


@pytest.mark.slow
def test_assess_samples_as_the_run_and_says_what_it_read(tmp_path: Path) -> None:
    lines = (Path(BASE).parent / "data" / "rl.jsonl").read_text(encoding="utf-8").splitlines()
    (tmp_path / "rl.jsonl").write_text("\n".join(lines[:50]) + "\n", encoding="utf-8")
    run = {"num_generations": 4, "temperature": 0.8, "max_completion_length": 20, "top_p": 0.9}
    source = written(tmp_path, run)

    result = rlrisk(
        *["assess", BASE, "--prompts", "rl.jsonl", "--verifier", REWARD, "--rl-config", source],
        *["--top-p", "1.0", "--num-samples", "8", "--json"],
        cwd=tmp_path,
    )

    config = one_object(result)["config"]
    assert (config["group_size"], config["sampling"]["num_samples"]) == (4, 8)
    assert (config["sampling"]["temperature"], config["sampling"]["max_new_tokens"]) == (0.8, 20)
    assert config["sampling"]["top_p"] == 1.0
    assert "(TRL): group_size=4, temperature=0.8, max_new_tokens=20" in result.stderr
    assert "given here  top_p=1.0" in result.stderr
