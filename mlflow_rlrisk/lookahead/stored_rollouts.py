"""The first updates of an RL run tried on the rollouts of an assessment; the figure stays there."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mlflow_rlrisk.assessment.budget import assessed_part
from mlflow_rlrisk.assessment.inputs import AssessmentInputs
from mlflow_rlrisk.assessment.rescored import open_rollouts, refuse_unscorable
from mlflow_rlrisk.assessment.stored import stored_groups
from mlflow_rlrisk.assessment.wiring import REPORT, Assessment, rescore_stored
from mlflow_rlrisk.checkpoint import Checkpoint, open_checkpoint
from mlflow_rlrisk.config import AssessmentConfig, LookaheadConfig
from mlflow_rlrisk.errors import (
    ComparabilityError,
    ConfigError,
    InsufficientRolloutsError,
    StatisticsError,
)
from mlflow_rlrisk.evidence import AssessmentContext
from mlflow_rlrisk.forward.padded_rollouts import pad_ids, padding_note, without_padding
from mlflow_rlrisk.lookahead.first_updates import GradedPrompt, Lookahead, OnStep, look_ahead
from mlflow_rlrisk.measure import successes
from mlflow_rlrisk.records import UNKNOWN_TOKEN, GradedGroup
from mlflow_rlrisk.rollouts.evidence import keep_evidence
from mlflow_rlrisk.rollouts.shards import write_text_atomically
from mlflow_rlrisk.samplers.model_loading import load_model, load_tokenizer
from mlflow_rlrisk.samplers.prompt_encoding import PromptEncoder
from mlflow_rlrisk.samplers.stop_tokens import all_stop_ids


def look_ahead_from(
    folder: Path,
    settings: LookaheadConfig,
    model: str | None = None,
    *,
    device: str = "auto",
    allow_pickle: bool = False,
    on_step: OnStep | None = None,
) -> Lookahead:
    """Try the run's first updates on the rollouts of an assessment, and keep what came of it.

    Whoever judges the folder again (`rescore`, the same `assess`) counts the figure.

    Args:
        folder: Folder of a finished assessment.
        settings: The run.
        model: Reference of the checkpoint; left out, the one that was assessed.
        device: Where the updates are made.
        allow_pickle: Accept pickled weights.
        on_step: Told of the passes over rollouts that are done, and of all.

    Raises:
        RolloutStoreError: The folder is none of an assessment, damaged or unfinished.
        ComparabilityError: The checkpoint is another than was sampled, or no trainer could give
            these rollouts a probability.
        ConfigError: Success is not defined for these rewards, tokens were not recorded, or a
            setting does not fit.
        InsufficientRolloutsError: There are too few groups for the updates.
        CheckpointError: The model cannot be loaded.
        SamplerError: Gradients are not finite, or there is no memory.
        StatisticsError: There is no gap to close, or the updates went too far to be weighed.
    """
    inputs, stored = AssessmentInputs.load(folder), open_rollouts(folder, None)
    refuse_unscorable(stored.sampling, stored.sampler)
    reference = model or stored.model
    if reference is None:
        raise ConfigError("model", None, f"{folder} does not say which model it was sampled from")
    checkpoint = open_checkpoint(reference, allow_pickle=allow_pickle)
    _refuse_other(stored.digests, checkpoint)
    config = inputs.config
    places = inputs.prompt_places()
    groups = [each for each in stored_groups(folder, inputs, None) if _num_scored(each)]
    groups.sort(key=lambda each: places[each.prompt.id])
    num_full = sum(_num_scored(each) // config.group_size for each in groups)
    settings.require_groups(num_full // 2, config.group_size)  # before the weights are loaded
    loaded = load_model(
        checkpoint,
        AssessmentConfig(device=device, dtype="float32", allow_pickle=allow_pickle),
    )
    tokenizer = load_tokenizer(checkpoint, loaded.get_input_embeddings().weight.shape[0])
    stop_ids, fillers = all_stop_ids(checkpoint, tokenizer), pad_ids(checkpoint, tokenizer)
    encoder = PromptEncoder(checkpoint, tokenizer, sampling=stored.sampling, stop_ids=stop_ids)
    groups, num_cut = without_padding(groups, stop_ids, fillers)
    found = look_ahead(
        loaded,
        _graded(groups, encoder, config.success_threshold),
        settings,
        group_size=config.group_size,
        temperature=stored.sampling.temperature,
        seed=stored.sampling.seed,
        num_resamples=config.num_resamples,
        confidence=config.confidence,
        on_step=on_step,
    )
    num_assessed = len(assessed_part(inputs)[0])
    if num_assessed > len(groups):
        missing = num_assessed - len(groups)
        note = f"{missing} of {num_assessed} prompts have no scored rollout"
        found = replace(found, notes=(*found.notes, note))
    if num_cut:
        found = replace(found, notes=(*found.notes, padding_note(num_cut, groups)))
    keep_evidence(folder, "lookahead_reach", found.evidence(), inputs.graded_as)
    return found


def with_lookahead(
    assessment: Assessment, settings: LookaheadConfig, on_step: OnStep | None = None
) -> tuple[Assessment, Lookahead | None]:
    """Try the run's first updates on the assessment's rollouts and judge them again.

    The report in its folder is replaced. Updates that say nothing (no gap to close, weights too far
    from the rollouts) leave the figure undefined with the reason, and the level is not ``low``.

    Args:
        assessment: Finished, its sampler closed, its rollouts kept.
        settings: The run.
        on_step: Told of the passes over rollouts that are done, and of all.

    Returns:
        The assessment with a report that counts them, and what they changed, if that is known.

    Raises:
        ConfigError: The rollouts were not kept; for all else see `look_ahead_from`.
    """
    folder, report = assessment.folder, assessment.report
    if folder is None:
        raise ConfigError("lookahead", None, "needs a folder of rollouts")
    found, why = None, None
    source = report.provenance
    sampled = f"models:/{source.registered_name}/{source.version}" if source.version else None
    try:
        found = look_ahead_from(
            folder,
            settings,
            sampled,  # its alias may have moved while it was sampled
            device=report.config.device,
            allow_pickle=report.config.allow_pickle,
            on_step=on_step,
        )
    except (StatisticsError, InsufficientRolloutsError) as error:
        why = f"first updates of the RL run say nothing: {error}"
        graded = AssessmentInputs.load(folder).graded_as
        keep_evidence(folder, "lookahead_undefined", why, graded)
    context = replace(
        assessment.context or AssessmentContext(),
        lookahead_reach=None if found is None else found.evidence(),
        lookahead_undefined=why,
    )
    judged = rescore_stored(folder, policy=report.policy, context=context)
    # Who sampled it with which command, and what preflight remarked, is not known to a rescore.
    digests = report.provenance.digests | {"lookahead": settings.digest()}
    provenance = replace(report.provenance, digests=digests)
    judged = replace(judged, provenance=provenance, notes=report.notes)
    write_text_atomically(folder / REPORT, judged.to_json())
    return replace(assessment, report=judged, context=context), found


def _refuse_other(known: Mapping[str, str], checkpoint: Checkpoint) -> None:
    for name, digest in (
        ("checkpoint", checkpoint.digest),
        ("tokenizer", checkpoint.tokenizer_digest),
    ):
        if known.get(name, digest) != digest:
            raise ComparabilityError(
                f"the rollouts are of another {name} ({known[name][:12]}) than "
                f"{checkpoint.display_name} ({digest[:12]})"
            )


def _num_scored(group: GradedGroup) -> int:
    return sum(grade.is_scored for grade in group.grades)


def _graded(
    groups: Sequence[GradedGroup], encoder: PromptEncoder, threshold: float | None
) -> list[GradedPrompt]:
    ids = encoder.encode([group.prompt for group in groups])
    return [_one(group, tokens, threshold) for group, tokens in zip(groups, ids, strict=True)]


def _one(group: GradedGroup, prompt_ids: list[int], threshold: float | None) -> GradedPrompt:
    pairs = zip(group.rollouts, group.grades, strict=True)
    scored = [(rollout, grade.reward) for rollout, grade in pairs if grade.reward is not None]
    rewards = [float(reward) for _, reward in scored]
    correct = successes(rewards, threshold)
    if correct is None:
        need = f"prompt {group.prompt.id} has rewards other than 0 and 1: say what is a success"
        raise ConfigError("success_threshold", threshold, need)
    completions = [np.asarray(rollout.token_ids).tolist() for rollout, _ in scored]
    if any(UNKNOWN_TOKEN in tokens for tokens in completions):
        need = f"the rollouts of {group.prompt.id} were counted, not told: updates need them"
        raise ConfigError("token_ids", None, need)
    return GradedPrompt(
        prompt_ids=prompt_ids, completions=completions, rewards=rewards, correct=correct
    )
