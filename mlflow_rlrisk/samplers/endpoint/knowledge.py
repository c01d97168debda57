"""What the answers of an endpoint can tell, found out before anything is sampled.

Endpoints differ in what they understand, how many logprobs they give and whether those are of the
distribution that is sampled from (vLLM's default is not: they are taken before penalty, temperature
and truncation). A few short requests find it out; what stays open is treated as unknown.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from mlflow_rlrisk.config import SamplingConfig
from mlflow_rlrisk.errors import SamplerError
from mlflow_rlrisk.plurals import counted
from mlflow_rlrisk.samplers.endpoint.answers import Answer, TokenTold
from mlflow_rlrisk.samplers.endpoint.client import EndpointRefusedError
from mlflow_rlrisk.samplers.endpoint.logprobs_mode import Mode, mode_of
from mlflow_rlrisk.samplers.endpoint.options import EndpointOptions
from mlflow_rlrisk.samplers.endpoint.requests import Content, Phrasing
from mlflow_rlrisk.samplers.vllm_recorder.in_band import OFFSET

PROBE_TOKENS = 8
FEWER_LOGPROBS = (5, 1)
"""Asked for where the endpoint refuses as many as wanted; the completions API ends at 5."""

Ask = Callable[[Phrasing, Mapping[str, Any]], Answer]
"""Sends one body and returns the checked answer; errors are those of `EndpointClient.post`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Knowledge:
    """What is known of every generated token, and how it is asked for.

    Attributes:
        phrasing: How requests are phrased.
        num_known: Most likely tokens that every answer has at every position. One fewer than are
            told where the sampled token may have taken the last one's place (vLLM's chat API): that
            the set is the same whatever was sampled is what keeps estimates unbiased.
        entropy: ``exact``, ``bounds`` (from the most likely tokens) or ``none``.
        mode: Of which distribution the logprobs are.
        has_estimate: The tokens are drawn from the distribution whose logprobs are told.
        has_logprobs: The logprobs told are those of the distribution that is sampled from.
        max_new_tokens: Most tokens that a rollout is asked to have.
        why: What is known of entropies and why not more, as a sentence.
        token_s: Seconds a token took in the probe.
    """

    phrasing: Phrasing
    num_known: int
    entropy: Literal["exact", "bounds", "none"]
    mode: Mode
    has_estimate: bool
    has_logprobs: bool
    max_new_tokens: int
    why: str
    token_s: float


def find_out(
    ask: Ask,
    first: Phrasing,
    contents: Sequence[Content],
    sampling: SamplingConfig,
    options: EndpointOptions,
    entropy_id: int | None,
) -> Knowledge:
    """Try the phrasings from the most telling to the plainest; the first that is answered holds.

    Args:
        ask: Sends a body.
        first: Model, API and stop tokens.
        contents: Short prompts to probe with.
        sampling: How rollouts will be drawn.
        options: What is wanted.
        entropy_id: The word that could carry exact entropies, where there is one.

    Raises:
        EndpointRefusedError: The endpoint refuses every phrasing.
        EndpointFailedError: It does not answer.
        SamplerError: It cannot do what the options or the sampling settings need.
    """
    refusal: EndpointRefusedError | None = None
    for phrasing in _phrasings(first, sampling, options, entropy_id):
        try:
            answer, phrasing, token_s = _probe(ask, phrasing, contents[0], sampling)
        except EndpointRefusedError as error:
            if error.status not in (400, 422):
                raise
            refusal = error
            continue
        tokens = answer.choices[0].tokens or ()
        if phrasing.entropy_id is not None and not _carries(tokens, phrasing.entropy_id):
            continue
        phrasing = replace(
            phrasing, has_extensions=answer.choices[0].token_ids is not None, num_top=_told(tokens)
        )
        _refuse_unheard(phrasing, sampling, options)
        mode = mode_of(ask, phrasing, contents, sampling, options)
        return _knowledge(phrasing, mode, sampling, options, token_s)
    if options.entropy == "exact":
        raise SamplerError(
            f"{options.base_url} does not send exact entropies: start the server with the command "
            f"that `rlrisk serve-vllm` prints{f' ({refusal})' if refusal else ''}"
        )
    raise refusal or SamplerError(f"{options.base_url} answers no request")


def _phrasings(
    first: Phrasing, sampling: SamplingConfig, options: EndpointOptions, entropy_id: int | None
) -> Iterator[Phrasing]:
    first = replace(first, sends_seed=options.send_seed)
    is_whole = not sampling.reshaping
    if options.entropy in ("auto", "exact") and entropy_id is not None and is_whole:
        yield replace(first, has_extensions=True, num_top=1, entropy_id=entropy_id)
    if options.entropy == "exact":
        return
    wanted = 0 if options.entropy == "none" else options.top_logprobs
    counts = [wanted, *(count for count in FEWER_LOGPROBS if count < wanted)]
    for has_extensions in (True, False):
        for count in (*counts, None):
            yield replace(first, has_extensions=has_extensions, num_top=count)


