"""The recorder for vLLM's V2 model runner (vLLM 0.31 and later)."""

from typing import Any

import torch
from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor

from mlflow_rlrisk.samplers.vllm_recorder.core import (
    RECORDER,
    is_recording_rank,
    refuse_engine,
    refuse_reshaped,
    uid_of,
)
from mlflow_rlrisk.samplers.vllm_recorder.v2_slots import Slots, one_row_each


class EntropyRecorder(LogitsProcessor):  # type: ignore[misc]
    """Records the entropy of every row of a request that has a uid; the logits stay as they are."""

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Refuse a recorded request whose entropy would be of another distribution.

        Raises:
            ValueError: It would.
        """
        if uid_of(sampling_params) >= 0:
            refuse_reshaped(sampling_params)

    def __init__(self, vllm_config: Any, req_states: Any) -> None:
        """Begin with empty slots; the arguments are vLLM's."""
        refuse_engine(vllm_config)
        self._is_recording = is_recording_rank(vllm_config)
        self._slots = Slots(req_states)

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        """Name the slot; without a true answer the engine would skip `apply`."""
        uid = uid_of(sampling_params)
        self._slots.assign(req_idx, uid, sampling_params)
        return uid >= 0

    def apply(self, logits: torch.Tensor, ctx: Any) -> torch.Tensor:
        """Record ``[R, V]`` logits, which this runner divides by the temperature later."""
        if self._is_recording:
            slots = one_row_each(logits, ctx)
            RECORDER.record(
                self._slots.without_penalty(logits, ctx),
                self._slots.numbers(slots),
                self._slots.positions(ctx),
                self._slots.temperature(slots, logits.device),
            )
        return logits
