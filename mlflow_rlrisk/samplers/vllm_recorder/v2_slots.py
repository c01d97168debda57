"""What a processor of vLLM's V2 model runner knows of its rows: the state of their slots."""

from typing import Any

import numpy as np
import torch

from mlflow_rlrisk.plurals import counted
from mlflow_rlrisk.samplers.repetition_penalty import penalised
from mlflow_rlrisk.samplers.vllm_recorder.core import Indices, on_device, one_or_each


class Slots:
    """Number, temperature and penalty of each request slot; slots are reused without notice."""

    def __init__(self, req_states: Any) -> None:
        self._prompt_lengths = req_states.prompt_len
        self._words = req_states.all_token_ids
        self._numbers = np.full(req_states.max_num_reqs, -1, dtype=np.int64)
        self._temperatures = np.ones(req_states.max_num_reqs, dtype=np.float32)
        self._penalties = np.ones(req_states.max_num_reqs, dtype=np.float32)

    def assign(self, slot: int, number: int, sampling_params: Any) -> None:
        """A request enters a slot: overwrite what the last one left."""
        self._numbers[slot] = number
        self._temperatures[slot] = sampling_params.temperature
        self._penalties[slot] = sampling_params.repetition_penalty

    def numbers(self, slots: Indices) -> Indices:
        """The number of each row, -1 where there is none, shape ``[R]``."""
        return self._numbers[slots]

    def positions(self, context: Any) -> Indices:
        """Index of the generated token that each row is sampled from, shape ``[R]``.

        Negative within the prompt. After a preemption the prompt is still the user's, so that
        tokens which are filled in again keep their index.
        """
        slots = context.idx_mapping_np
        visible = np.asarray(context.seq_lens_upper_bound_np[: len(slots)], dtype=np.int64)
        lengths: Indices = self._prompt_lengths.np[slots]
        return visible - lengths

    def temperature(self, slots: Indices, device: torch.device) -> "float | torch.Tensor":
        """What the engine will divide the rows by: a number where all agree, else ``[R]``."""
        return one_or_each(self._temperatures[slots], device)

    def without_penalty(self, logits: torch.Tensor, context: Any) -> torch.Tensor:
        """The logits ``[R, V]`` as they were before the engine's repetition penalty.

        This runner applies it before any processor of others, and tells them which words it saw.
        """
        penalties = self._penalties[context.idx_mapping_np]
        if (penalties == 1.0).all():
            return logits
        longest = int(context.seq_lens_upper_bound_np.max())
        words = self._words.gpu[:, :longest].index_select(0, context.idx_mapping).long()
        is_text = torch.arange(longest, device=words.device) <= context.pos[:, None]
        seen = torch.where(is_text, words, words[:, :1])
        return penalised(logits, seen, on_device(1.0 / penalties, logits.device)[:, None])


def one_row_each(logits: torch.Tensor, context: Any) -> Indices:
    """The slot of each row, shape ``[R]``.

    Raises:
        RuntimeError: A request has several rows, as under speculative decoding.
    """
    slots: Indices = context.idx_mapping_np
    if len(slots) != len(logits):
        raise RuntimeError(
            f"{counted(len(logits), 'row')} of logits for {counted(len(slots), 'request')}: "
            "one row a request is needed"
        )
    return slots
