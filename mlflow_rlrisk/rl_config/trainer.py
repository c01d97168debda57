"""Settings of one trainer, read under our names."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mlflow_rlrisk.config import SamplingConfig
from mlflow_rlrisk.errors import ConfigError
from mlflow_rlrisk.rl_config.sources import is_reference

Settings = Mapping[str, Any]
_OFF = {
    name: SamplingConfig.model_fields[name].default
    for name in ("top_p", "top_k", "min_p", "repetition_penalty")
}
"""What ``null`` stands for; elsewhere it stands for a value that is not known here."""
_WHOLE = ("group_size", "max_new_tokens", "top_k", "run_steps", "prompts_per_step")
OPTIONS = "generation_kwargs."
TEMPLATE = "chat_template_kwargs"


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
    length: Callable[[Settings], int | None] = lambda _: None

    def is_of(self, settings: Settings) -> bool:
        """Whether the settings are this trainer's."""
        return any(key.startswith(self.marks) for key in settings)

    def sampling(self, settings: Settings) -> dict[str, Any]:
        """Settings of the sampling under our names.

        Raises:
            ConfigError: One is no number, or asks for what cannot be done here.
        """
        for key, value in settings.items():
            if value is not None and (need := self._fault(key, value)) is not None:
                raise ConfigError(key, value, need)
        found = read(settings, self.sampled)
        variables = {
            key.removeprefix(f"{self.template}."): settings[key]
            for key in settings
            if key.startswith(f"{self.template}.")
        }
        return found | ({TEMPLATE: variables} if variables else {})

    def _fault(self, key: str, value: Any) -> str | None:
        """Why it cannot be sampled with such a setting; ``None`` where it says nothing of that."""
        is_read = any(key in theirs for theirs in self.sampled.values())
        is_read = is_read or key.startswith(f"{self.template}.")
        is_other = key == self.template or f"{key}.".startswith(OPTIONS)
        if is_reference(value) and (is_read or is_other):
            return "what it refers to is no value in these settings; give them resolved"
        if key in self.only:
            is_other = str(value).lower() not in self.only[key]
        if is_other and not is_read:
            return f"{self.name} would sample with it, which cannot be done here"
        return None

    def run(self, settings: Settings) -> dict[str, Any]:
        """Settings of the updates under our names.

        Raises:
            ConfigError: One is no number.
        """
        steps = self.length(settings)
        return read(settings, self.updated) | ({} if steps is None else {"run_steps": steps})


def read(settings: Settings, names: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
    """Settings by our names, from the first of their keys that is set; others are left out.

    Raises:
        ConfigError: A value is no number.
    """
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
