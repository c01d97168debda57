"""Are an endpoint's logprobs those before or after penalty, temperature and truncation?

The APIs do not say it, vLLM's default is before, and a wrong guess scales every logprob. So the
same prompt is asked plain and as it will be sampled, and the first position is compared.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from mlflow_rlrisk.config import SamplingConfig
from mlflow_rlrisk.samplers.endpoint.answers import Answer
from mlflow_rlrisk.samplers.endpoint.options import EndpointOptions
from mlflow_rlrisk.samplers.endpoint.requests import Content, Phrasing

Mode = Literal["raw", "processed", "unknown"]

IMPOSSIBLE = -1000.0
"""Servers write -inf as -9999; no float32 softmax goes below -1000 otherwise."""
APART_NATS = 0.05
"""The two hypotheses must differ by this much; kernels of other batch sizes differ by less."""
LIKELIER = 5.0
"""The better hypothesis must fit so many times better."""
PROBE_TEMPERATURE = 2.0
"""Shows the mode where a penalty alone is sampled with: what that does depends on the logits, which
are not told."""

Tops = Mapping[Hashable, float]


def mode_of(
    ask: Callable[[Phrasing, Mapping[str, Any]], Answer],
    phrasing: Phrasing,
    contents: Sequence[Content],
    sampling: SamplingConfig,
    options: EndpointOptions,
) -> Mode:
    """What the options say, else what the answers to a few prompts show.

    Args:
        ask: Sends a body and returns the checked answer.
        phrasing: How to ask.
        contents: Prompts to compare.
        sampling: How rollouts will be drawn; plain sampling makes both modes the same.
        options: May name the mode.
    """
    if phrasing.entropy_id is not None:
        return "processed"  # the entropies could not have been read otherwise
    if options.logprobs_mode != "auto":
        return options.logprobs_mode
    if sampling.temperature == 1.0 and not sampling.reshaping:
        return "processed"
    if not phrasing.num_top:
        return "unknown"
    sampling = sampling.model_copy(update={"repetition_penalty": 1.0})
    if sampling.temperature == 1.0 and not sampling.reshaping:
        sampling = sampling.model_copy(update={"temperature": PROBE_TEMPERATURE})
    for content in contents:
        plain = _first_tops(ask(phrasing, phrasing.body(content, temperature=1.0, max_tokens=1)))
        shaped_body = phrasing.body(
            content,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            min_p=sampling.min_p,
            max_tokens=1,
            seed=0,
        )
        found = compare(plain, _first_tops(ask(phrasing, shaped_body)), sampling)
        if found != "unknown":
            return found
    return "unknown"


def compare(plain: Tops, shaped: Tops, sampling: SamplingConfig) -> Mode:
    """Which mode explains the logprobs of one position.

    Args:
        plain: The most likely tokens at temperature 1 without truncation.
        shaped: Those of the same position with the settings.
        sampling: Its temperature, top_p, top_k and min_p.
    """
    if sampling.temperature != 1.0:
        return _by_temperature(plain, shaped, sampling.temperature)
    return _by_truncation(plain, shaped, sampling)


def _by_temperature(plain: Tops, shaped: Tops, temperature: float) -> Mode:
    """Differences of logprobs shrink by the temperature, or they do not."""
    both = [key for key in plain if shaped.get(key, IMPOSSIBLE) > IMPOSSIBLE]
    if len(both) < 2:
        return "unknown"
    before = np.array([plain[key] for key in both])
    after = np.array([shaped[key] for key in both])
    before, after = before - before[0], after - after[0]
    raw, processed = (float(np.abs(after - each).max()) for each in (before, before / temperature))
    worse, better = max(raw, processed), min(raw, processed)
    if worse < APART_NATS or worse < LIKELIER * better:
        return "unknown"
    return "raw" if raw < processed else "processed"


def _by_truncation(plain: Tops, shaped: Tops, sampling: SamplingConfig) -> Mode:
    """A token that truncation takes away keeps its logprob, or it does not."""
    ranked = sorted(plain, key=lambda key: -plain[key])
    probs = np.exp([plain[key] for key in ranked])
    before = np.cumsum(probs) - probs
    is_cut = before > sampling.top_p + 1e-3
    is_cut |= probs < sampling.min_p * probs[:1] - 1e-3
    if sampling.top_k:
        is_cut |= np.arange(len(ranked)) >= sampling.top_k
    cut = [key for key, gone in zip(ranked, is_cut, strict=True) if gone]
    if not cut:
        return "unknown"
    return "raw" if shaped.get(cut[0], IMPOSSIBLE) > IMPOSSIBLE else "processed"


def _first_tops(answer: Answer) -> Tops:
    tokens = answer.choices[0].tokens
    return dict(tokens[0].top) if tokens else {}
