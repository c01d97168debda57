"""The part that both runners and both ways back share: statistics of rows, and their log.

Rows are logits of one step, ``[R, V]``. Nothing here waits for the device.
"""

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mlflow_rlrisk.kernels.powers_of_two import BITS, LOWEST
from mlflow_rlrisk.samplers.vllm_recorder import UID

if TYPE_CHECKING:
    import torch

Indices = npt.NDArray[np.int64]

TILE_ELEMENTS = {"cpu": 2**19, "cuda": 2**23}
"""Logits worked on together: 2 MB stay in the cache, 32 MB fill a GPU. vLLM does not see this
memory when it measures how much it may use."""

BLOCK = 2**16
"""Records that are drained at once: 1 MB."""


@dataclass(frozen=True, slots=True, eq=False)
class RowStatistics:
    """Float32 ``[R]``, nats: of the softmax of each row at its temperature."""

    log_normalisers: "torch.Tensor"
    entropies: "torch.Tensor"


def row_statistics(
    logits: "torch.Tensor", temperature: "float | torch.Tensor | None" = None
) -> RowStatistics:
    """Exact entropy and log normaliser of every row.

    ``H = log S - sum(e * z) / S`` with ``z`` shifted by its maximum, ``e = exp(z)`` and ``S`` their
    sum: without the shift, fp32 cancels up to 3e-4 nats at 152k words. On CUDA a kernel reads each
    logit once; elsewhere PyTorch does it tile by tile.

    Args:
        logits: ``[R, V]``; left as they are. -inf masks a word.
        temperature: Divides the logits; a number, or one a row ``[R]``.
    """
    if logits.is_cuda:
        from mlflow_rlrisk.samplers.vllm_recorder.row_route import works

        if works(logits.device):
            from mlflow_rlrisk.samplers.vllm_recorder.row_kernel import row_values

            return RowStatistics(*row_values(logits, temperature))
    return tiled_statistics(logits, temperature)


