"""How a request is phrased: the common API, and what vLLM understands beyond it."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mlflow_rlrisk.config import SamplingConfig
from mlflow_rlrisk.samplers.endpoint.options import Api
from mlflow_rlrisk.samplers.vllm_recorder.in_band import request_fields

Content = str | Sequence[int] | Sequence[dict[str, str]]
"""A prompt as it is sent: text or token ids (completions), or the turns of a chat."""

PATHS: dict[Api, str] = {"completions": "/completions", "chat": "/chat/completions"}

SEEDS = 2**31
"""Seeds that every known server takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Phrasing:
    """What the requests of an assessment have in common.

    Attributes:
        model: Name of the served model.
        api: Which API is asked.
        stop_ids: Stop tokens that are named to a server with extensions.
        has_extensions: The server understands vLLM's fields: token ids, penalties.
        num_top: Most likely tokens asked for; ``None`` asks for no logprobs at all.
        entropy_id: The word that carries the exact entropy; ``None`` asks for none.
        limit_field: Name of the token limit; newer chat models know another one only.
        sends_seed: Whether requests have a seed.
    """

    model: str
    api: Api
    stop_ids: tuple[int, ...] = ()
    has_extensions: bool = False
    num_top: int | None = None
    entropy_id: int | None = None
    limit_field: str = "max_tokens"
    sends_seed: bool = True

    def body(
        self,
        content: Content,
        *,
        temperature: float,
        max_tokens: int,
        top_p: float = 1.0,
        top_k: int = 0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        stop: Sequence[str] = (),
        num_choices: int = 1,
        seed: int | None = None,
    ) -> dict[str, Any]:
        """The JSON body of one request."""
        body: dict[str, Any] = {
            "model": self.model,
            "temperature": temperature,
            "top_p": top_p,
            "n": num_choices,
            self.limit_field: max_tokens,
        }
        if self.sends_seed and seed is not None:
            body["seed"] = seed
        if self.api == "chat":
            body["messages"] = list(content)
            if self.num_top is not None:
                body |= {"logprobs": True, "top_logprobs": self.num_top}
        else:
            body["prompt"] = content if isinstance(content, str) else list(content)
            if self.num_top is not None:
                body["logprobs"] = self.num_top
        if self.has_extensions:
            # Nothing is left to the defaults, which may come from the model's generation_config.
            body |= {
                "top_k": top_k or -1,
                "min_p": min_p,
                "repetition_penalty": repetition_penalty,
                "stop_token_ids": list(self.stop_ids),
                "return_token_ids": True,
                "return_tokens_as_token_ids": True,
            }
        if stop:
            body |= {"stop": list(stop), "include_stop_str_in_output": True}
        if self.entropy_id is not None:
            body |= {"logprobs": 1, **request_fields(self.entropy_id)}
        return body

    def sampled(
        self, content: Content, sampling: SamplingConfig, num_choices: int, seed: int
    ) -> dict[str, Any]:
        """The body that draws ``num_choices`` rollouts."""
        return self.body(
            content,
            temperature=sampling.temperature,
            max_tokens=sampling.max_new_tokens,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            min_p=sampling.min_p,
            repetition_penalty=sampling.repetition_penalty,
            stop=sampling.stop,
            num_choices=num_choices,
            seed=seed,
        )


def seed_of(seed: int, prompt_id: str, sample_index: int) -> int:
    """The seed of a rollout: distinct for all samples of a prompt.

    Servers give the choices of one request the seeds ``seed, seed + 1, ...``, so that a rollout has
    the same seed however many are asked for at once.
    """
    digest = hashlib.sha256(f"{seed}/{prompt_id}".encode()).digest()
    return (int.from_bytes(digest[:8], "little") + sample_index) % SEEDS
