"""Cached, padded decoding against a plain forward pass, on two prompts of a few tokens.

Architectures that ignore position ids or the cache decode without an error, and wrongly.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from mlflow_rlrisk.errors import CheckpointError
from mlflow_rlrisk.forward.probe import distance, largest_distance, probe_ids
from mlflow_rlrisk.samplers.decoding import DecodedStep, Decoder, Wave
from mlflow_rlrisk.samplers.token_choice import TokenChooser

if TYPE_CHECKING:
    import torch

STEPS = 2
"""The prefill, and one step from the cache."""


def refuse_wrong_decoding(model: Any, chooser: TokenChooser, name: str) -> None:
    """Check that a padded batch is given the probabilities of each sequence alone.

    Raises:
        CheckpointError: It is not.
        SamplerError: The architecture keeps no keys and values, or its logits are not finite.
    """
    import torch

    ids = probe_ids(model).tolist()
    if len(ids) < STEPS:
        return
    prompts = [ids[: max(1, len(ids) // 4)], ids[:-1]]
    seen, last = _decode(model, chooser, prompts)
    for row in last.finished:
        for step in range(STEPS):
            alone = torch.tensor([[*prompts[row.row], *row.tokens[:step]]], device=model.device)
            with torch.inference_mode():
                expected = model(input_ids=alone, use_cache=False).logits[0, -1]
            apart = distance(seen[step][row.row], expected)
            if apart > largest_distance(model):
                raise CheckpointError(
                    f"{name}: decoding prompts of different lengths together gives log-"
                    f"probabilities {apart:.2g} nats from those of each alone: the architecture "
                    "does not follow position ids, attention mask or cache, and cannot be sampled"
                )


def _decode(
    model: Any, chooser: TokenChooser, prompts: list[list[int]]
) -> tuple[list["torch.Tensor"], DecodedStep]:
    """The logits of every step, ``[B, V]`` each, and the last step."""
    seen: list[torch.Tensor] = []
    wave = Wave(
        prompt_ids=prompts,
        slots=np.arange(len(prompts)),
        uniforms=np.full((len(prompts), STEPS), 0.5),
    )
    hook = model.register_forward_hook(
        lambda _model, _inputs, output: seen.append(output.logits[:, -1].clone())
    )
    try:
        *_, last = Decoder(model, chooser, stop_ids=()).decode(wave)
    finally:
        hook.remove()
    return seen, last
