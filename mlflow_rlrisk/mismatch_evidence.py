"""An assessment judged with the mismatch of its own sampler and the trainer's forward pass."""

from dataclasses import replace

from mlflow_rlrisk.assessment.rescored import (
    quantization,
    refuse_other_weights,
    refuse_unscorable,
    rescore_mismatch,
)
from mlflow_rlrisk.assessment.wiring import REPORT, Assessment, rescore_stored
from mlflow_rlrisk.checkpoint.files import find_layout, read_config
from mlflow_rlrisk.config import AssessmentConfig
from mlflow_rlrisk.errors import ConfigError
from mlflow_rlrisk.model_reference import resolve_reference
from mlflow_rlrisk.rollouts.shards import write_text_atomically
from mlflow_rlrisk.samplers.openai import OpenAISampler
from mlflow_rlrisk.samplers.ray_options import RayOptions
from mlflow_rlrisk.train_inference_mismatch import MismatchReport


def require_scorable(model: str, config: AssessmentConfig) -> None:
    """Refuse before hours of sampling what `with_mismatch` would refuse after them.

    What an endpoint tells of its tokens is found out by asking it.

    Raises:
        ComparabilityError: The figures would not be the mismatch of sampler and trainer.
        ConfigError: A setting of the endpoint does not fit.
        SamplerError: The endpoint does not answer.
    """
    config = _of_the_sampler(config)
    described = {"adapter": config.backend_options.get("lora_adapter")}
    refuse_unscorable(config.sampling, described)
    if config.backend == "openai":
        sampler = OpenAISampler(model, config)
        try:
            refuse_unscorable(config.sampling, sampler.describe())
        finally:
            sampler.close()


def require_same_weights(model: str, config: AssessmentConfig) -> None:
    """Refuse before hours of sampling quantized weights, which `with_mismatch` would not compare.

    Files that are not on this machine yet are not looked at.

    Raises:
        ComparabilityError: The weights are quantized, or would be on loading.
    """
    folder = resolve_reference(model).local_path
    stored = None if folder is None else quantization(read_config(find_layout(folder)))
    asked = _of_the_sampler(config).backend_options.get("quantization")
    refuse_other_weights(stored if asked is None else str(asked), stored)


def _of_the_sampler(config: AssessmentConfig) -> AssessmentConfig:
    """What the sampler in a worker of a cluster is told; elsewhere the config itself."""
    return RayOptions.of(config).config_for_worker(config) if config.backend == "ray" else config


def with_mismatch(assessment: Assessment) -> tuple[Assessment, MismatchReport]:
    """Score the assessment's rollouts with the transformers forward pass and judge them again.

    The weights are loaded as they are stored, on the device of the assessment. The figure is kept
    in its folder and the report there is replaced.

    Args:
        assessment: Finished, its sampler closed, its rollouts kept.

    Returns:
        The assessment with a report that counts the mismatch, and the comparison itself.

    Raises:
        ConfigError: The rollouts were not kept.
        ComparabilityError: The figures would not be the mismatch of sampler and trainer.
        StatisticsError: Token ids or logprobs were not recorded.
    """
    folder, report = assessment.folder, assessment.report
    if folder is None:
        raise ConfigError("mismatch", None, "needs a folder of rollouts")
    found = rescore_mismatch(
        folder,
        None,
        device=report.config.device,
        allow_pickle=report.config.allow_pickle,
        num_resamples=report.config.num_resamples,
        confidence=report.config.confidence,
    )
    judged = rescore_stored(folder, policy=report.policy, context=assessment.context)
    # Who sampled it with which command, and what preflight remarked, is not known to a rescore.
    judged = replace(judged, provenance=report.provenance, notes=report.notes)
    write_text_atomically(folder / REPORT, judged.to_json())
    return replace(assessment, report=judged), found
