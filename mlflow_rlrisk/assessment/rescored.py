"""Which stored rollouts may be held against which trainer's model, and the comparison itself.

What would make the comparison say something else is refused: another checkpoint, truncation
or a penalty, an adapter that the trainer's model lacks, weights quantized otherwise.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mlflow_rlrisk.assessment.budget import assessed_part
from mlflow_rlrisk.assessment.inputs import INPUTS, AssessmentInputs
from mlflow_rlrisk.checkpoint import Checkpoint, open_checkpoint
from mlflow_rlrisk.config import AssessmentConfig, SamplingConfig
from mlflow_rlrisk.errors import ComparabilityError, ConfigError
from mlflow_rlrisk.forward.padded_rollouts import pad_ids, padding_note, without_padding
from mlflow_rlrisk.forward.teacher_forced import TeacherForcedScorer
from mlflow_rlrisk.prompts import load_prompts
from mlflow_rlrisk.records import RolloutGroup
from mlflow_rlrisk.rollouts.evidence import keep_evidence
from mlflow_rlrisk.rollouts.store import RolloutStore
from mlflow_rlrisk.samplers.model_loading import load_model, load_tokenizer
from mlflow_rlrisk.samplers.prompt_encoding import PromptEncoder
from mlflow_rlrisk.samplers.replay import ReplaySampler
from mlflow_rlrisk.samplers.stop_tokens import all_stop_ids
from mlflow_rlrisk.statistics.counts import check_at_least, check_open_unit
from mlflow_rlrisk.train_inference_mismatch import MismatchReport, measure_mismatch


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRollouts:
    """Rollouts and what is known of how they were drawn.

    Attributes:
        groups: The rollouts.
        sampling: Settings they were sampled with.
        sampler: What the sampler said of itself; empty for a dump.
        digests: Digests of checkpoint and tokenizer, where they are known.
        model: Reference of the checkpoint, where it is known.
        folder: Folder of the assessment, where it is one.
    """

    groups: Sequence[RolloutGroup]
    sampling: SamplingConfig
    sampler: Mapping[str, Any]
    digests: Mapping[str, str]
    model: str | None
    folder: Path | None


def open_rollouts(source: Path, temperature: float | None) -> StoredRollouts:
    """Read the folder of an assessment, or a dump of rollouts.

    Args:
        source: Folder, or ``.jsonl`` or ``.parquet`` file as the ``replay`` backend reads it.
        temperature: That a dump was sampled at, 1 if left out; a folder says it itself.

    Raises:
        RolloutStoreError: The folder is none of an assessment, or damaged.
        SamplerError: The file is no dump of rollouts.
        ConfigError: The folder says another temperature.
    """
    if source.is_dir():
        inputs = AssessmentInputs.load(source)
        sampling = inputs.config.sampling
        if temperature is not None and temperature != sampling.temperature:
            need = f"{source / INPUTS} says {sampling.temperature}"
            raise ConfigError("temperature", temperature, need)
        prompts, part = assessed_part(inputs)
        places = inputs.prompt_places()
        groups = RolloutStore(source).groups(prompts, part.num_samples)
        return StoredRollouts(
            groups=sorted(groups, key=lambda each: places[each.prompt.id]),
            sampling=sampling,
            sampler=_described(inputs.provenance.sampler),
            digests=inputs.provenance.digests,
            model=inputs.provenance.model_reference,
            folder=source,
        )
    sampling = SamplingConfig(temperature=1.0 if temperature is None else temperature)
    replay = ReplaySampler(source, AssessmentConfig(backend="replay", sampling=sampling))
    found = load_prompts(source, {"prompt": "prompt", "truth": ""})
    # A dump has a row for each rollout, and a prompt is in as many as it has rollouts.
    by_text = {prompt.text: prompt for prompt in reversed(found.prompts)}
    return StoredRollouts(
        groups=list(replay.sample(list(by_text.values())[::-1])),
        sampling=sampling,
        sampler={},
        digests={},
        model=None,
        folder=None,
    )


def rescore_mismatch(
    source: Path,
    model: str | None,
    *,
    device: str = "auto",
    dtype: str = "auto",
    temperature: float | None = None,
    rollouts_per_prompt: int | None = None,
    across_quantization: bool = False,
    allow_pickle: bool = False,
    num_resamples: int = 2000,
    confidence: float = 0.95,
    num_outliers: int = 10,
) -> MismatchReport:
    """Score stored rollouts with the transformers forward pass and compare.

    Of an assessment's folder the result is kept in it, as evidence for whoever judges its
    rollouts again.

    Args:
        source: Folder of an assessment, or dump of rollouts.
        model: Reference of the trainer's model; left out, that of the assessment.
        device: Where the model runs.
        dtype: Of its weights; ``auto`` as stored.
        temperature: That a dump was sampled at.
        rollouts_per_prompt: At most so many of each prompt, the first ones.
        across_quantization: Compare although sampler and trainer read other weights, and say so.
        allow_pickle: Accept pickled weights.
        num_resamples: Resamples of the prompts.
        confidence: Level of the intervals.
        num_outliers: Rollouts and tokens to name.

    Raises:
        ComparabilityError: The figures would not be the mismatch of sampler and trainer.
        ConfigError: A setting does not fit.
        CheckpointError: The model cannot be loaded.
        StatisticsError: Token ids or logprobs were not recorded.
    """
    check_at_least("num_resamples", num_resamples, 1)
    check_open_unit("confidence", confidence)
    stored = open_rollouts(source, temperature)
    if model is None and stored.model is None:
        raise ConfigError("model", None, f"{source} does not say which model it was sampled from")
    checkpoint = open_checkpoint(model or str(stored.model), allow_pickle=allow_pickle)
    notes = _refuse_incomparable(stored, checkpoint, across_quantization)
    config = AssessmentConfig.model_validate(
        {"device": device, "dtype": dtype, "allow_pickle": allow_pickle}
    )
    loaded = load_model(checkpoint, config)
    tokenizer = load_tokenizer(checkpoint, loaded.get_input_embeddings().weight.shape[0])
    stop_ids, fillers = all_stop_ids(checkpoint, tokenizer), pad_ids(checkpoint, tokenizer)
    encoder = PromptEncoder(checkpoint, tokenizer, sampling=stored.sampling, stop_ids=stop_ids)
    if encoder.is_dated and any(encoder.is_templated(group.prompt) for group in stored.groups):
        notes.append(
            "the chat template inserts the date: of rollouts of another day the figures include "
            "what that changes"
        )
    scorer = TeacherForcedScorer(loaded)
    if scorer.fallback_reason is not None:
        notes.append(f"scored from logits of whole sequences: {scorer.fallback_reason}")
    groups = [_first(group, rollouts_per_prompt) for group in stored.groups]
    groups, num_cut = without_padding(groups, stop_ids, fillers)
    if num_cut:
        notes.append(padding_note(num_cut, groups))
    found = measure_mismatch(
        groups,
        encoder.encode,
        scorer,
        temperature=stored.sampling.temperature,
        num_resamples=num_resamples,
        confidence=confidence,
        seed=stored.sampling.seed,
        num_outliers=num_outliers,
    )
    report = replace(
        found,
        sampler=stored.sampler,
        trainer=_trainer(checkpoint, loaded),
        notes=tuple(notes),
    )
    if stored.folder is not None:
        keep_evidence(stored.folder, "mismatch_kl", report.evidence())
    return report


def refuse_unscorable(sampling: SamplingConfig, sampler: Mapping[str, Any]) -> None:
    """Refuse rollouts whose logprobs no forward pass of the checkpoint could give.

    Args:
        sampling: Settings they are sampled with.
        sampler: What the sampler says of itself.

    Raises:
        ComparabilityError: They are such.
    """
    if sampling.reshaping:
        raise ComparabilityError(
            f"sampled with {sampling.reshaping}: the sampler's logprobs are of a truncated or "
            "penalised distribution, the trainer's are not"
        )
    if sampler.get("adapter") is not None:
        raise ComparabilityError(
            "sampled with a LoRA adapter, which the trainer's model lacks; merge it first"
        )
    if sampler.get("has_token_ids", True) is False:
        raise ComparabilityError(
            "the endpoint does not tell token ids, so its tokens cannot be scored again (a vLLM "
            "server does)"
        )
    if sampler.get("has_logprobs", True) is False:
        raise ComparabilityError(
            "the endpoint does not tell the logprobs of the distribution that it samples from "
            f"at temperature {sampling.temperature:g} (vLLM: --logprobs-mode processed_logprobs)"
        )


def _described(sampler: Mapping[str, Any]) -> dict[str, Any]:
    """What the sampler said of itself, its identity unfolded."""
    identity = sampler.get("identity")
    unfolded = json.loads(identity) if isinstance(identity, str) else {}
    return {name: value for name, value in sampler.items() if name != "identity"} | unfolded


def _refuse_incomparable(
    stored: StoredRollouts, checkpoint: Checkpoint, across_quantization: bool
) -> list[str]:
    """Notes on what cannot be checked.

    Raises:
        ComparabilityError: The comparison would show something else than the mismatch.
    """
    notes = []
    for name, digest in (
        ("checkpoint", checkpoint.digest),
        ("tokenizer", checkpoint.tokenizer_digest),
    ):
        known = stored.digests.get(name)
        if known is None:
            notes.append(f"the rollouts do not say from which {name} they are: it is not checked")
        elif known != digest:
            raise ComparabilityError(
                f"the rollouts are of another {name} ({known[:12]}) than "
                f"{checkpoint.display_name} ({digest[:12]}): drift, not mismatch"
            )
    refuse_unscorable(stored.sampling, stored.sampler)
    if stored.sampler.get("backend") == "openai" and stored.sampler.get("weights_check") is None:
        notes.append(
            "that the endpoint served these weights is declared, not checked: a large mismatch "
            "may be another model"
        )
    own = quantization(checkpoint.config)
    sampled = stored.sampler.get("quantization", own)
    if sampled is None and own is None:
        return notes
    said = refuse_other_weights(sampled, own, across_quantization=across_quantization)
    return [*notes, f"across quantization: {said}; the figures include what it changes"]


def refuse_other_weights(
    sampled: str | None, scored: str | None, *, across_quantization: bool = False
) -> str:
    """Say what was done to the weights that were sampled and to those that score.

    Args:
        sampled: How the sampler's weights are quantized.
        scored: How those of the trainer's model are.
        across_quantization: Accept it.

    Raises:
        ComparabilityError: Either is quantized and that is not accepted.
    """
    said = f"weights quantized by {sampled or 'nothing'} were sampled, by {scored or 'nothing'} "
    said += "scored"
    if (sampled or scored) and not across_quantization:
        raise ComparabilityError(
            f"{said}: engines read quantized weights differently, which is not the mismatch of "
            "their arithmetic; `rlrisk mismatch --across-quantization` compares all the same"
        )
    return said


def quantization(config: Mapping[str, Any]) -> str | None:
    """The method that a ``config.json`` says its weights are quantized by."""
    stored = config.get("quantization_config")
    return None if stored is None else str(stored.get("quant_method", "unknown"))


def _first(group: RolloutGroup, count: int | None) -> RolloutGroup:
    return replace(group, rollouts=group.rollouts[:count])


def _trainer(checkpoint: Checkpoint, model: Any) -> dict[str, Any]:
    import torch
    import transformers

    return {
        "model": checkpoint.display_name,
        "checkpoint": checkpoint.digest,
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(model.device),
        "quantization": quantization(checkpoint.config),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
