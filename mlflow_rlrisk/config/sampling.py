"""How rollouts are drawn: everything here changes them and is part of their digest."""

import math
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer

from mlflow_rlrisk.config.settings import LARGEST_COUNT, Plain, PositiveInt, Settings
from mlflow_rlrisk.errors import ConfigError

GIVEN_TO_TEMPLATES = frozenset(
    {
        "messages",
        "tools",
        "documents",
        "add_generation_prompt",
        "continue_final_message",
        "tokenize",
    }
)
"""What a chat template is given anyway; no setting replaces it."""


class SamplingConfig(Settings):
    """How rollouts are drawn: set it as the RL run will."""

    num_samples: PositiveInt = 16
    """Rollouts per prompt, ``n``; at least twice the group size is advised."""
    temperature: Annotated[float, Field(gt=0.0, le=100.0)] = 1.0
    """Softmax temperature; entropies and logprobs are reported at it. Greedy has no groups."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Nucleus; entropy is always that of the full softmax, logprobs of what is drawn from."""
    top_k: Annotated[int, Field(ge=0, le=LARGEST_COUNT)] = 0
    """Sample from the k most likely tokens only; 0 means all."""
    min_p: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Only tokens at least this share as likely as the likeliest; 0 means all.

    Where ``top_p`` cuts as well, each engine takes the order that is its own: transformers cuts
    the nucleus first, vLLM ``min_p``.
    """
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100.0)] = 1.0
    """Logits of tokens in prompt or completion are divided by it where positive, else multiplied.

    Before temperature and truncation, as transformers and vLLM do; padding counts for nothing.
    Entropy is that of the softmax without it, as trainers compute it. 1 means none.
    """
    max_new_tokens: PositiveInt = 256
    """Token limit of a completion; a rollout that reaches it is truncated."""
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Texts that end a completion, beside the stop tokens; they stay in it, as trainers decode."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Base seed; each (prompt, sample) draws from a random stream of its own."""
    chat_template: Literal["auto", "always", "never"] = "auto"
    """``auto`` applies the checkpoint's template to chat prompts and leaves strings raw."""
    chat_template_kwargs: dict[str, Plain] = Field(default_factory=dict)
    """Variables for the template, such as ``enable_thinking``; it must read each of them."""

    @field_validator("stop")
    @classmethod
    def _each_once(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(sorted(set(given)))

    @field_validator("chat_template_kwargs", mode="before")
    @classmethod
    def _plain(cls, given: Any) -> Any:
        """NumPy's values are Python's; of its False pydantic would make 0.0."""
        if not isinstance(given, dict):
            return given
        plain = {n: v.item() if isinstance(v, np.generic) else v for n, v in given.items()}
        for name, value in plain.items():
            is_finite = not isinstance(value, float) or math.isfinite(value)
            if not isinstance(value, str | int | float | bool) or not is_finite:
                need = "a text, a finite number, true or false is needed"
                raise ConfigError(str(name), value, need)
        return plain

    @field_validator("chat_template_kwargs")
    @classmethod
    def _only_variables(
        cls, given: dict[str, str | int | float | bool]
    ) -> dict[str, str | int | float | bool]:
        for name in given:
            if not name.isidentifier() or name in GIVEN_TO_TEMPLATES:
                need = "this name is no variable of a template that can be set"
                raise ConfigError(name, given[name], need)
        return dict(sorted(given.items()))

    @model_serializer(mode="wrap")
    def _without_nothing(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Digests of settings that use nothing newer are those of before there was it."""
        values: dict[str, Any] = dump(self)
        for name in ("chat_template_kwargs", "min_p", "repetition_penalty", "stop"):
            if self._is_default(name):
                values.pop(name, None)
        return values

    @property
    def reshaping(self) -> str:
        """What makes another distribution of the softmax at the temperature, as ``top_p=0.9``.

        Empty where rollouts are drawn from that softmax itself.
        """
        names = ("top_p", "top_k", "min_p", "repetition_penalty")
        return ", ".join(f"{n}={getattr(self, n):g}" for n in names if not self._is_default(n))

    def _is_default(self, name: str) -> bool:
        field = type(self).model_fields[name]
        return bool(getattr(self, name) == field.get_default(call_default_factory=True))

    def __eq__(self, other: object) -> bool:
        """By digest: False and 0 are one to Python and two to a template."""
        return isinstance(other, SamplingConfig) and self.digest() == other.digest()

    def __hash__(self) -> int:
        return hash(self.digest())
