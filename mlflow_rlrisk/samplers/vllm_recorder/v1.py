"""The recorder for vLLM's V1 model runner."""

from typing import Any

import torch
from vllm.v1.sample.logits_processor import LogitsProcessor

from mlflow_rlrisk.samplers.vllm_recorder.core import (
    RECORDER,
    is_recording_rank,
    refuse_engine,
    refuse_reshaped,
    uid_of,
)
from mlflow_rlrisk.samplers.vllm_recorder.v1_rows import BatchRows


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

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        """Begin with an empty batch; the arguments are vLLM's."""
        refuse_engine(vllm_config)
        self._is_recording = is_recording_rank(vllm_config)
        self._rows = BatchRows()

    def is_argmax_invariant(self) -> bool:
        """False puts it before vLLM's own ``min_p``, and before penalties and temperature."""
        return False

    def update_state(self, batch_update: Any) -> None:
        """Follow the batch; called before every step."""
        self._rows.update(batch_update, uid_of)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Record ``[R, V]`` logits, which this runner divides by the temperature later."""
        if self._is_recording:
            count = len(logits)
            RECORDER.record(
                logits,
                self._rows.numbers(count),
                self._rows.positions(count),
                self._rows.temperature(count, logits.device),
            )
        return logits
