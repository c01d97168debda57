"""One GRPO update of a causal model from answers that are there already."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mlflow_rlrisk.config import LookaheadConfig
from mlflow_rlrisk.errors import ConfigError, SamplerError
from mlflow_rlrisk.forward.output_head import head_forward, is_matrix
from mlflow_rlrisk.forward.probe import rotary_switch
from mlflow_rlrisk.forward.teacher_forced import batches, without_dropout

if TYPE_CHECKING:
    import torch

PASS_TOKENS = 8192
"""Tokens of a forward and backward pass, padding counted."""
PASS_LOGITS = 2**28
"""Logits of such a pass, 1 GB in float32; the gradient takes as much again."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answer:
    """One rollout of a group.

    Attributes:
        prompt_ids: Tokens of the prompt.
        completion: Tokens of the rollout, ``[T]``.
        advantage: Its reward against the group's, the same for each of its tokens.
        old_logprobs: What the policy that drew it gave each token, nats, ``[T]``.
    """

    prompt_ids: Sequence[int]
    completion: Sequence[int]
    advantage: float
    old_logprobs: npt.NDArray[np.float32]


def trainable(model: Any) -> dict[str, Any]:
    """The weights that an update changes, by name.

    Raises:
        ConfigError: They are not in float32, where the updates of a small rate would vanish.
    """
    import torch

    weights = {n: each for n, each in model.named_parameters() if each.requires_grad}
    other = sorted({str(each.dtype) for each in weights.values()} - {str(torch.float32)})
    if other or not weights:
        found = ", ".join(other) or "no weights that can be trained"
        raise ConfigError("dtype", found, "updates need weights in float32")
    return weights


def make_update(
    model: Any,
    optimizer: Any,
    answers: Sequence[Answer],
    settings: LookaheadConfig,
    *,
    temperature: float,
) -> None:
    """One step of ``optimizer`` on the clipped objective, the mean over all tokens of the answers.

    Where a pass does not fit in memory, shorter ones are made, down to one answer.

    Raises:
        SamplerError: The gradient is not finite, or there is no memory for it.
    """
    import torch

    num_tokens = sum(len(each.completion) for each in answers)
    # Where all of a group were worth the same nothing is taught; one keeps the step a step.
    teaching = [each for each in answers if each.advantage != 0.0] or answers[:1]
    weights = [each for group in optimizer.param_groups for each in group["params"]]
    try:
        _set_gradients(model, optimizer, teaching, num_tokens, settings.clip_range, temperature)
        norm = torch.nn.utils.clip_grad_norm_(weights, settings.max_grad_norm)
        if not torch.isfinite(norm):
            raise SamplerError(f"the gradient of an update has norm {float(norm)}: not finite")
        optimizer.step()
    except torch.OutOfMemoryError as error:
        raise SamplerError(
            "no memory for an update, not even with one answer at a time: it holds the weights, "
            "their gradients and two moments in float32"
        ) from error


def _set_gradients(
    model: Any,
    optimizer: Any,
    answers: Sequence[Answer],
    num_tokens: int,
    clip_range: float,
    temperature: float,
) -> None:
    """Gradients of the objective, in passes that fit in memory."""
    import torch

    lengths = [len(each.prompt_ids) + len(each.completion) for each in answers]
    limit = min(PASS_TOKENS, PASS_LOGITS // int(model.get_input_embeddings().weight.shape[0]))
    while True:
        optimizer.zero_grad(set_to_none=True)
        try:
            with without_dropout(model), torch.enable_grad():
                for rows in batches(lengths, limit, rotary_switch(model.config)):
                    part = [answers[row] for row in rows]
                    loss: Any = _loss(model, part, clip_range, temperature)
                    (loss / num_tokens).backward()
            return
        except torch.OutOfMemoryError:
            if limit <= max(lengths):
                raise
            limit //= 2


def _loss(
    model: Any, answers: Sequence[Answer], clip_range: float, temperature: float
) -> "torch.Tensor":
    """The negated objective, summed over tokens."""
    import torch

    longest = max(len(each.prompt_ids) + len(each.completion) for each in answers)
    ids = torch.zeros((len(answers), longest), dtype=torch.int64)
    mask = torch.zeros_like(ids)
    is_answer = torch.zeros((len(answers), longest - 1), dtype=torch.bool)
    for row, each in enumerate(answers):
        tokens = np.concatenate([each.prompt_ids, each.completion])
        ids[row, : tokens.size] = torch.as_tensor(tokens.astype(np.int64))
        mask[row, : tokens.size] = 1
        is_answer[row, len(each.prompt_ids) - 1 : tokens.size - 1] = True
    lengths = [len(each.completion) for each in answers]
    advantages = np.repeat([each.advantage for each in answers], lengths).astype(np.float32)
    old = np.concatenate([each.old_logprobs for each in answers]).astype(np.float32)
    picked = _logits(model, ids, mask, is_answer).float() / temperature
    targets = ids[:, 1:][is_answer].to(picked.device)
    new = torch.log_softmax(picked, dim=-1).gather(1, targets[:, None])[:, 0]
    ratio = (new - torch.as_tensor(old, device=new.device)).exp()
    clipped = ratio.clamp(1.0 - clip_range, 1.0 + clip_range)
    advantage = torch.as_tensor(advantages, device=new.device)
    return -torch.minimum(ratio * advantage, clipped * advantage).sum()


def _logits(
    model: Any, ids: "torch.Tensor", mask: "torch.Tensor", wanted: "torch.Tensor"
) -> "torch.Tensor":
    """Logits where they are wanted alone, ``[T, words]``: prompts are mostly longer than answers.

    They are picked at once, for the gradient of a slice is as large as what it was cut from.
    """
    import torch

    head = model.get_output_embeddings()

    def pick(states: "torch.Tensor") -> "torch.Tensor":
        found: torch.Tensor = states[:, :-1][wanted.to(states.device)]
        return found

    def forward(states: "torch.Tensor") -> "torch.Tensor":
        return torch.nn.functional.linear(pick(states)[None], head.weight, head.bias)

    with head_forward(head, forward if is_matrix(head) else None):
        logits: torch.Tensor = model(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            use_cache=False,
        ).logits
    # Whole sequences, longer than their answers, where the head was not replaced or is not called.
    return logits[0] if logits.shape[:2] == (1, int(wanted.sum())) else pick(logits)
