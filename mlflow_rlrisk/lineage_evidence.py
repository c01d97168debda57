"""What only a whole lineage can say of one assessment: the rise of its loss above the smallest."""

from collections.abc import Sequence
from dataclasses import replace

from mlflow_rlrisk.evidence import AssessmentContext, Evidence
from mlflow_rlrisk.expert_profile import heldout_rises
from mlflow_rlrisk.report import summarize
from mlflow_rlrisk.rollout_shards import write_text_atomically
from mlflow_rlrisk.wiring import REPORT, Assessment


def with_heldout_rises(assessments: Sequence[Assessment]) -> list[Assessment]:
    """Judge each assessment again beside the lineage's smallest held-out loss.

    The rise is paired over the expert examples. It belongs to this lineage, so it is written to
    the report and not kept as evidence for a later assessment of one version alone.

    Args:
        assessments: Of one lineage, with a fixed budget.

    Returns:
        The assessments, as they are where one of them has no expert data.

    Raises:
        ComparabilityError: The expert data or the tokenizers differ.
    """
    profiles = [each.expert for each in assessments if each.expert is not None]
    if len(profiles) < len(assessments):
        return list(assessments)
    config = assessments[0].report.config
    rises = heldout_rises(profiles, config.num_resamples, config.sampling.seed, config.confidence)
    return [_judged(each, rise) for each, rise in zip(assessments, rises, strict=True)]


def _judged(assessment: Assessment, rise: Evidence) -> Assessment:
    report = assessment.report
    context = replace(assessment.context or AssessmentContext(), heldout_rise=rise)
    judged = summarize(
        assessment.statistics,
        config=report.config,
        policy=report.policy,
        provenance=report.provenance,
        profile=report.profile,
        examples=report.examples,
        context=context,
    )
    # Notes of the verifier and the sampler are not made by `summarize`.
    judged = replace(judged, notes=report.notes)
    if assessment.folder is not None:
        write_text_atomically(assessment.folder / REPORT, judged.to_json())
    return replace(assessment, report=judged, context=context)
