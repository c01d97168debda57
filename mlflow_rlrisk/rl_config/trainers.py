"""What each trainer calls the settings of an RL run."""

from mlflow_rlrisk.errors import ConfigError
from mlflow_rlrisk.rl_config.trainer import OPTIONS, TEMPLATE, Settings, Trainer, read

_ROLLOUT, _ACTOR = "actor_rollout_ref.rollout", "actor_rollout_ref.actor"
_GENERATION, _SKYRL = "policy.generation", "generator.sampling_params"


def find_trainer(settings: Settings, source: str) -> Trainer:
    """Whose settings they are.

    Raises:
        ConfigError: Nobody's that is known.
    """
    for trainer in TRAINERS:
        if trainer.is_of(settings):
            return trainer
    known = "; ".join(f"{each.name} ({each.marks[0]}...)" for each in TRAINERS)
    need = f"settings of one of these trainers are needed: {known}"
    raise ConfigError("rl_config", source, need)


def _trl_length(settings: Settings) -> int | None:
    steps: int = read(settings, {"run_steps": ("max_steps",)}).get("run_steps", -1)
    return steps if steps > 0 else None


def _verl_length(settings: Settings) -> int | None:
    """Steps of sampling times the updates that each is followed by."""
    names = {
        "run_steps": ("trainer.total_training_steps", f"{_ACTOR}.optim.total_training_steps"),
        "sampled": ("data.train_batch_size",),
        "prompts_per_step": (f"{_ACTOR}.ppo_mini_batch_size",),
        "epochs": (f"{_ACTOR}.ppo_epochs",),
    }
    found = {"epochs": 1, **read(settings, names)}
    if len(found) < len(names) or min(found.values()) <= 0:
        return None
    updates: float = found["sampled"] / found["prompts_per_step"] * found["epochs"]
    steps: int = found["run_steps"]
    return round(steps * max(updates, 1.0))


def _overridden(name: str) -> tuple[str, ...]:
    """TRL's own setting, which its options of the generation override."""
    return (OPTIONS + name, name)


TRL = Trainer(
    name="TRL",
    marks=("num_generations", "max_completion_length"),
    sampled={
        "group_size": ("num_generations",),
        "temperature": _overridden("temperature"),
        "top_p": _overridden("top_p"),
        "top_k": _overridden("top_k"),
        "min_p": _overridden("min_p"),
        "repetition_penalty": _overridden("repetition_penalty"),
        "max_new_tokens": (
            f"{OPTIONS}max_tokens",
            f"{OPTIONS}max_new_tokens",
            "max_completion_length",
        ),
        "stop": (f"{OPTIONS}stop", f"{OPTIONS}stop_strings"),
    },
    updated={
        "learning_rate": ("learning_rate",),
        "clip_range": ("epsilon",),
        "max_grad_norm": ("max_grad_norm",),
    },
    template=TEMPLATE,
    only={
        "vllm_structured_outputs_regex": (),
        "vllm_guided_decoding_regex": (),
    },
    length=_trl_length,
)

VERL = Trainer(
    name="verl",
    marks=("actor_rollout_ref.",),
    sampled={
        "group_size": (f"{_ROLLOUT}.n",),
        "temperature": (f"{_ROLLOUT}.temperature",),
        "top_p": (f"{_ROLLOUT}.top_p",),
        "top_k": (f"{_ROLLOUT}.top_k",),
        "min_p": (f"{_ROLLOUT}.min_p",),
        "repetition_penalty": (f"{_ROLLOUT}.repetition_penalty",),
        "max_new_tokens": (f"{_ROLLOUT}.response_length", "data.max_response_length"),
    },
    updated={
        "learning_rate": (f"{_ACTOR}.optim.lr",),
        "prompts_per_step": (f"{_ACTOR}.ppo_mini_batch_size",),
        "clip_range": (f"{_ACTOR}.clip_ratio",),
        "max_grad_norm": (f"{_ACTOR}.grad_clip",),
    },
    template="data.apply_chat_template_kwargs",
    only={
        f"{_ROLLOUT}.do_sample": ("true",),
        f"{_ROLLOUT}.ignore_eos": ("false",),
        f"{_ROLLOUT}.multi_turn.enable": ("false",),
    },
    length=_verl_length,
)

NEMO_RL = Trainer(
    name="NeMo-RL",
    marks=("grpo.num_generations_per_prompt",),
    sampled={
        "group_size": ("grpo.num_generations_per_prompt",),
        "temperature": (f"{_GENERATION}.temperature",),
        "top_p": (f"{_GENERATION}.top_p",),
        "top_k": (f"{_GENERATION}.top_k",),
        "max_new_tokens": (f"{_GENERATION}.max_new_tokens",),
        "stop": (f"{_GENERATION}.stop_strings",),
    },
    updated={"clip_range": ("loss_fn.ratio_clip_min",), "max_grad_norm": ("policy.max_grad_norm",)},
    template=f"policy.tokenizer.{TEMPLATE}",
    only={
        "grpo.max_rollout_turns": ("1",),
        f"{_GENERATION}.stop_token_ids": ("[]",),
        f"{_GENERATION}.ignore_eos": ("false",),
    },
)

SKYRL = Trainer(
    name="SkyRL",
    marks=("generator.n_samples_per_prompt",),
    sampled={
        "group_size": ("generator.n_samples_per_prompt",),
        "temperature": (f"{_SKYRL}.temperature",),
        "top_p": (f"{_SKYRL}.top_p",),
        "top_k": (f"{_SKYRL}.top_k",),
        "min_p": (f"{_SKYRL}.min_p",),
        "repetition_penalty": (f"{_SKYRL}.repetition_penalty",),
        "max_new_tokens": (f"{_SKYRL}.max_generate_length",),
        "stop": (f"{_SKYRL}.stop",),
    },
    updated={
        "learning_rate": ("trainer.policy.optimizer_config.lr",),
        "prompts_per_step": ("trainer.policy_mini_batch_size",),
        "clip_range": ("trainer.algorithm.eps_clip_low",),
        "max_grad_norm": ("trainer.policy.optimizer_config.max_grad_norm",),
    },
    template=f"generator.{TEMPLATE}",
    only={"generator.max_turns": ("1",)},
)

TRAINERS = (VERL, NEMO_RL, SKYRL, TRL)
