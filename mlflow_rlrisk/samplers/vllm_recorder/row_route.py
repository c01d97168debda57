"""Whether the kernel for rows of logits is used: where it was right in a trial on the device."""

import functools
import logging
import subprocess

import torch

LARGEST_DISAGREEMENT = 2e-5
"""Nats by which the kernel may differ from float64 on the rows of its trial."""

TRIAL = (5, 10_000)
"""Rows and words of the trial: no multiple of the lanes, more than one load of them."""

logger = logging.getLogger(__name__)


@functools.cache
def works(device: torch.device) -> bool:
    """Compile the kernel for the device and compare it with float64, once a process."""
    try:
        from triton.errors import TritonError
    except ImportError:
        return False
    from mlflow_rlrisk.samplers.vllm_recorder.row_kernel import row_values

    generator = torch.Generator().manual_seed(0)
    cpu = torch.randn(TRIAL, generator=generator) * 4.0 + 20.0
    cpu[0, ::3] = -torch.inf
    logits = cpu.to(device)
    worst = 0.0
    try:
        for temperature in (1.0, torch.linspace(0.5, 2.0, len(cpu))):
            on_device = temperature if isinstance(temperature, float) else temperature.to(device)
            found = row_values(logits, on_device)
            divisor = temperature if isinstance(temperature, float) else temperature[:, None]
            logs = (cpu.double() / divisor).log_softmax(dim=1)
            entropies = torch.special.entr(logs.exp()).sum(dim=1)
            normalisers = (cpu.double() / divisor).logsumexp(dim=1)
            for values, exact in zip(found, (normalisers, entropies), strict=True):
                worst = max(worst, float((values.cpu().double() - exact).abs().max()))
    except (TritonError, RuntimeError, OSError, ImportError, subprocess.SubprocessError) as error:
        # No compiler on the machine: PyTorch does it as well.
        logger.warning("no kernel for entropies on %s: %s: %s", device, type(error).__name__, error)
        return False
    if not worst <= LARGEST_DISAGREEMENT:
        logger.warning("the kernel for entropies is off by %.1e nats on %s", worst, device)
    return worst <= LARGEST_DISAGREEMENT
