"""Stored rollouts without the padding that dumps of a trainer hold behind them.

A trainer keeps completions as rows of one width and masks what lies behind the stop token. Scored
as answers, these tokens would be most of what is measured, and nobody drew them.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from mlflow_rlrisk.checkpoint import Checkpoint
from mlflow_rlrisk.errors import SamplerError
from mlflow_rlrisk.records import (
    UNKNOWN_TOKEN,
    EntropyBounds,
    FinishReason,
    FloatArray,
    GradedGroup,
    Rollout,
    RolloutGroup,
)

Group = TypeVar("Group", RolloutGroup, GradedGroup)


def pad_ids(checkpoint: Checkpoint, tokenizer: Any) -> frozenset[int]:
    """The tokens that rows of this model are padded with, stop tokens apart."""
    return frozenset({tokenizer.pad_token_id, checkpoint.config.get("pad_token_id")} - {None})


def without_padding(
    groups: Sequence[Group], stop_ids: Collection[int], fillers: Collection[int]
) -> tuple[list[Group], int]:
    """Cut the padding off.

    Padding is a run of one token at the end, a filler or a stop token: behind a stop token, or as
    far as its recorded log probabilities are exactly 0. The first stop token that ends a rollout
    belongs to it.

    Args:
        groups: Rollouts by prompt.
        stop_ids: Tokens that end a rollout of the model.
        fillers: Its pad tokens.

    Returns:
        The groups in their order, and how many rollouts were cut.
    """
    ends, pads = frozenset(stop_ids), frozenset(fillers)
    found, num_cut = [], 0
    for group in groups:
        sizes = [_size(rollout, ends, pads) for rollout in group.rollouts]
        pairs = list(zip(group.rollouts, sizes, strict=True))
        num_cut += sum(size < len(rollout.token_ids) for rollout, size in pairs)
        rollouts = tuple(_first(rollout, size) for rollout, size in pairs)
        found.append(replace(group, rollouts=rollouts))
    return found, num_cut


def refuse_padding(groups: Iterable[RolloutGroup], source: str) -> None:
    """Refuse padded rollouts where no tokenizer says what to cut off.

    A stop token ends a rollout, so it stands there once. Where most of those that stopped by
    themselves end in one token twice or more, it fills their rows.

    Raises:
        SamplerError: They do.
    """
    num_stopped = 0
    filled: dict[int, list[str]] = {}
    for group in groups:
        for rollout in group.rollouts:
            ids = rollout.token_ids
            if rollout.finish_reason is not FinishReason.STOP:
                continue
            num_stopped += 1
            if len(ids) > 1 and ids[-1] == ids[-2] != UNKNOWN_TOKEN:
                place = f"prompt {group.prompt.id}, rollout {rollout.sample_index}"
                filled.setdefault(int(ids[-1]), []).append(place)
    token, places = max(filled.items(), key=lambda each: len(each[1]), default=(0, []))
    if 2 * len(places) > num_stopped:
        raise SamplerError(
            f"{source}: {len(places)} of {num_stopped} rollouts that stopped by themselves end in "
            f"token {token} more than once (first: {places[0]}), as rows that are padded to one "
            "width do, and padding would count as their tokens: cut each behind its stop token"
        )


def padding_note(num_cut: int, groups: Sequence[Group]) -> str:
    """That rollouts were cut, for people."""
    num_rollouts = sum(len(group.rollouts) for group in groups)
    return f"padding behind {num_cut} of {num_rollouts} rollouts was left out"


def _size(rollout: Rollout, stop_ids: frozenset[int], fillers: frozenset[int]) -> int:
    """Tokens that were drawn."""
    ids = rollout.token_ids
    filler = int(ids[-1])
    if filler not in fillers | stop_ids:
        return len(ids)
    others = np.flatnonzero(ids != filler)
    start = int(others[-1]) + 1 if others.size else 0
    if start > 0 and int(ids[start - 1]) in stop_ids:
        return start
    if filler in stop_ids and rollout.finish_reason is FinishReason.STOP:
        return start + 1
    if rollout.logprobs is None:
        return len(ids)
    drawn = np.flatnonzero(rollout.logprobs[start:])
    end = start + (int(drawn[-1]) + 1 if drawn.size else 0)
    return end or len(ids)


def _first(rollout: Rollout, size: int) -> Rollout:
    if size == len(rollout.token_ids):
        return rollout
    bounds = rollout.entropy_bounds
    return replace(
        rollout,
        token_ids=rollout.token_ids[:size],
        logprobs=_cut(rollout.logprobs, size),
        entropies=_cut(rollout.entropies, size),
        entropy_bounds=None
        if bounds is None
        else EntropyBounds(
            lower=bounds.lower[:size],
            upper=bounds.upper[:size],
            estimate=_cut(bounds.estimate, size),
        ),
    )


def _cut(values: FloatArray | None, size: int) -> FloatArray | None:
    return None if values is None else values[:size]
