"""What a lineage needs of its members' folders: rises of the loss, answers, copies of another."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from mlflow_rlrisk.assessment.wiring import REPORT, Assessment
from mlflow_rlrisk.errors import StatisticsError
from mlflow_rlrisk.evidence import AssessmentContext, Evidence
from mlflow_rlrisk.experts.profile import heldout_rises
from mlflow_rlrisk.lineage import LineageMember
from mlflow_rlrisk.lineage.scaling import Context, Rescaling, TokenLogprobs, find_rescalings
from mlflow_rlrisk.records import UNKNOWN_TOKEN
from mlflow_rlrisk.report import summarize
from mlflow_rlrisk.rollouts.shards import write_text_atomically
from mlflow_rlrisk.rollouts.store import RolloutStore

MAX_PROMPTS, MAX_DEPTH = 50, 6
"""Prompts and first tokens of each answer that are compared; equal answers part early."""


def rescalings(
    assessments: Mapping[str, Assessment], parents: Mapping[str, str | None] | None = None
) -> tuple[Rescaling, ...]:
    """Find versions that are another one with its logits multiplied, from the stored rollouts.

    Args:
        assessments: By name, in the order of the lineage, the base first. Those without a folder
            or without token ids and logprobs are left out.
        parents: What a version was made from, where that is known.
    """
    sampled = {name: _token_logprobs(each) for name, each in assessments.items()}
    return find_rescalings({name: table for name, table in sampled.items() if table}, parents)


def _token_logprobs(assessment: Assessment) -> TokenLogprobs:
    if assessment.folder is None:
        return {}
    prompt_ids = sorted(each.prompt_id for each in assessment.statistics)[:MAX_PROMPTS]
    found: dict[Context, dict[int, float]] = {}
    for prompt_id, ids, logprobs in RolloutStore(assessment.folder).tokens(prompt_ids, MAX_DEPTH):
        if UNKNOWN_TOKEN in ids:
            continue
        for place, (token, logprob) in enumerate(zip(ids, logprobs, strict=True)):
            found.setdefault((prompt_id, tuple(ids[:place])), {})[token] = logprob
    return found


def member_of(
    assessment: Assessment, *, parent: str | None = None, series: str | None = None
) -> LineageMember:
    """The assessment as a member of a lineage, named as its model was."""
    return LineageMember(
        name=assessment.report.provenance.model_reference,
        report=assessment.report,
        statistics=assessment.statistics,
        expert=assessment.expert,
        train=assessment.train,
        parent=parent,
        series=series,
        answers=_answers_given(assessment),
    )


def _answers_given(assessment: Assessment) -> dict[str, dict[str, tuple[int, bool]]] | None:
    """By prompt the answers that were extracted, from the stored grades; ``None`` without them.

    A folder may hold more than was assessed, where an earlier run drew more than a round.
    """
    if assessment.folder is None:
        return None
    report = assessment.report
    most = None if report.budget is None else report.budget.last.num_samples
    return RolloutStore(assessment.folder).answers(report.config.success_threshold, most)


def with_heldout_rises(assessments: Sequence[Assessment]) -> list[Assessment]:
    """Judge each assessment again beside the lineage's smallest held-out loss.

    The rise is paired over the expert examples. It belongs to this lineage, so it is written to
    the report and not kept as evidence for a later assessment of one version alone. Where the
    smallest loss may be 0 no rise is told, and why.

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
    settings = config.num_resamples, config.sampling.seed, config.confidence
    try:
        rises: list[Evidence | None] = [*heldout_rises(profiles, *settings)]
        why = None
    except StatisticsError as error:
        rises, why = [None] * len(profiles), str(error)
    return [_judged(each, rise, why) for each, rise in zip(assessments, rises, strict=True)]


def _judged(assessment: Assessment, rise: Evidence | None, undefined: str | None) -> Assessment:
    report = assessment.report
    context = replace(
        assessment.context or AssessmentContext(),
        heldout_rise=rise,
        heldout_rise_undefined=undefined,
    )
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
