"""A served model of which nothing but the name is known: the endpoint's own template and tokenizer.

The counterpart of `LocalModel`, for ``endpoint:NAME``.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

from mlflow_rlrisk.config import SamplingConfig
from mlflow_rlrisk.errors import ConfigError
from mlflow_rlrisk.plurals import counted
from mlflow_rlrisk.records import Prompt
from mlflow_rlrisk.samplers.endpoint.local_model import PROBE_TEXTS
from mlflow_rlrisk.samplers.endpoint.options import Api, EndpointOptions
from mlflow_rlrisk.samplers.endpoint.requests import Content


class NamedModel:
    """A model by its name; attributes and methods mean what they mean of `LocalModel`."""

    stop_ids: tuple[int, ...] = ()
    entropy_id: int | None = None

    def __init__(self, options: EndpointOptions, sampling: SamplingConfig) -> None:
        """Nothing is asked yet.

        Raises:
            ConfigError: Variables are given for a template that is not here.
        """
        if sampling.chat_template_kwargs:
            need = "none for endpoint:NAME, whose template is its server's; give the checkpoint"
            raise ConfigError("chat_template_kwargs", sampling.chat_template_kwargs, need)
        self.vocab_size = options.vocab_size
        self._options = options
        self._use_of_template = sampling.chat_template

    def apis(self) -> list[Api]:
        """Those that prompts may need."""
        if self._options.api != "auto":
            return [self._options.api]
        only: dict[str, list[Api]] = {"always": ["chat"], "never": ["completions"]}
        return only.get(self._use_of_template, ["completions", "chat"])

    def api_of(self, prompt: Prompt) -> Api:
        """The one that a prompt goes to."""
        if self._options.api != "auto":
            return self._options.api
        if isinstance(prompt.content, str):
            return "chat" if self._use_of_template == "always" else "completions"
        return "completions" if self._use_of_template == "never" else "chat"

    def probes(self, api: Api) -> list[Content]:
        """Short prompts."""
        if api == "chat":
            return [[{"role": "user", "content": text}] for text in PROBE_TEXTS]
        return list(PROBE_TEXTS)

    def contents(self, prompts: Sequence[Prompt]) -> list[Content]:
        """Texts and chats, as they are."""
        return [
            prompt.text if self.api_of(prompt) == "completions" else prompt.turns
            for prompt in prompts
        ]

    def template(self, prompts: Sequence[Prompt]) -> str:
        """How the prompts become tokens, as a sentence."""
        num_chats = sum(self.api_of(prompt) == "chat" for prompt in prompts)
        if num_chats == 0:
            return "none: prompts are sent as raw text"
        some = "" if num_chats == len(prompts) else f", for {counted(num_chats, 'chat prompt')}"
        return f"the endpoint's own chat template, which is not known{some}"

    def described(self) -> dict[str, Any]:
        """What a report says of the model: that it has a name."""
        name = self._options.served
        return {
            "stored": {"endpoint": hashlib.sha256(name.encode()).hexdigest()},
            "model_identity": f"none: {name} is known by its name only",
        }

    def identity(self, served: str, weights: str | None) -> str:  # none compared
        """Which model sampled, as far as it is known."""
        return (
            f"the model is known by its name only ({served}): there is no digest, and what "
            "the endpoint serves under this name may change"
        )
