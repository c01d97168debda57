"""The in-band processors' common part: checking a request, and writing the entropy into its row."""

from typing import Any

import numpy as np
import torch

from mlflow_rlrisk.samplers.vllm_recorder.core import (
    Indices,
    on_device,
    refuse_reshaped,
    row_statistics,
)
from mlflow_rlrisk.samplers.vllm_recorder.in_band import ENTROPY_ID, OFFSET


def entropy_id_of(sampling_params: Any) -> int:
    """The word that carries a request's entropy, -1 where none was asked for."""
    return int((sampling_params.extra_args or {}).get(ENTROPY_ID, -1))


def check_request(sampling_params: Any) -> None:
    """Refuse a request whose entropy would not come back, or would be of something else.

    Raises:
        ValueError: It would.
    """
    word = entropy_id_of(sampling_params)
    if word < 0:
        return
    refuse_reshaped(sampling_params)
    neutral = {"top_p": (1.0,), "top_k": (0, -1), "min_p": (0.0,), "repetition_penalty": (1.0,)}
    settings = {name: getattr(sampling_params, name) for name in neutral}
    if any(settings[name] not in values for name, values in neutral.items()):
        raise ValueError(
            f"{settings}: truncation removes the word that carries the entropy, a penalty makes it "
            "that of another distribution; sample from the softmax"
        )
    if word not in (sampling_params.logprob_token_ids or ()):
        raise ValueError(f"{ENTROPY_ID}={word}: logprob_token_ids must ask for this word's logprob")


def write_entropies(
    logits: torch.Tensor, words: Indices, temperature: "float | torch.Tensor" = 1.0
) -> torch.Tensor:
    """Give each row's word the logprob ``-OFFSET - H``, in place.

    Args:
        logits: ``[R, V]``, changed at one word a row.
        words: The word of each row, ``[R]``; -1 leaves the row as it is.
        temperature: What the engine will still divide the rows by; a number or ``[R]``.

    Returns:
        ``logits``.
    """
    wanted = np.flatnonzero(words >= 0)
    if not wanted.size:
        return logits
    place: Any
    if (words == words[0]).all():  # clients of one model: nothing has to be told to the device
        place = (slice(None), int(words[0]))
    else:
        columns = on_device(words[wanted], logits.device)
        place = (on_device(wanted, logits.device), columns)
    logits[place] = -torch.inf
    found = row_statistics(logits, temperature)
    carried = (found.log_normalisers - OFFSET - found.entropies) * temperature
    logits[place] = carried[place[0]].to(logits.dtype)
    return logits
