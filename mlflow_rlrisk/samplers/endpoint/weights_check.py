"""Does an endpoint serve this checkpoint? A plain forward pass over a few of its answers tells.

Asked for with ``check_weights``, for it loads the weights on this machine. Sampled at temperature 1
without truncation, where every endpoint's logprobs mean the same.
"""

from dataclasses import replace

import numpy as np

from mlflow_rlrisk.checkpoint import Checkpoint
from mlflow_rlrisk.config import AssessmentConfig, SamplingConfig
from mlflow_rlrisk.errors import ConfigError, SamplerError
from mlflow_rlrisk.plurals import counted
from mlflow_rlrisk.samplers.endpoint.knowledge import Ask, Knowledge
from mlflow_rlrisk.samplers.endpoint.local_model import LocalModel
from mlflow_rlrisk.samplers.vllm_arguments import resolve_dtype
from mlflow_rlrisk.samplers.vllm_reference import TOLERANCE, ReferenceModel

CHECK_TOKENS = 16


def check_weights(
    ask: Ask, knowledge: Knowledge, local: LocalModel, config: AssessmentConfig
) -> str:
    """Compare the logprobs of a few sampled tokens with those of the checkpoint.

    Args:
        ask: Sends a body.
        knowledge: How the endpoint is asked.
        local: The checkpoint's tokenizer.
        config: Settings of the assessment; the dtype is that of the weights that are served.

    Returns:
        What was found, as a sentence.

    Raises:
        ConfigError: The endpoint tells no token ids or no logprobs, so nothing can be compared.
        SamplerError: The tokens or their logprobs are those of another model.
    """
    checkpoint: Checkpoint = local.checkpoint
    # With a word that carries entropies the logprobs would be those of all others.
    phrasing = replace(knowledge.phrasing, entropy_id=None)
    if not phrasing.has_extensions or phrasing.num_top is None:
        need = "the endpoint must tell token ids and logprobs; this one does not"
        raise ConfigError("backend_option.check_weights", True, need)
    sequences, told = [], []
    for content in local.probes():
        body = phrasing.body(content, temperature=1.0, max_tokens=CHECK_TOKENS, seed=1)
        choice = ask(phrasing, body).choices[0]
        local.refuse_foreign(choice.token_ids or ())
        sequences.append((content, list(choice.token_ids or ())))
        told.append([token.logprob for token in choice.tokens or ()])
    dtype = resolve_dtype(checkpoint, config.dtype)
    plain = config.model_copy(update={"sampling": SamplingConfig()})
    expected = ReferenceModel(checkpoint, plain, dtype, None).score(sequences)
    theirs = np.concatenate([each.logprobs for each in expected]).astype(np.float64)
    apart = np.abs(np.concatenate(told) - theirs)
    some = counted(apart.size, "token")
    found = f"{some}, logprob differs by {apart.mean():.1e} nats in the mean"
    if not apart.mean() <= TOLERANCE[dtype]:
        raise SamplerError(
            f"{phrasing.model} is not {checkpoint.display_name}: {found}, at most "
            f"{TOLERANCE[dtype]:g} is allowed"
        )
    return found
