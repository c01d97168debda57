"""Hidden states times weights with float32-accurate results, whatever the operands' dtype."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch

WORDS_AT_ONCE = 4096
"""Words of a tile where whole logits are wanted."""

Route = Literal["float32", "native_bfloat16", "wide_output", "upcast"]


def choose_route(hidden: "torch.Tensor", weight: "torch.Tensor") -> Route:
    """How these operands are multiplied.

    ``float32``: as they are. ``native_bfloat16``: float32 copies of bfloat16 values, which the
    CPU's bfloat16 unit multiplies without loss and sums in float32. ``wide_output``: the device
    multiplies the narrow dtype into float32. ``upcast``: float32 copies.
    """
    import torch

    if hidden.dtype == weight.dtype == torch.float32:
        return "float32"
    if weight.is_cuda and hidden.dtype == weight.dtype and multiplies_wide(weight):
        return "wide_output"
    both_bfloat16 = hidden.dtype == weight.dtype == torch.bfloat16
    if both_bfloat16 and weight.device.type == "cpu" and has_bfloat16_unit():
        return "native_bfloat16"
    return "upcast"


def has_bfloat16_unit() -> bool:
    """True where this CPU multiplies bfloat16 in hardware and torch can be told to use it."""
    import torch

    if not hasattr(torch.backends.mkldnn, "matmul"):
        return False
    names = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, name, bool)() for name in names)


def multiplies_wide(weight: "torch.Tensor") -> bool:
    """True where matrices of this dtype and device multiply into float32 (CUDA, torch >= 2.8)."""
    import torch

    if not weight.is_cuda or weight.dtype == torch.float32:
        return False
    try:
        torch.mm(weight[:1], weight[:1].t(), out_dtype=torch.float32)
    except (TypeError, RuntimeError):
        return False
    return True


@contextmanager
def float32_products(route: Route) -> Iterator[None]:
    """Set how float32 matrices are multiplied, and restore it, also after an error.

    Without it a process that allowed TF32 or bfloat16 would round the logits.
    """
    import torch

    settings: list[Any] = [
        backend
        for backend in (
            getattr(torch.backends.mkldnn, "matmul", None),
            torch.backends.cuda.matmul if torch.cuda.is_available() else None,
        )
        if hasattr(backend, "fp32_precision")
    ]
    before = [setting.fp32_precision for setting in settings]
    try:
        for setting in settings:
            is_cpu = setting is not torch.backends.cuda.matmul
            setting.fp32_precision = "bf16" if is_cpu and route == "native_bfloat16" else "ieee"
        yield
    finally:
        for setting, value in zip(settings, before, strict=True):
            setting.fp32_precision = value


class TileProduct:
    """Multiplies one block of hidden states with tiles of the weights, reusing its buffers."""

    def __init__(self, weight: "torch.Tensor", route: Route, tokens: int, words: int) -> None:
        import torch

        self._weight, self._route = weight, route
        options: Any = {"dtype": torch.float32, "device": weight.device}
        self._logits = torch.empty(tokens * words, **options)
        needs_copies = route in ("upcast", "native_bfloat16") and weight.dtype != torch.float32
        self._operand: torch.Tensor | None = None
        self._tile = torch.empty((words, weight.shape[1]), **options) if needs_copies else None

    def operand(self, hidden: "torch.Tensor") -> "torch.Tensor":
        """Hidden states ``[T, H]`` in the dtype that is multiplied, valid until the next call."""
        import torch

        if self._route == "wide_output" or hidden.dtype == torch.float32:
            return hidden
        if self._operand is None:
            self._operand = hidden.float()
        return self._operand[: len(hidden)].copy_(hidden)

    def __call__(self, operand: "torch.Tensor", start: int, stop: int) -> "torch.Tensor":
        """Float32 logits ``[T, stop - start]``, valid until the next call."""
        import torch

        tile = self._weight[start:stop]
        if self._route == "wide_output":
            return torch.mm(operand, tile.t(), out_dtype=torch.float32)
        if self._tile is not None:
            tile = self._tile[: stop - start].copy_(tile)
        size = len(operand) * (stop - start)
        logits = self._logits[:size].view(len(operand), stop - start)
        return torch.mm(operand, tile.t(), out=logits)


def float32_logits(
    hidden: "torch.Tensor", weight: "torch.Tensor", bias: "torch.Tensor | None"
) -> "torch.Tensor":
    """``hidden @ weight.T + bias``, float32-accurate ``[..., V]``, for the few who need it whole.

    Args:
        hidden: Hidden states ``[..., H]``, in 16 or 32 bits.
        weight: Weights of the output head, ``[V, H]``.
        bias: ``[V]``, if there is one.
    """
    import torch

    rows = hidden.reshape(-1, hidden.shape[-1])
    route = choose_route(rows, weight)
    logits = torch.empty((len(rows), len(weight)), dtype=torch.float32, device=weight.device)
    with float32_products(route):
        product = TileProduct(weight, route, len(rows), min(WORDS_AT_ONCE, len(weight)))
        operand = product.operand(rows)
        for start in range(0, len(weight), WORDS_AT_ONCE):
            stop = min(start + WORDS_AT_ONCE, len(weight))
            logits[:, start:stop] = product(operand, start, stop)
    if bias is not None:
        logits += bias.float()
    return logits.view(*hidden.shape[:-1], len(weight))
