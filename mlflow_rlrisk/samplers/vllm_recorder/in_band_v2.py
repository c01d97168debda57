"""The in-band processor for vLLM's V2 model runner; see `in_band` for how a server is started."""

from typing import Any

import torch
from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor

from mlflow_rlrisk.samplers.vllm_recorder.core import refuse_engine
from mlflow_rlrisk.samplers.vllm_recorder.in_band_rows import (
    check_request,
    entropy_id_of,
    write_entropies,
)
from mlflow_rlrisk.samplers.vllm_recorder.v2_slots import Slots, one_row_each


class InBandEntropy(LogitsProcessor):  # type: ignore[misc]
    """Writes the entropy of a row into the logprob of a word that the tokenizer does not have."""

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Refuse a request whose entropy would not come back, or would be of something else.

        Raises:
            ValueError: It would.
        """
        check_request(sampling_params)

    def __init__(self, vllm_config: Any, req_states: Any) -> None:
        """Begin with empty slots; the arguments are vLLM's."""
        refuse_engine(vllm_config)
        self._slots = Slots(req_states)

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        """Remember the slot's word; without a true answer the engine would skip `apply`."""
        word = entropy_id_of(sampling_params)
        self._slots.assign(req_idx, word, sampling_params)
        return word >= 0

    def apply(self, logits: torch.Tensor, ctx: Any) -> torch.Tensor:
        """Change ``[R, V]`` logits, which this runner divides by the temperature later."""
        slots = one_row_each(logits, ctx)
        words = self._slots.numbers(slots)
        return write_entropies(logits, words, self._slots.temperature(slots, logits.device))
