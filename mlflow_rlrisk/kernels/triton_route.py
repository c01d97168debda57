"""Whether the Triton kernel is used, and what it gives."""

import functools
import logging
import subprocess
from typing import TYPE_CHECKING

from mlflow_rlrisk.kernels.fold import finish, merge
from mlflow_rlrisk.kernels.logit_shape import LogitShape

if TYPE_CHECKING:
    import torch

LARGEST_DISAGREEMENT = 1e-4
"""Nats by which the kernel may differ from float64 on the operands of its trial."""

TRIAL = (150, 300, 200)
"""Tokens, words and width of the trial: no multiple of a tile, more than one of each."""

logger = logging.getLogger(__name__)


def triton_works(hidden: "torch.Tensor", weight: "torch.Tensor") -> bool:
    """True where the kernel compiles for these operands and is right in a trial on the device."""
    if not weight.is_cuda or hidden.dtype != weight.dtype:
        return False
    return _passes_trial(weight.device, weight.dtype)


def triton_statistics(
    hidden: "torch.Tensor",
    weight: "torch.Tensor",
    targets: "torch.Tensor",
    shape: LogitShape,
    num_words: int,
) -> tuple["torch.Tensor", "torch.Tensor"]:
    """Log probabilities and entropies, float32 ``[T]``; not finite where an operand is not."""
    from mlflow_rlrisk.kernels.triton_head import head_partials

    partial = head_partials(
        hidden,
        weight,
        targets,
        num_words=num_words,
        bias=shape.bias,
        scale=shape.scale,
        softcap=shape.softcap,
        temperature=shape.temperature,
    )
    m, s, t, chosen = partial.unbind(1)
    return finish(*merge(m, s, t), chosen.amax(dim=0))


@functools.cache
def _passes_trial(device: "torch.device", dtype: "torch.dtype") -> bool:
    """Compile the kernel for a device and dtype and compare it with float64, once a process."""
    try:
        from triton.errors import TritonError
    except ImportError:
        return False
    import torch

    tokens, words, width = TRIAL
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, width, generator=generator).to(device, dtype)
    weight = (torch.randn(words, width, generator=generator) * 0.3).to(device, dtype)
    targets = torch.randint(words, (tokens,), generator=generator).to(device)
    plain = LogitShape(bias=None, scale=1.0, softcap=None, temperature=1.0)
    try:
        logprobs, entropies = triton_statistics(hidden, weight, targets, plain, words)
    except (TritonError, RuntimeError, OSError, ImportError, subprocess.SubprocessError) as error:
        # No compiler on the machine, or too little shared memory: PyTorch does it as well.
        logger.info("no Triton kernel on %s: %s: %s", device, type(error).__name__, error)
        return False
    logs = torch.log_softmax(hidden.double() @ weight.double().t(), dim=1)
    exact = -(logs.exp() * logs).sum(dim=1)
    worst = max(
        float((entropies - exact).abs().max()),
        float((logprobs - logs.gather(1, targets[:, None])[:, 0]).abs().max()),
    )
    if not worst <= LARGEST_DISAGREEMENT:
        logger.warning("the Triton kernel is off by %.1e nats on %s: not used", worst, device)
    return worst <= LARGEST_DISAGREEMENT
