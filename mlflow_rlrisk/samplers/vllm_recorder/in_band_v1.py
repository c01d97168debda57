"""The in-band processor for vLLM's V1 model runner; see `in_band` for how a server is started."""

from typing import Any

import torch
from vllm.v1.sample.logits_processor import LogitsProcessor

from mlflow_rlrisk.samplers.vllm_recorder.core import refuse_engine
from mlflow_rlrisk.samplers.vllm_recorder.in_band_rows import (
    check_request,
    entropy_id_of,
    write_entropies,
)
from mlflow_rlrisk.samplers.vllm_recorder.v1_rows import BatchRows


class InBandEntropy(LogitsProcessor):  # type: ignore[misc]
    """Writes the entropy of a row into the logprob of a word that the tokenizer does not have."""

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Refuse a request whose entropy would not come back, or would be of something else.

        Raises:
            ValueError: It would.
        """
        check_request(sampling_params)

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        """Begin with an empty batch; the arguments are vLLM's."""
        refuse_engine(vllm_config)
        self._rows = BatchRows()

    def is_argmax_invariant(self) -> bool:
        """True puts it after the temperature and before top-k and top-p."""
        return True

    def update_state(self, batch_update: Any) -> None:
        """Follow the batch; called before every step."""
        self._rows.update(batch_update, entropy_id_of)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Change ``[R, V]`` logits, which are divided by the temperature already."""
        return write_entropies(logits, self._rows.numbers(len(logits)))
