"""float32 logits of the last position, whatever the dtype of the weights.

bfloat16 logits put single token entropies off by up to 0.15 nats. The output head is computed
here in float32 from the model's own hidden state; scaling or capping that the architecture does
afterwards runs as it is, on the float32 logits.
"""

from typing import TYPE_CHECKING, Any

from mlflow_rlrisk.kernels.products import multiplies_wide

if TYPE_CHECKING:
    import torch

TILE_WORDS = 4096
"""Words whose weights are upcast at a time: 16 MB at a width of 1024."""

RELATIVE_TOLERANCE = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}
"""Share of the largest logit by which the model's own, rounded logits may differ; the coarsest
comes last."""


class LastPositionHead:
    """Replaces the ``forward`` of an output head: last position only, accumulated in float32."""

    def __init__(self, head: Any) -> None:
        self._head = head
        self._is_wide = multiplies_wide(head.weight)

    def __call__(self, hidden: "torch.Tensor") -> "torch.Tensor":
        """Logits float32 ``[B, 1, V]`` of hidden states ``[B, T, H]``."""
        import torch

        last = hidden[:, -1]
        weight, bias = self._head.weight, self._head.bias
        if weight.dtype == torch.float32:
            return torch.nn.functional.linear(last.float(), weight, bias)[:, None]
        if self._is_wide and last.dtype == weight.dtype:
            logits = torch.mm(last, weight.t(), out_dtype=torch.float32)
        else:
            logits = _multiply_by_tiles(last.float(), weight)
        if bias is not None:
            logits += bias.float()
        return logits[:, None]


def _multiply_by_tiles(hidden: "torch.Tensor", weight: "torch.Tensor") -> "torch.Tensor":
    """``hidden @ weight.T`` in float32, upcasting a tile of the weights at a time."""
    import torch

    logits = torch.empty((len(hidden), len(weight)), dtype=torch.float32, device=hidden.device)
    for start in range(0, len(weight), TILE_WORDS):
        tile = weight[start : start + TILE_WORDS].float()
        logits[:, start : start + TILE_WORDS] = hidden @ tile.t()
    return logits


def install_exact_head(model: Any) -> str:
    """Make ``model(...)`` return float32 logits of the last position, if that proves right.

    The model is run on a few tokens before and after; where the two disagree, or its head is no
    plain matrix, everything is left as it was.

    Returns:
        ``float32`` where logits are float32-accurate, else the dtype they are rounded to.
    """
    import torch

    probe = torch.arange(1, 5, device=model.device).remainder(_num_words(model))[None]
    before = _last_logits(model, probe)
    head: Any = model.get_output_embeddings()
    rounded = _coarser(before, head)
    kind: object = type(head)
    finite = before[before.isfinite()]  # words that are never drawn have -inf
    # A quantized head is a subclass with weights of its own; NaN is the sampler's to refuse.
    if kind is not torch.nn.Linear or not len(finite):
        return rounded
    plain_forward = head.forward
    head.forward = LastPositionHead(head)
    after = _last_logits(model, probe)
    tolerance = RELATIVE_TOLERANCE.get(rounded, 0.0) * finite.abs().max().item()
    is_same = after.shape == before.shape and after.dtype == torch.float32
    if is_same and torch.allclose(after, before.float(), rtol=0.0, atol=tolerance, equal_nan=True):
        return "float32"
    head.forward = plain_forward
    return rounded


def _last_logits(model: Any, probe: "torch.Tensor") -> "torch.Tensor":
    import torch

    with torch.inference_mode():
        logits: torch.Tensor = model(input_ids=probe, use_cache=False).logits[:, -1]
    return logits


def _num_words(model: Any) -> int:
    return int(model.get_input_embeddings().weight.shape[0])


def _coarser(logits: "torch.Tensor", head: Any) -> str:
    """What the model's own logits are rounded to; Mamba upcasts those of a narrow head."""
    told, weights = (
        str(each).removeprefix("torch.")
        for each in (logits.dtype, getattr(head.weight, "dtype", None))
    )
    known = list(RELATIVE_TOLERANCE)
    return max(told, weights, key=known.index) if {told, weights} <= set(known) else told
