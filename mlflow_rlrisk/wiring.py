"""The only place that wires the stages: sample -> verify -> measure -> summarize -> RiskReport.

Sampling and grading overlap, every graded group is stored as it comes, and a rerun goes on from
what is stored. Nothing here computes a figure; nothing here prints.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlflow_rlrisk.assessment_inputs import INPUTS, AssessmentInputs, as_sampled
from mlflow_rlrisk.assessment_plan import plan_of
from mlflow_rlrisk.budget import (
    Round,
    assessed_part,
    budget_record,
    look_of,
    plan_rounds,
    require_lookahead,
    sampling_order,
)
from mlflow_rlrisk.budget_record import Look, SequentialBudget
from mlflow_rlrisk.checkpoint import open_checkpoint
from mlflow_rlrisk.collection import Collection
from mlflow_rlrisk.config import AssessmentConfig, LookaheadConfig, PolicyConfig
from mlflow_rlrisk.expert_examples import load_experts
from mlflow_rlrisk.expert_profile import ExpertProfile
from mlflow_rlrisk.expert_scoring import expert_profile, keep_profile, with_profile
from mlflow_rlrisk.finished_assessment import Finished, Request
from mlflow_rlrisk.folder_lock import locked
from mlflow_rlrisk.gathering import Gatherer
from mlflow_rlrisk.observer import Observer, SilentObserver
from mlflow_rlrisk.prompts import PromptSet, load_prompts
from mlflow_rlrisk.provenance import assessment_folder, provenance_of, refuse_other, store_identity
from mlflow_rlrisk.records import Prompt, PromptStatistics
from mlflow_rlrisk.report import AssessmentContext, RiskReport, summarize
from mlflow_rlrisk.rollout_shards import write_text_atomically
from mlflow_rlrisk.rollout_store import RolloutStore
from mlflow_rlrisk.samplers import Sampler, draws_ranges, load_sampler, needs_checkpoint
from mlflow_rlrisk.stored_assessment import stored_groups
from mlflow_rlrisk.stored_evidence import keep_context, with_stored_evidence
from mlflow_rlrisk.verifiers import PreflightResult, VerifierPool, preflight

REPORT = "report.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Assessment:
    """A finished assessment.

    Attributes:
        report: The report.
        statistics: What was counted of each prompt.
        folder: Folder of the rollouts, if they were kept.
        context: Evidence beside the rollouts that the report took into account.
        expert: How the checkpoint sees the expert data, where some were given.
        train: How it sees the examples that it was trained on, where some were given.
    """

    report: RiskReport
    statistics: tuple[PromptStatistics, ...]
    folder: Path | None
    context: AssessmentContext | None = None
    expert: ExpertProfile | None = None
    train: ExpertProfile | None = None


def run_assessment(
    model: str | Path,
    prompts: object,
    *,
    verifier: str | Callable[..., Any],
    config: AssessmentConfig | None = None,
    policy: PolicyConfig | None = None,
    mapping: Mapping[str, str] | None = None,
    context: AssessmentContext | None = None,
    expert_data: object = None,
    expert_train_data: object = None,
    lookahead: LookaheadConfig | None = None,
    out_dir: str | Path | None = None,
    out_root: str | Path | None = None,
    run_preflight: bool = True,
    observer: Observer | None = None,
    command: str = "",
) -> Assessment:
    """Do what `assess` says; its arguments mean the same here.

    ``out_root`` may stand instead of ``out_dir``: the folder is then made below it and named by
    the inputs, so that the same command finds its own rollouts again. ``lookahead`` is tried
    afterwards (`with_lookahead`); here it is refused where there will be too few rollouts for it.
    """
    config, policy = config or AssessmentConfig(), policy or PolicyConfig()
    watch = observer or SilentObserver()
    started = _now()
    is_replay = config.backend == "replay"
    if is_replay:
        config = as_sampled(config, Path(model))
    if not is_replay:
        config.require_a_group()
    watch.stage("open")
    prompt_set = prompts if isinstance(prompts, PromptSet) else load_prompts(prompts, mapping)
    if lookahead is not None:
        require_lookahead(lookahead, config, policy, len(prompt_set.prompts))
    heldout, trained = load_experts(expert_data, expert_train_data)
    build = load_sampler(config.backend)
    source = None
    if needs_checkpoint(build, str(model)):
        source = open_checkpoint(model, allow_pickle=config.allow_pickle)
    pool = VerifierPool(
        verifier, num_workers=config.verifier_workers, timeout_s=config.verifier_timeout_s
    )
    request = Request(
        model=str(model),
        checkpoint=source,
        prompts=prompt_set,
        verifier=pool.spec,
        config=config,
        policy=policy,
        expert=heldout,
        train=trained,
        is_preflight_wanted=run_preflight,
    )
    if (before := request.recall(context, out_dir, out_root)) is not None:
        return _answered(before, started, command, watch)
    with ExitStack() as stack:
        stack.enter_context(pool)
        watch.stage("preflight")
        shown = _preflight(pool, prompt_set, config, is_wanted=run_preflight)
        watch.stage("expert data")  # before the sampler, which may take the whole device
        expert, train = (
            None if each is None else expert_profile(source, each, config, (out_dir, out_root))
            for each in (heldout, trained)
        )
        watch.stage("load")
        sampler = build(source or str(model), config)
        if callable(close := getattr(sampler, "close", None)):
            stack.callback(close)
        sampler.on_tokens = watch.sampled
        provenance = provenance_of(str(model), source, prompt_set, pool, sampler, config, policy)
        named = {"expert": heldout, "expert_train": trained}
        provenance.digests.update({name: e.digest for name, e in named.items() if e is not None})
        inputs = AssessmentInputs(
            config=config,
            verifier=pool.spec.text,
            prompts=prompt_set,
            provenance=replace(provenance, started_at=started, command=command),
        )
        folder = assessment_folder(out_dir, out_root, str(model), provenance)
        if folder is not None:
            stack.enter_context(locked(folder))
            context = with_stored_evidence(folder, context, inputs.graded_as)
        if expert is not None:
            context = with_profile(context, expert, config, train)
        kept = folder
        if folder is None and config.budget == "auto":  # later rounds read what earlier ones drew
            kept = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        store = None if kept is None else RolloutStore(kept)
        if store is not None:
            refuse_other(store, inputs)
        num_samples = None if is_replay else config.sampling.num_samples
        gatherer = Gatherer(sampler, pool, store, num_samples)
        course = _course(inputs, policy, context, sampler, Path(model) if is_replay else None)
        most = course.rounds[-1].num_samples
        pending = gatherer.missing(course.order, most)
        plan = plan_of(inputs, course.order, course.rounds, source, sampler, pool, shown, pending)
        watch.planned(plan)
        if store is not None:  # not before: what is refused while planning leaves nothing behind
            _bind(store, inputs)
        if folder is not None:
            keep_context(folder, context)
            if expert is not None:
                keep_profile(folder, expert, config, train)
        judged = _run_rounds(course, gatherer, inputs, policy, context, _remarks(shown), watch)
        if folder is not None:
            if judged.report.budget is not None:
                replace(inputs, budget=judged.report.budget).save(folder)
            write_text_atomically(folder / REPORT, judged.report.to_json())
            request.keep(folder, pool.verifier, plan, judged.report, judged.statistics, context)
    watch.stage("done")
    return replace(judged, folder=folder, context=context, expert=expert, train=train)


def _answered(before: Finished, started: str, command: str, watch: Observer) -> Assessment:
    """What was finished before, as the answer to this command."""
    watch.planned(before.plan)
    watch.stage("sample")
    for each in before.statistics:
        watch.graded(each)
    made = replace(
        before.report.provenance, started_at=started, finished_at=_now(), command=command
    )
    report = replace(before.report, provenance=made)
    with locked(before.folder):
        write_text_atomically(before.folder / REPORT, report.to_json())
    watch.stage("done")
    return Assessment(
        report=report,
        statistics=before.statistics,
        folder=before.folder,
        context=before.context,
        expert=before.expert,
        train=before.train,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Course:
    """Which prompts are sampled in which rounds.

    Attributes:
        order: The prompts; a round takes the first ones.
        rounds: The rounds; one for a fixed budget.
        given: How the rounds went that brought about the rollouts that are replayed.
    """

    order: list[Prompt]
    rounds: tuple[Round, ...]
    given: SequentialBudget | None = None


def _course(
    inputs: AssessmentInputs,
    policy: PolicyConfig,
    context: AssessmentContext | None,
    sampler: Sampler,
    replayed: Path | None,
) -> _Course:
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
        return _Course(order=sampling_order(prompts, config.sampling.seed), rounds=rounds)
    if replayed is not None and (replayed / INPUTS).is_file():
        source = AssessmentInputs.load(replayed)
        if source.budget is not None and source.prompts.digest == inputs.prompts.digest:
            order, last = assessed_part(source)
            return _Course(order=order, rounds=(last,), given=source.budget)
    samples = None if replayed is not None else config.sampling.num_samples
    return _Course(
        order=list(prompts), rounds=(Round(num_prompts=len(prompts), num_samples=samples),)
    )


def _run_rounds(
    course: _Course,
    gatherer: Gatherer,
    inputs: AssessmentInputs,
    policy: PolicyConfig,
    context: AssessmentContext | None,
    remarks: tuple[str, ...],
    watch: Observer,
) -> Assessment:
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
        collection = Collection(prompts, inputs.config, tell)
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
        report = _report(inputs, policy, collection, context, remarks, round_.confidence)
        statistics = tuple(collection.statistics())
        looks.append(look_of(round_, report, statistics))
        if looks[-1].is_decided or round_ is course.rounds[-1]:
            break
    if round_ is not course.rounds[-1]:
        watch.stage("summarize")
    return Assessment(report=_closed(report, course, looks), statistics=statistics, folder=None)


def _closed(report: RiskReport, course: _Course, looks: Sequence[Look]) -> RiskReport:
    """The report with the word on its rounds, where there were any."""
    if report.config.budget == "auto":
        return _with_budget(report, budget_record(looks, course.rounds, report.config))
    return report if course.given is None else _with_budget(report, course.given)


def _with_budget(report: RiskReport, budget: SequentialBudget) -> RiskReport:
    said = budget.sentence(report.config.confidence)
    return replace(report, budget=budget, notes=(said, *report.notes))


def rescore_stored(
    folder: str | Path,
    *,
    verifier: str | Callable[..., Any] | None = None,
    group_size: int | None = None,
    success_threshold: float | None = None,
    policy: PolicyConfig | None = None,
    context: AssessmentContext | None = None,
    run_preflight: bool = True,
    command: str = "",
) -> RiskReport:
    """Do what `rescore` says."""
    policy = policy or PolicyConfig()
    inputs = AssessmentInputs.load(Path(folder))
    changes = {"group_size": group_size, "success_threshold": success_threshold}
    kept = {name: value for name, value in changes.items() if value is not None}
    config = AssessmentConfig(**(inputs.config.model_dump() | kept))
    prompts, part = assessed_part(inputs)
    collection = Collection(prompts, config, lambda _: None)
    with ExitStack() as stack:
        pool: VerifierPool | None = None
        warnings: tuple[str, ...] = ()
        digests = inputs.provenance.digests | {"policy": policy.digest()}
        provenance = replace(inputs.provenance, started_at=_now(), command=command)
        if verifier is not None:
            pool = stack.enter_context(
                VerifierPool(
                    verifier,
                    num_workers=config.verifier_workers,
                    timeout_s=config.verifier_timeout_s,
                )
            )
            shown = _preflight(pool, inputs.prompts, config, is_wanted=run_preflight)
            warnings = _remarks(shown)
            known = pool.verifier
            digests["verifier"] = known.digest
            provenance = replace(provenance, verifier=known.described, judge_tier=known.judge_tier)
        for group in stored_groups(Path(folder), inputs, pool):
            collection.take(group)
    judged = replace(inputs, config=config, provenance=replace(provenance, digests=digests))
    context = with_stored_evidence(Path(folder), context, judged.graded_as)
    report = _report(judged, policy, collection, context, warnings, part.confidence)
    return report if inputs.budget is None else _with_budget(report, inputs.budget)


def _preflight(
    pool: VerifierPool, prompts: PromptSet, config: AssessmentConfig, *, is_wanted: bool
) -> PreflightResult:
    if not is_wanted:
        return PreflightResult.skipped()
    return preflight(pool, prompts, success_threshold=config.success_threshold)


def _remarks(shown: PreflightResult) -> tuple[str, ...]:
    """What a reader of the report should know of the preflight."""
    return shown.warnings if shown.status == "passed" else (*shown.warnings, shown.detail)


def _bind(store: RolloutStore, inputs: AssessmentInputs) -> None:
    store.bind(store_identity(inputs.provenance))
    # A verifier that ran out of time may answer under another limit.
    timeout = str(inputs.config.verifier_timeout_s)
    known = inputs.provenance
    isolation = {} if known.judge_tier is None else {"judge_tier": known.judge_tier}
    store.bind_grades({"verifier": known.digests["verifier"], "timeout_s": timeout, **isolation})
    inputs.save(store.folder)


def _report(
    inputs: AssessmentInputs,
    policy: PolicyConfig,
    collection: Collection,
    context: AssessmentContext | None,
    warnings: tuple[str, ...],
    look_confidence: float | None,
) -> RiskReport:
    report = summarize(
        collection.statistics(),
        config=inputs.config,
        policy=policy,
        provenance=replace(inputs.provenance, finished_at=_now()),
        profile=collection.profile,
        examples=collection.examples(),
        context=context,
        look_confidence=look_confidence,
    )
    return replace(report, notes=report.notes + warnings) if warnings else report


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