def tiled_statistics(
    logits: "torch.Tensor", temperature: "float | torch.Tensor | None"
) -> RowStatistics:
    """`row_statistics` without the kernel, in two buffers of a tile's size."""
    import torch

    num_rows, num_words = logits.shape
    log_normalisers = torch.empty(num_rows, dtype=torch.float32, device=logits.device)
    entropies = torch.empty_like(log_normalisers)
    rows = min(num_rows, max(1, TILE_ELEMENTS.get(logits.device.type, 2**23) // num_words))
    buffers = torch.empty((2, rows, num_words), dtype=torch.float32, device=logits.device)
    scale = BITS / (1.0 if temperature is None else temperature)
    for start in range(0, num_rows, rows):
        tile = slice(start, start + rows)
        block = logits[tile]
        z, e = buffers[:, : len(block)]
        largest = block.amax(dim=1, keepdim=True).float()
        if isinstance(scale, float):
            shift = largest * scale
            torch.add(-shift, block, alpha=scale, out=z)  # one rounding, however large the logits
        else:
            shift = largest * scale[tile, None]
            torch.sub(block, largest, out=z).mul_(scale[tile, None])
        torch.exp2(z.clamp_(min=LOWEST), out=e)
        total = e.sum(dim=1)
        log_total = total.log()
        log_normalisers[tile] = log_total + shift[:, 0] / BITS
        entropies[tile] = log_total - z.mul_(e).sum(dim=1) / (BITS * total)
    return RowStatistics(log_normalisers, entropies.clamp_(min=0.0))


def one_or_each(values: npt.NDArray[np.float32], device: "torch.device") -> "float | torch.Tensor":
    """Temperatures of rows: a number where all agree, else ``[R]`` on the device."""
    if (values == values[0]).all():
        return float(values[0])
    return on_device(values, device)


def on_device(values: npt.NDArray[Any], device: "torch.device") -> "torch.Tensor":
    """A copy that the host does not wait for: pageable memory would make it wait on CUDA."""
    import torch

    tensor = torch.from_numpy(values)
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


class _Block:
    """Up to `BLOCK` records; names on the host, entropies on the device."""

    def __init__(self, device: "torch.device") -> None:
        import torch

        self.size = 0
        self.uids = np.empty(BLOCK, dtype=np.int64)
        self.positions = np.empty(BLOCK, dtype=np.int32)
        self.entropies = torch.empty(BLOCK, dtype=torch.float32, device=device)

    def add(self, uids: Indices, positions: Indices, entropies: "torch.Tensor") -> int:
        """Take what fits and return how many that is."""
        count = min(len(uids), BLOCK - self.size)
        place = slice(self.size, self.size + count)
        self.uids[place], self.positions[place] = uids[:count], positions[:count]
        self.entropies[place] = entropies[:count]
        self.size += count
        return count


class Recorder:
    """The entropies that were computed and not yet drained, in the order of the steps.

    A token may be recorded more than once (vLLM samples rows of a partial prefill and throws them
    away); the last record of a token is the one that was sampled from.
    """

    def __init__(self) -> None:
        self._blocks: deque[_Block] = deque()

    def record(
        self,
        logits: "torch.Tensor",
        uids: Indices,
        positions: Indices,
        temperature: "float | torch.Tensor | None" = None,
    ) -> None:
        """Compute and keep the entropies of the rows that belong to a recorded request.

        Args:
            logits: ``[R, V]``.
            uids: Request of each row, ``[R]``; negative for rows that nobody asked for.
            positions: Index of the generated token that each row is sampled from, ``[R]``;
                negative for rows within the prompt.
            temperature: Divides the logits; a number, or one a row ``[R]``.
        """
        wanted = np.flatnonzero((uids >= 0) & (positions >= 0))
        if not wanted.size:
            return
        entropies = row_statistics(logits, temperature).entropies
        if wanted.size < len(uids):
            uids, positions = uids[wanted], positions[wanted]
            entropies = entropies.index_select(0, on_device(wanted, logits.device))
        start = 0
        while start < len(uids):
            if not self._blocks or self._blocks[-1].size == BLOCK:
                self._blocks.append(_Block(logits.device))
            start += self._blocks[-1].add(uids[start:], positions[start:], entropies[start:])

    def drain(self) -> dict[str, Any]:
        """Hand over the oldest block: ``uid`` int64, ``position`` int32, ``entropy`` float32.

        Bytes, because they are all that vLLM's messages carry without a copy a number. ``left`` is
        how many records remain.
        """
        if not self._blocks:
            return {"uid": b"", "position": b"", "entropy": b"", "left": 0}
        block = self._blocks.popleft()
        return {
            "uid": block.uids[: block.size].tobytes(),
            "position": block.positions[: block.size].tobytes(),
            "entropy": block.entropies[: block.size].cpu().numpy().tobytes(),
            "left": sum(later.size for later in self._blocks),
        }

    def clear(self) -> None:
        """Forget all records."""
        self._blocks.clear()


RECORDER = Recorder()
"""Of this process: a worker holds one model, and its extension must find what was recorded."""


def uid_of(sampling_params: Any) -> int:
    """The number of a request, -1 for one that is not recorded."""
    return int((sampling_params.extra_args or {}).get(UID, -1))


def refuse_reshaped(sampling_params: Any) -> None:
    """Refuse settings that change the distribution before its entropy is taken, or take its place.

    Raises:
        ValueError: The entropy would not be that of the softmax at the temperature.
    """
    if not sampling_params.temperature > 0.0:
        raise ValueError(
            f"temperature={sampling_params.temperature}: greedy decoding skips the recorder"
        )
    neutral = {
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "min_tokens": 0,
    }
    for name, value in neutral.items():
        if getattr(sampling_params, name) != value:
            raise ValueError(
                f"{name}={getattr(sampling_params, name)}: must be {value}, or the recorded "
                "entropy is not that of the model's distribution"
            )
    for name in ("logit_bias", "bad_words", "allowed_token_ids", "structured_outputs"):
        if getattr(sampling_params, name, None):
            raise ValueError(f"{name} changes the distribution whose entropy is recorded")


def refuse_engine(vllm_config: Any) -> None:
    """Refuse an engine in which a row is not one sampled token.

    Raises:
        ValueError: Speculative decoding is on.
    """
    if vllm_config.speculative_config is not None:
        raise ValueError(
            "speculative decoding has rows for rejected drafts: their entropies would be recorded"
        )


def is_recording_rank(vllm_config: Any) -> bool:
    """True where this worker sees rows that no other one records.

    The logits are gathered on every rank of a tensor-parallel group, unless the engine shares out
    the rows.
    """
    parallel = vllm_config.parallel_config
    if parallel.tensor_parallel_size == 1:
        return True
    if getattr(parallel, "enable_batch_sharded_sampling", False):
        return True
    from vllm.distributed.parallel_state import get_tp_group

    return int(get_tp_group().rank_in_group) == 0
