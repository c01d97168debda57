"""Entropies beside the logprobs of an OpenAI-compatible vLLM server: names, and how they are read.

A server is started with a processor of this package and with logprobs of the processed
distribution; which class depends on the server's model runner (vLLM 0.31 and later run ``v2``
unless ``VLLM_USE_V2_MODEL_RUNNER=0`` is set, or a feature of the model makes it fall back)::

    python -m vllm.entrypoints.openai.api_server --model CHECKPOINT \
        --logits-processors mlflow_rlrisk.samplers.vllm_recorder.in_band_v2:InBandEntropy \
        --logprobs-mode processed_logprobs --generation-config vllm

A request names a word that the tokenizer does not have (embeddings are padded; Qwen2.5 has 271 such
words) and asks for its logprob::

    {"prompt": [1, 2], "max_tokens": 64, "temperature": 1.0, "seed": 7, "logprobs": 1,
     "logprob_token_ids": [151935], "vllm_xargs": {"rlrisk_entropy_id": 151935},
     "return_token_ids": true, "return_tokens_as_token_ids": true}

The processor gives that word the logprob ``-128 - H``, whose probability is 0 in float32, so it is
never sampled; `entropy_of` reads ``H`` from it. Entropy and logprobs are those of the distribution
without that word, which is the one that is sampled from. Values near -128 have a float32 spacing of
1.5e-5 nats. Requests with top-k, top-p, min-p or penalties are refused by the server: they would
cut the word away or change the distribution.
"""

import math
from collections.abc import Sequence
from typing import Any

from mlflow_rlrisk.errors import CheckpointError, SamplerError
from mlflow_rlrisk.samplers.vllm_recorder import Runner

IN_BAND: dict[Runner, str] = {
    "v1": "mlflow_rlrisk.samplers.vllm_recorder.in_band_v1:InBandEntropy",
    "v2": "mlflow_rlrisk.samplers.vllm_recorder.in_band_v2:InBandEntropy",
}
"""``--logits-processors`` of a server, by its model runner."""

ENTROPY_ID = "rlrisk_entropy_id"
"""Key of ``vllm_xargs`` (``extra_args`` in Python): the word whose logprob carries the entropy."""

OFFSET = 128.0
"""exp(-128) is 0 in float32, so that the word is never sampled and takes no mass."""

TOLERANCE = 1e-3
"""A logprob may lie so far outside of its range by rounding; further off it is no entropy."""


def server_arguments(runner: Runner) -> list[str]:
    """What is added to the command line of a vLLM server."""
    return [
        *("--logits-processors", IN_BAND[runner]),
        *("--logprobs-mode", "processed_logprobs"),
        *("--generation-config", "vllm"),
    ]


def request_fields(entropy_id: int) -> dict[str, Any]:
    """What is added to the body of a request so that every token brings its entropy."""
    return {"logprob_token_ids": [entropy_id], "vllm_xargs": {ENTROPY_ID: entropy_id}}


def spare_token_id(vocab_size: int, token_ids: Sequence[int]) -> int:
    """The last word of the model's head that the tokenizer does not have.

    Args:
        vocab_size: ``vocab_size`` of the model's ``config.json``.
        token_ids: All ids of the tokenizer.

    Raises:
        CheckpointError: There is none, so entropies cannot travel in band.
    """
    taken = set(token_ids)
    spare = next((i for i in range(vocab_size - 1, -1, -1) if i not in taken), None)
    if spare is None:
        raise CheckpointError(
            f"all {vocab_size} words of the model are the tokenizer's: none is left that could "
            "carry the entropy beside the logprobs"
        )
    return spare


def entropy_of(logprob: float, vocab_size: int) -> float:
    """The entropy (nats) that the spare word's logprob carries.

    Raises:
        SamplerError: It carries none: the server runs without the processor, or with other
            logprobs than processed ones.
    """
    entropy = -OFFSET - logprob
    if not -TOLERANCE <= entropy <= math.log(vocab_size) + TOLERANCE:
        raise SamplerError(
            f"the spare word has logprob {logprob}, which carries no entropy of {vocab_size} words:"
            " the server needs the in-band processor and --logprobs-mode processed_logprobs"
        )
    return min(max(entropy, 0.0), math.log(vocab_size))
