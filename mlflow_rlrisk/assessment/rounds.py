"""Prompts are sampled, graded and judged in rounds until the level is decided.

A fixed budget is one round. Stored rollouts are judged by `report_of` alone.
"""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from mlflow_rlrisk.assessment.budget import (
    Round,
    assessed_part,
    budget_record,
    look_of,
    plan_rounds,
    sampling_order,
)
from mlflow_rlrisk.assessment.collection import Collection
from mlflow_rlrisk.assessment.gathering import Gatherer
from mlflow_rlrisk.assessment.inputs import INPUTS, AssessmentInputs
from mlflow_rlrisk.assessment.observer import Observer
from mlflow_rlrisk.budget_record import Look, SequentialBudget
from mlflow_rlrisk.config import AssessmentConfig, PolicyConfig
from mlflow_rlrisk.records import Prompt, PromptStatistics
from mlflow_rlrisk.report import AssessmentContext, RiskReport, summarize
from mlflow_rlrisk.samplers import Sampler, draws_ranges


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """Which prompts are sampled in which rounds.

    Attributes:
        order: The prompts; a round takes the first ones.
        rounds: The rounds; one for a fixed budget.
        given: How the rounds went that brought about the rollouts that are replayed.
    """

    order: list[Prompt]
    rounds: tuple[Round, ...]
    given: SequentialBudget | None = None


def course_of(
    inputs: AssessmentInputs,
    policy: PolicyConfig,
    context: AssessmentContext | None,
    sampler: Sampler,
    replayed: Path | None,
) -> Course:
    """The rounds of an assessment; ``replayed`` is where its rollouts come from, if not sampled."""
    config, prompts = inputs.config, inputs.prompts.prompts
    if config.budget == "auto":
        sibling = None if context is None else context.sibling_pass_at_64
        rounds = plan_rounds(
            config,
            policy,
            num_prompts=len(prompts),
            can_split_groups=draws_ranges(sampler),
            needs_all_samples=sibling is not None and "coverage" in policy.components,
        )
        return Course(order=sampling_order(prompts, config.sampling.seed), rounds=rounds)
    if replayed is not None and (replayed / INPUTS).is_file():
        source = AssessmentInputs.load(replayed)
        if source.budget is not None and source.prompts.digest == inputs.prompts.digest:
            order, last = assessed_part(source)
            return Course(order=order, rounds=(last,), given=source.budget)
    samples = None if replayed is not None else config.sampling.num_samples
    return Course(
        order=list(prompts), rounds=(Round(num_prompts=len(prompts), num_samples=samples),)
    )


def run_rounds(
    course: Course,
    gatherer: Gatherer,
    config: AssessmentConfig,
    judge: Callable[[Collection, float | None], RiskReport],
    watch: Observer,
) -> tuple[RiskReport, tuple[PromptStatistics, ...]]:
    """Sample and judge round by round until the level is decided or the plan is at its end."""
    looks: list[Look] = []
    told: set[str] = set()

    def tell(statistics: PromptStatistics) -> None:
        if statistics.prompt_id not in told:
            told.add(statistics.prompt_id)
            watch.graded(statistics)

    watch.stage("sample")
    while True:
        round_ = course.rounds[len(looks)]
        prompts = course.order[: round_.num_prompts]
        collection = Collection(prompts, config, tell)
        missing = gatherer.missing(prompts, round_.num_samples)
        for groups in (
            gatherer.stored(prompts, round_.num_samples),
            gatherer.sampled(missing, round_.num_samples),
        ):
            with closing(groups):
                for group in groups:
                    collection.take(group)
        if round_ is course.rounds[-1]:
            watch.stage("summarize")
        report = judge(collection, round_.confidence)
        statistics = tuple(collection.statistics())
        looks.append(look_of(round_, report, statistics))
        if looks[-1].is_decided or round_ is course.rounds[-1]:
            break
    if round_ is not course.rounds[-1]:
        watch.stage("summarize")
    return _closed(report, course, looks), statistics


def _closed(report: RiskReport, course: Course, looks: Sequence[Look]) -> RiskReport:
    """The report with the word on its rounds, where there were any."""
    if report.config.budget == "auto":
        return with_budget(report, budget_record(looks, course.rounds, report.config))
    return report if course.given is None else with_budget(report, course.given)


def with_budget(report: RiskReport, budget: SequentialBudget) -> RiskReport:
    """The report with the account of its rounds, which its first note sums up."""
    said = budget.sentence(report.config.confidence)
    return replace(report, budget=budget, notes=(said, *report.notes))


def report_of(
    inputs: AssessmentInputs,
    policy: PolicyConfig,
    context: AssessmentContext | None,
    remarks: tuple[str, ...],
    collection: Collection,
    look_confidence: float | None,
) -> RiskReport:
    """The report on what was collected; ``remarks`` stand under its notes."""
    report = summarize(
        collection.statistics(),
        config=inputs.config,
        policy=policy,
        provenance=replace(inputs.provenance, finished_at=utc_now()),
        profile=collection.profile,
        examples=collection.examples(),
        context=context,
        look_confidence=look_confidence,
    )
    return replace(report, notes=report.notes + remarks)


def utc_now() -> str:
    """This second, as reports say it."""
    return datetime.now(UTC).isoformat(timespec="seconds")
