"""What TRL and verl call the settings of an RL run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mlflow_rlrisk.errors import ConfigError

Settings = Mapping[str, Any]
_OFF = {"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
"""What ``null`` stands for; elsewhere it stands for a value that is not known here."""
_WHOLE = ("group_size", "max_new_tokens", "top_k", "run_steps", "prompts_per_step")
_OPTIONS = "generation_kwargs."
_ROLLOUT, _ACTOR = "actor_rollout_ref.rollout", "actor_rollout_ref.actor"
_TEMPLATE = "chat_template_kwargs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trainer:
    """One trainer's settings.

    Attributes:
        name: The trainer.
        marks: Keys, or beginnings of keys, by which its settings are known.
        sampled: Its keys for each setting of the sampling; the first that is there counts.
        updated: The same for each setting of the updates.
        template: Where it has variables for the chat template.
        only: Keys with the values, in small letters, under which it samples as is done here.
        length: Updates of the whole run, where that is no single setting.
    """

    name: str
    marks: tuple[str, ...]
    sampled: Mapping[str, tuple[str, ...]]
    updated: Mapping[str, tuple[str, ...]]
    template: str
    only: Mapping[str, tuple[str, ...]]
    length: Callable[[Settings], int | None]

    def is_of(self, settings: Settings) -> bool:
        """Whether the settings are this trainer's."""
        return any(key.startswith(self.marks) for key in settings)

    def sampling(self, settings: Settings) -> dict[str, Any]:
        """Settings of the sampling under our names.

        Raises:
            ConfigError: One is no number, or asks for what cannot be done here.
        """
        for key in settings:
            if not self._is_repeatable(key, settings[key]):
                need = f"{self.name} would sample with it, which cannot be done here"
                raise ConfigError(key, settings[key], need)
        found = _read(settings, self.sampled)
        variables = {
            key.removeprefix(f"{self.template}."): settings[key]
            for key in settings
            if key.startswith(f"{self.template}.")
        }
        return found | ({_TEMPLATE: variables} if variables else {})

    def _is_repeatable(self, key: str, value: Any) -> bool:
        """Whether a setting says nothing of the sampling, or what can be done here as well."""
        if value is None or any(key in theirs for theirs in self.sampled.values()):
            return True
        if key in self.only:
            return str(value).lower() in self.only[key]
        return key != self.template and not f"{key}.".startswith(_OPTIONS)

    def run(self, settings: Settings) -> dict[str, Any]:
        """Settings of the updates under our names.

        Raises:
            ConfigError: One is no number.
        """
        steps = self.length(settings)
        return _read(settings, self.updated) | ({} if steps is None else {"run_steps": steps})


def find_trainer(settings: Settings, source: str) -> Trainer:
    """Whose settings they are.

    Raises:
        ConfigError: Nobody's that is known.
    """
    for trainer in (VERL, TRL):
        if trainer.is_of(settings):
            return trainer
    need = "settings of TRL (num_generations, ...) or verl (actor_rollout_ref, ...) are needed"
    raise ConfigError("rl_config", source, need)


def _read(settings: Settings, names: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for ours, theirs in names.items():
        key = next((key for key in theirs if settings.get(key) is not None), None)
        if key is None:
            if ours in _OFF and any(each in settings for each in theirs):
                found[ours] = _OFF[ours]
            continue
        value = settings[key]
        found[ours] = _texts(value) if ours == "stop" else _number(key, value, ours in _WHOLE)
        if ours == "top_k":
            found[ours] = max(found[ours], 0)  # -1 is all words, too
    return found


def _number(key: str, value: Any, is_whole: bool) -> float | int:
    """A number; YAML and MLflow have 1e-6 as a text."""
    try:
        number = float(value)
        if isinstance(value, bool) or (is_whole and number != int(number)):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        need = "a whole number is needed" if is_whole else "a number is needed"
        raise ConfigError(key, value, need) from None
    return int(number) if is_whole else number


def _texts(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _trl_length(settings: Settings) -> int | None:
    steps: int = _read(settings, {"run_steps": ("max_steps",)}).get("run_steps", -1)
    return steps if steps > 0 else None


def _verl_length(settings: Settings) -> int | None:
    """Steps of sampling times the updates that each is followed by."""
    names = {
        "run_steps": ("trainer.total_training_steps", f"{_ACTOR}.optim.total_training_steps"),
        "sampled": ("data.train_batch_size",),
        "prompts_per_step": (f"{_ACTOR}.ppo_mini_batch_size",),
        "epochs": (f"{_ACTOR}.ppo_epochs",),
    }
    found = {"epochs": 1, **_read(settings, names)}
    if len(found) < len(names) or min(found.values()) <= 0:
        return None
    updates: float = found["sampled"] / found["prompts_per_step"] * found["epochs"]
    steps: int = found["run_steps"]
    return round(steps * max(updates, 1.0))


def _overridden(name: str) -> tuple[str, ...]:
    """TRL's own setting, which its options of the generation override."""
    return (_OPTIONS + name, name)


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
            f"{_OPTIONS}max_tokens",
            f"{_OPTIONS}max_new_tokens",
            "max_completion_length",
        ),
        "stop": (f"{_OPTIONS}stop", f"{_OPTIONS}stop_strings"),
    },
    updated={
        "learning_rate": ("learning_rate",),
        "clip_range": ("epsilon",),
        "max_grad_norm": ("max_grad_norm",),
    },
    template=_TEMPLATE,
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