def _probe(
    ask: Ask, phrasing: Phrasing, content: Content, sampling: SamplingConfig
) -> tuple[Answer, Phrasing, float]:
    """A short greedy answer: its tokens are always among the most likely ones.

    In-band entropies exist for sampled tokens only.
    """
    is_exact = phrasing.entropy_id is not None
    for limit_field in (phrasing.limit_field, "max_completion_tokens"):
        phrasing = replace(phrasing, limit_field=limit_field)
        body = phrasing.body(
            content,
            temperature=sampling.temperature if is_exact else 0.0,
            max_tokens=PROBE_TOKENS,
            seed=0,
        )
        started = time.perf_counter()
        try:
            answer = ask(phrasing, body)
        except EndpointRefusedError as error:
            if "max_completion_tokens" in error.message and limit_field == "max_tokens":
                continue
            raise
        count = len(answer.choices[0].tokens or ()) or answer.completion_tokens or 1
        return answer, phrasing, (time.perf_counter() - started) / count
    raise AssertionError("unreachable")


def _carries(tokens: Sequence[TokenTold], entropy_id: int) -> bool:
    """True where every token brings an entropy; a word that was merely asked for does not."""
    values = [dict(token.top).get(f"token_id:{entropy_id}", 0.0) for token in tokens]
    return bool(values) and all(-2 * OFFSET < value <= 1e-3 - OFFSET for value in values)


def _told(tokens: Sequence[TokenTold]) -> int | None:
    """How many of the most likely tokens are told, of every position; ``None``: no logprobs."""
    return min((len(token.top) for token in tokens), default=None)


def _refuse_unheard(phrasing: Phrasing, sampling: SamplingConfig, options: EndpointOptions) -> None:
    for name in ("top_k", "min_p", "repetition_penalty", "stop"):
        value = getattr(sampling, name)
        if value != getattr(SamplingConfig(), name) and not phrasing.has_extensions:
            raise SamplerError(
                f"{options.base_url} does not say that it knows {name} as vLLM does: "
                f"{name}={value} might not be applied; leave it out"
            )


def _knowledge(
    phrasing: Phrasing,
    mode: Mode,
    sampling: SamplingConfig,
    options: EndpointOptions,
    token_s: float,
) -> Knowledge:
    is_whole = not sampling.reshaping
    is_processed = mode == "processed" or (is_whole and sampling.temperature == 1.0)
    # Raw logprobs are those at temperature 1 of all tokens, processed ones what is sampled from.
    fits_softmax = is_whole if is_processed else mode == "raw" and sampling.temperature == 1.0
    adds_sampled = phrasing.api == "completions" and phrasing.has_extensions
    num_known = max((phrasing.num_top or 0) - (0 if adds_sampled else 1), 0)
    entropy: Literal["exact", "bounds", "none"] = "none"
    if phrasing.entropy_id is not None:
        entropy = "exact"
        why = (
            "token entropies are exact: the server computes them from all logits but that of "
            f"word {phrasing.entropy_id}, which the tokenizer lacks and which is never sampled"
        )
    elif options.entropy == "none":
        why = "token entropies are not known: they were not asked for"
    elif num_known == 0:
        why = "token entropies are not known: the endpoint tells too few tokens' logprobs"
    elif not fits_softmax:
        why = f"token entropies are not known: {_misfit(mode, sampling)}"
    else:
        entropy = "bounds"
        why = (
            f"token entropies are bounded by the {counted(num_known, 'most likely token')}"
            + (", and estimated with them without bias" if is_whole else "")
            + "; they are not exact"
        )
    return Knowledge(
        phrasing=phrasing,
        num_known=num_known,
        entropy=entropy,
        mode=mode,
        has_estimate=entropy == "bounds" and is_whole,
        has_logprobs=phrasing.num_top is not None and is_processed,
        max_new_tokens=sampling.max_new_tokens,
        why=why,
        token_s=token_s,
    )


def _misfit(mode: Mode, sampling: SamplingConfig) -> str:
    if mode == "processed":
        return (
            "the endpoint's logprobs are those of what it samples from, which is not the softmax "
            f"({sampling.reshaping})"
        )
    if mode == "raw":
        return (
            f"the endpoint's logprobs are those at temperature 1, and do not tell the entropy at "
            f"{sampling.temperature:g} (vLLM: --logprobs-mode processed_logprobs)"
        )
    return (
        "whether the endpoint's logprobs are those before or after penalty, temperature and "
        "truncation could not be found out (backend option logprobs_mode says it)"
    )
