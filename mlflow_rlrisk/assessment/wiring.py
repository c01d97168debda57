"""The only place that wires the stages: sample -> verify -> measure -> summarize -> RiskReport.

Sampling and grading overlap, every graded group is stored as it comes, and a rerun goes on from
what is stored. Nothing here computes a figure; nothing here prints.
"""

import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from mlflow_rlrisk.assessment.budget import assessed_part, require_lookahead
from mlflow_rlrisk.assessment.collection import Collection
from mlflow_rlrisk.assessment.expert_scoring import expert_profile, keep_profile, with_profile
from mlflow_rlrisk.assessment.finished import Finished, Request
from mlflow_rlrisk.assessment.gathering import Gatherer
from mlflow_rlrisk.assessment.inputs import AssessmentInputs, as_sampled
from mlflow_rlrisk.assessment.observer import Observer, SilentObserver
from mlflow_rlrisk.assessment.plan import plan_of
from mlflow_rlrisk.assessment.provenance import (
    assessment_folder,
    provenance_of,
    refuse_other,
    store_identity,
)
from mlflow_rlrisk.assessment.rounds import course_of, report_of, run_rounds, utc_now, with_budget
from mlflow_rlrisk.assessment.stored import stored_groups
from mlflow_rlrisk.checkpoint import open_checkpoint
from mlflow_rlrisk.config import AssessmentConfig, LookaheadConfig, PolicyConfig
from mlflow_rlrisk.experts.examples import load_experts
from mlflow_rlrisk.experts.profile import ExpertProfile
from mlflow_rlrisk.prompts import PromptSet, load_prompts
from mlflow_rlrisk.records import PromptStatistics
from mlflow_rlrisk.report import AssessmentContext, RiskReport
from mlflow_rlrisk.rollouts.evidence import keep_context, with_stored_evidence
from mlflow_rlrisk.rollouts.folder_lock import locked
from mlflow_rlrisk.rollouts.shards import write_text_atomically
from mlflow_rlrisk.rollouts.store import RolloutStore
from mlflow_rlrisk.samplers import Sampler, load_sampler, needs_checkpoint
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
    started = utc_now()
    if config.backend == "replay":
        config = as_sampled(config, Path(model))
    else:
        config.require_a_group()
    watch.stage("open")
    prompt_set = prompts if isinstance(prompts, PromptSet) else load_prompts(prompts, mapping)
    if lookahead is not None:
        require_lookahead(lookahead, config, policy, len(prompt_set.prompts))
    heldout, trained = load_experts(expert_data, expert_train_data)
    source = None
    if needs_checkpoint(load_sampler(config.backend), str(model)):
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
    with pool:
        found = _carried_out(request, pool, context, (out_dir, out_root), watch, started, command)
    watch.stage("done")
    return found


def _carried_out(
    request: Request,
    pool: VerifierPool,
    context: AssessmentContext | None,
    out: tuple[str | Path | None, str | Path | None],
    watch: Observer,
    started: str,
    command: str,
) -> Assessment:
    """What is asked for, by sampling or by what is stored."""
    config, policy = request.config, request.policy
    replayed = Path(request.model) if config.backend == "replay" else None
    with ExitStack() as stack:
        watch.stage("preflight")
        shown = _preflight(pool, request.prompts, config, is_wanted=request.is_preflight_wanted)
        watch.stage("expert data")  # before the sampler, which may take the whole device
        expert, train = (
            None if each is None else expert_profile(request.checkpoint, each, config, out)
            for each in (request.expert, request.train)
        )
        watch.stage("load")
        sampler = _loaded(request, watch, stack)
        inputs = _inputs(request, pool, sampler, started, command)
        folder = assessment_folder(*out, request.model, inputs.provenance)
        if folder is not None:
            stack.enter_context(locked(folder))
            context = with_stored_evidence(folder, context, inputs.graded_as)
        if expert is not None:
            context = with_profile(context, expert, config, train)
        store = _store(folder, inputs, stack)
        num_samples = None if replayed is not None else config.sampling.num_samples
        gatherer = Gatherer(sampler, pool, store, num_samples)
        course = course_of(inputs, policy, context, sampler, replayed)
        pending = gatherer.missing(course.order, course.rounds[-1].num_samples)
        plan = plan_of(
            inputs, course.order, course.rounds, request.checkpoint, sampler, pool, shown, pending
        )
        watch.planned(plan)
        if store is not None:  # not before: what is refused while planning leaves nothing behind
            _bind(store, inputs)
        if folder is not None:
            keep_context(folder, context)
            if expert is not None:
                keep_profile(folder, expert, config, train)
        judge = partial(report_of, inputs, policy, context, _remarks(shown))
        report, statistics = run_rounds(course, gatherer, config, judge, watch)
        if folder is not None:
            if report.budget is not None:
                replace(inputs, budget=report.budget).save(folder)
            write_text_atomically(folder / REPORT, report.to_json())
            request.keep(folder, pool.verifier, plan, report, statistics, context)
        return Assessment(
            report=report,
            statistics=statistics,
            folder=folder,
            context=context,
            expert=expert,
            train=train,
        )


def _loaded(request: Request, watch: Observer, stack: ExitStack) -> Sampler:
    """The sampler with its model, closed with the stack."""
    config = request.config
    sampler = load_sampler(config.backend)(request.checkpoint or request.model, config)
    if callable(close := getattr(sampler, "close", None)):
        stack.callback(close)
    sampler.on_tokens = watch.sampled
    return sampler


def _inputs(
    request: Request, pool: VerifierPool, sampler: Sampler, started: str, command: str
) -> AssessmentInputs:
    """What the rollouts are made of, as it is kept beside them."""
    provenance = provenance_of(
        request.model,
        request.checkpoint,
        request.prompts,
        pool,
        sampler,
        request.config,
        request.policy,
    )
    experts = {"expert": request.expert, "expert_train": request.train}
    provenance.digests.update({name: e.digest for name, e in experts.items() if e is not None})
    return AssessmentInputs(
        config=request.config,
        verifier=pool.spec.text,
        prompts=request.prompts,
        provenance=replace(provenance, started_at=started, command=command),
    )


def _store(folder: Path | None, inputs: AssessmentInputs, stack: ExitStack) -> RolloutStore | None:
    """Where rollouts are kept, if anywhere; rounds have to read what earlier ones drew."""
    if folder is None:
        if inputs.config.budget != "auto":
            return None
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    store = RolloutStore(folder)
    refuse_other(store, inputs)
    return store


def _answered(before: Finished, started: str, command: str, watch: Observer) -> Assessment:
    """What was finished before, as the answer to this command."""
    watch.stage("recall")
    watch.planned(before.plan)
    watch.stage("sample")
    for each in before.statistics:
        watch.graded(each)
    made = replace(
        before.report.provenance, started_at=started, finished_at=utc_now(), command=command
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
        provenance = replace(inputs.provenance, started_at=utc_now(), command=command)
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
    report = report_of(judged, policy, context, warnings, collection, part.confidence)
    return report if inputs.budget is None else with_budget(report, inputs.budget)


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
