"""The output head of a model: run another in its place, and find out what follows it.

What an architecture does to its logits (scaling, capping, cutting padded words off) is measured
with known ones.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlflow_rlrisk.kernels.products import float32_logits

if TYPE_CHECKING:
    import torch

PROBE_SPREAD = 8.0
"""Standard deviation of the logits with which the architecture is probed."""

Forward = Callable[["torch.Tensor"], "torch.Tensor"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AfterHead:
    """``softcap * tanh(scale * logits / softcap)`` of the first ``num_words``."""

    scale: float
    softcap: float | None
    num_words: int


class UnknownHeadError(Exception):
    """The head or what follows it is not understood; the message says what."""


def probe_head(model: Any, head: Any) -> AfterHead:
    """Send known logits through what the architecture does after its head.

    Raises:
        UnknownHeadError: The head is no plain matrix, or what follows is neither a factor, a
            cap nor a cut.
    """
    import torch

    if not is_matrix(head):
        raise UnknownHeadError(f"its head is a {type(head).__name__}, not a plain matrix")
    generator = torch.Generator().manual_seed(0)
    sent = torch.randn((1, 4, len(head.weight)), generator=generator) * PROBE_SPREAD
    sent = sent.to(head.weight.device)
    collected: list[torch.Tensor] = []
    ids = torch.arange(1, 5, device=model.device)
    ids = ids.remainder(model.get_input_embeddings().weight.shape[0])[None]

    def replace(hidden: "torch.Tensor") -> "torch.Tensor":
        collected.append(hidden)
        return sent.clone()

    with head_forward(head, replace), torch.inference_mode():
        got = model(input_ids=ids, use_cache=False).logits
    if len(collected) != 1:
        raise UnknownHeadError(f"its head is called {len(collected)} times")
    if collected[0].shape != (1, 4, head.weight.shape[1]) or got.shape[:2] != (1, 4):
        raise UnknownHeadError("its head does not see one hidden state a token")
    return _fit_after_head(model, sent[..., : got.shape[-1]], got.to(sent.device).float())


def _fit_after_head(model: Any, sent: "torch.Tensor", got: "torch.Tensor") -> AfterHead:
    import torch

    if got.shape != sent.shape:
        raise UnknownHeadError("it has more logits than its head")
    config = model.config.get_text_config()
    softcap = getattr(config, "final_logit_softcapping", None)
    # A cap is flattest far out, so the factor is read off where logits are smallest.
    smallest = sent.abs().clamp(min=1e-2).argmin()
    scale = float(got.flatten()[smallest] / sent.flatten()[smallest])
    plain = sent.double() * scale
    candidates: list[tuple[float | None, torch.Tensor]] = [(None, plain)]
    if softcap:
        candidates.append((float(softcap), softcap * torch.tanh(plain / softcap)))
    for cap, expected in candidates:
        close = torch.allclose(got.double(), expected, rtol=1e-4, atol=1e-4)
        if scale > 0.0 and close:
            return AfterHead(scale=scale, softcap=cap, num_words=got.shape[-1])
    raise UnknownHeadError("it changes its logits by more than a factor and a cap")


def is_matrix(head: Any) -> bool:
    """Whether an output head is a plain matrix with a bias or none, whose weights are there."""
    import torch

    kind: object = type(head)  # a quantized head is a subclass with weights of its own
    return kind is torch.nn.Linear and head.weight.device.type != "meta"


def exact_forward(head: Any) -> Forward:
    """The head with float32 logits of all positions."""
    return lambda hidden: float32_logits(hidden, head.weight, head.bias)


def collector(collected: list["torch.Tensor"]) -> Forward:
    """A head that keeps its input and answers with one logit a token."""

    def collect(hidden: "torch.Tensor") -> "torch.Tensor":
        import torch

        collected.append(hidden)
        return hidden.new_zeros((*hidden.shape[:-1], 1), dtype=torch.float32)

    return collect


@contextmanager
def head_forward(head: Any, forward: Forward | None) -> Iterator[None]:
    """Run ``forward`` in place of the head's own; leave it where there is none."""
    if forward is None:
        yield
        return
    before = head.__dict__.get("forward")
    head.forward = forward
    try:
        yield
    finally:
        del head.forward
        if before is not None:
            head.forward = before
