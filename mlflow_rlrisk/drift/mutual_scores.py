"""Two checkpoints score each other's rollouts: divergence both ways, or why there is none.

Both run a teacher-forced pass in the same arithmetic, one model in memory at a time.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mlflow_rlrisk.checkpoint import Checkpoint
from mlflow_rlrisk.config import AssessmentConfig
from mlflow_rlrisk.forward.padded_rollouts import pad_ids, padding_note, without_padding
from mlflow_rlrisk.forward.teacher_forced import score
from mlflow_rlrisk.lineage.drift import Divergence, divergence
from mlflow_rlrisk.records import GradedGroup, Prompt
from mlflow_rlrisk.samplers.model_loading import load_model, load_tokenizer
from mlflow_rlrisk.samplers.prompt_encoding import PromptEncoder
from mlflow_rlrisk.samplers.stop_tokens import all_stop_ids
from mlflow_rlrisk.statistics.bootstrap import PromptBootstrap

Logprobs = list[list[npt.NDArray[np.float64]]]


def mutual_divergences(
    checkpoints: tuple[Checkpoint, Checkpoint],
    groups: Sequence[Sequence[GradedGroup]],
    names: Sequence[str],
    config: AssessmentConfig,
    bootstrap: PromptBootstrap,
    *,
    notes: list[str],
    on_stage: Callable[[str], None],
) -> tuple[Divergence | None, Divergence | None]:
    """The divergence of the first from the second on its own rollouts, and the other way round.

    Args:
        checkpoints: Both checkpoints, of one tokenizer.
        groups: The rollouts of each, at the same prompts in the same order.
        names: Their names.
        config: Settings of both assessments.
        bootstrap: Resamples of the prompts.
        notes: Is told why a divergence is missing.
        on_stage: Is told what is being done.

    Raises:
        CheckpointError: A model cannot be loaded.
        SamplerError: A model cannot score the rollouts.
    """
    sampling = config.sampling
    if sampling.reshaping:
        notes.append(
            f"no divergence: rollouts drawn with {sampling.reshaping} are no sample of the policy"
        )
        return None, None
    scored: dict[tuple[int, int], Logprobs] = {}
    parts = list(groups)
    for place, checkpoint in enumerate(checkpoints):
        on_stage(f"score with {checkpoint.display_name}")
        model = load_model(checkpoint, config)
        num_words = model.get_input_embeddings().weight.shape[0]
        tokenizer = load_tokenizer(checkpoint, num_words)
        if place == 0:
            parts = [
                _unpadded(*each, tokenizer, notes)
                for each in zip(parts, checkpoints, names, strict=True)
            ]
        encode = PromptEncoder(
            checkpoint,
            tokenizer,
            sampling=sampling,
            stop_ids=all_stop_ids(checkpoint, tokenizer),
        ).encode
        for source, part in enumerate(parts):
            if (why := _not_scorable(part, num_words)) is not None:
                notes.append(f"{names[place]} cannot score rollouts of {names[source]}: {why}")
            else:
                scored[place, source] = _scores(model, encode, part, sampling.temperature)
        del model

    def between(own: int) -> Divergence | None:
        first, second = scored.get((own, own)), scored.get((1 - own, own))
        if first is None or second is None:
            return None
        if (num_excluded := _num_excluded(second)) > 0:
            notes.append(
                f"the divergence of {names[own]} from {names[1 - own]} is infinite: the latter "
                f"excludes {num_excluded} of the sampled tokens"
            )
            return None
        return divergence(
            first,
            second,
            bootstrap,
            sampled_from=names[own],
            against=names[1 - own],
            confidence=config.confidence,
        )

    return between(0), between(1)


def _unpadded(
    groups: Sequence[GradedGroup],
    checkpoint: Checkpoint,
    name: str,
    tokenizer: Any,
    notes: list[str],
) -> list[GradedGroup]:
    stop_ids, fillers = all_stop_ids(checkpoint, tokenizer), pad_ids(checkpoint, tokenizer)
    found, num_cut = without_padding(groups, stop_ids, fillers)
    if num_cut:
        notes.append(f"{name}: {padding_note(num_cut, groups)}")
    return found


def _not_scorable(groups: Sequence[GradedGroup], num_words: int) -> str | None:
    """Why a model with so many words cannot score the rollouts; ``None`` where it can."""
    ids = np.concatenate([each.token_ids for group in groups for each in group.rollouts])
    if ids.min() < 0:
        return "token ids were not recorded"
    if ids.max() >= num_words:
        return (
            f"they hold token {ids.max()} and it has {num_words} words, so the divergence is "
            "infinite"
        )
    return None


def _num_excluded(found: Logprobs) -> int:
    """Tokens that the architecture of the scoring model gives no probability at all."""
    return sum(int(np.isneginf(row).sum()) for rows in found for row in rows)


def _scores(
    model: Any,
    encode: Callable[[Sequence[Prompt]], list[list[int]]],
    groups: Sequence[GradedGroup],
    temperature: float,
) -> Logprobs:
    prompts = encode([group.prompt for group in groups])
    rows = [(place, rollout) for place, group in enumerate(groups) for rollout in group.rollouts]
    sequences = [(prompts[place], rollout.token_ids.tolist()) for place, rollout in rows]
    found: Logprobs = [[] for _ in groups]
    for (place, _), scores in zip(
        rows, score(model, sequences, temperature=temperature), strict=True
    ):
        found[place].append(scores.logprobs.astype(np.float64))
    return found


def first_rollouts(group: GradedGroup, count: int) -> GradedGroup:
    """The group with its first rollouts only."""
    return replace(group, rollouts=group.rollouts[:count], grades=group.grades[:count])
