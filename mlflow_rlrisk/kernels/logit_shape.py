"""What happens to logits between the output head and the softmax."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class LogitShape:
    """What the architecture and the sampling temperature do to ``hidden @ weight.T``."""

    bias: "torch.Tensor | None"
    scale: float
    softcap: float | None
    temperature: float

    def apply(self, logits: "torch.Tensor", start: int, stop: int) -> "torch.Tensor":
        """Change a tile of logits in place."""
        if self.bias is not None:
            logits.add_(self.bias[start:stop])
        if self.softcap is None:
            factor = self.scale / self.temperature
            return logits if factor == 1.0 else logits.mul_(factor)
        logits.mul_(self.scale / self.softcap).tanh_()
        return logits.mul_(self.softcap / self.temperature)
