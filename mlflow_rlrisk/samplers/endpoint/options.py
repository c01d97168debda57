"""The settings of the ``openai`` sampler, given as ``backend_options``."""

import os
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field

from mlflow_rlrisk.config import AssessmentConfig, PositiveInt, Settings
from mlflow_rlrisk.errors import ConfigError

REFERENCE_PREFIX = "endpoint:"
"""``endpoint:NAME`` names a model that an endpoint serves and of which no files are at hand."""

Api = Literal["completions", "chat"]


class EndpointOptions(Settings):
    """How an OpenAI-compatible endpoint is asked."""

    base_url: str
    """Where the API begins, such as ``http://host:8000/v1``."""
    model: str
    """The name under which the endpoint serves the model."""
    api: Literal["auto", "completions", "chat"] = "auto"
    """``auto``: completions for raw text and token ids, chat for chat prompts."""
    api_key_env: str = "OPENAI_API_KEY"
    """Name of the environment variable that holds the key; none is sent where it is not set."""
    concurrency: Annotated[int, Field(ge=1, le=4096)] = 16
    """Requests in flight."""
    choices_per_request: PositiveInt = 1
    """``n`` of a request; what an answer lacks is asked for again."""
    timeout_s: Annotated[float, Field(gt=0.0)] = 600.0
    """Longest time of one request, from connecting to the last byte."""
    max_retries: Annotated[int, Field(ge=0)] = 6
    """Further tries of a request after 408, 409, 425, 429, 5xx, a lost or a damaged answer."""
    max_backoff_s: Annotated[float, Field(ge=0.0)] = 30.0
    """Longest pause between two tries, unless the endpoint asks for a longer one."""
    entropy: Literal["auto", "exact", "bounds", "none"] = "auto"
    """``exact`` needs a server of ``rlrisk serve-vllm``; ``auto`` takes the best there is."""
    top_logprobs: Annotated[int, Field(ge=0)] = 20
    """Most likely tokens asked for at every position."""
    logprobs_mode: Literal["auto", "raw", "processed"] = "auto"
    """Whether logprobs are those before or after what reshapes them; ``auto`` finds out."""
    vocab_size: Annotated[int, Field(ge=2)] | None = None
    """Size of the vocabulary where no checkpoint tells it; tightens the upper bound."""
    entropy_token_id: Annotated[int, Field(ge=0)] | None = None
    """Id under which the entropy is sent in band; found in the checkpoint where it is not given."""
    check_weights: bool = False
    """Load the checkpoint here and compare a few of the endpoint's logprobs with its own."""
    send_seed: bool = True
    """Send a seed of its own with every request."""

    @property
    def served(self) -> str:
        """The model as messages and reports name it."""
        return f"{self.model} at {self.base_url}"

    @property
    def api_key(self) -> str | None:
        """The key, if its environment variable is set."""
        return os.environ.get(self.api_key_env) or None


def read_options(config: AssessmentConfig, reference: str) -> EndpointOptions:
    """Check the backend options.

    Args:
        config: Settings of the assessment.
        reference: The model reference; ``endpoint:NAME`` names the served model too.

    Raises:
        ConfigError: An option is missing, unknown or unusable.
    """
    given: dict[str, Any] = dict(config.backend_options)
    if "api_key" in given:
        raise ConfigError(
            "backend_option.api_key",
            "...",
            "options are logged; put the key into OPENAI_API_KEY, or name another environment "
            "variable with api_key_env",
        )
    if reference.startswith(REFERENCE_PREFIX):
        given.setdefault("model", reference.removeprefix(REFERENCE_PREFIX))
    for name in ("base_url", "model"):
        value = given.pop(name, None)
        if value is not None and str(value).strip():
            given[name] = str(value)  # a model may be named 7
    try:
        options = EndpointOptions(**given)
    except ConfigError as error:
        name = f"backend_option.{error.field}"
        raise ConfigError(name, error.value, error.need) from error
    parts = urlsplit(options.base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        need = "an address such as http://host:8000/v1"
        raise ConfigError("backend_option.base_url", options.base_url, need)
    if parts.username or parts.password or parts.query:
        need = "an address without user, password or query: options are logged"
        raise ConfigError("backend_option.base_url", "...", need)
    _refuse_inexact(options, config)
    return options


def _refuse_inexact(options: EndpointOptions, config: AssessmentConfig) -> None:
    if options.entropy == "exact" and config.sampling.reshaping:
        raise ConfigError(
            "backend_option.entropy",
            "exact",
            "needs top_p=1, top_k=0, min_p=0 and repetition_penalty=1: the server refuses to put "
            "the entropy into what these make of the softmax",
        )
