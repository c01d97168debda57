"""Which request stands in which row of vLLM's V1 batch: kept from its updates."""

from typing import Any

import numpy as np
import torch

from mlflow_rlrisk.samplers.vllm_recorder.core import Indices, one_or_each


class BatchRows:
    """Follows the persistent batch of the V1 model runner.

    One number a request (`assign` says which, -1 for none), its temperature and the list of its
    generated tokens, which the runner appends to.
    """

    def __init__(self) -> None:
        self._rows: dict[int, tuple[int, float, list[int]]] = {}

    def update(self, batch_update: Any, assign: Any) -> None:
        """Apply a ``BatchUpdate``: removed, then added, then moved requests.

        Args:
            batch_update: What changed, or ``None``.
            assign: Called with a request's `SamplingParams`; gives its number.
        """
        if batch_update is None:
            return
        for index in batch_update.removed:
            self._rows.pop(index, None)
        for index, params, _, output_ids in batch_update.added:
            self._rows[index] = (assign(params), params.temperature, output_ids)
        for source, target, direction in batch_update.moved:
            moving, other = self._rows.pop(source, None), self._rows.pop(target, None)
            if moving is not None:
                self._rows[target] = moving
            if direction.name == "SWAP" and other is not None:
                self._rows[source] = other

    def numbers(self, num_rows: int) -> Indices:
        """The number of each row, -1 where there is no request, shape ``[R]``."""
        return np.fromiter(
            (self._rows[i][0] if i in self._rows else -1 for i in range(num_rows)),
            dtype=np.int64,
            count=num_rows,
        )

    def temperature(self, num_rows: int, device: torch.device) -> "float | torch.Tensor":
        """What the engine will divide the rows by: a number where all agree, else ``[R]``."""
        found = np.fromiter(
            (self._rows[i][1] if i in self._rows else 1.0 for i in range(num_rows)),
            dtype=np.float32,
            count=num_rows,
        )
        return one_or_each(found, device)

    def positions(self, num_rows: int) -> Indices:
        """Index of the generated token that each row is sampled from, shape ``[R]``.

        Only the length of the list is read: with asynchronous scheduling its last values are not
        there yet.
        """
        return np.fromiter(
            (len(self._rows[i][2]) if i in self._rows else -1 for i in range(num_rows)),
            dtype=np.int64,
            count=num_rows,
        )
