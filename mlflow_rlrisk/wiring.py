"""The only place that wires the stages: sample -> verify -> measure -> summarize -> RiskReport.

Sampling and grading overlap, every graded group is stored as it comes, and a rerun goes on from
what is stored. Nothing here computes a figure; nothing here prints.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from mlflow_rlrisk.assessment_inputs import AssessmentInputs
from mlflow_rlrisk.checkpoint import Checkpoint, open_checkpoint
from mlflow_rlrisk.collection import Collection
from mlflow_rlrisk.config import AssessmentConfig, PolicyConfig
from mlflow_rlrisk.errors import ConfigError
from mlflow_rlrisk.folder_lock import locked
from mlflow_rlrisk.observer import Observer, Plan, SilentObserver
from mlflow_rlrisk.prompts import PromptSet, load_prompts
from mlflow_rlrisk.records import Prompt
from mlflow_rlrisk.report import AssessmentContext, Provenance, RiskReport, summarize
from mlflow_rlrisk.rollout_shards import write_text_atomically
from mlflow_rlrisk.rollout_store import RolloutStore, RolloutWriter
from mlflow_rlrisk.samplers import Sampler, load_sampler
from mlflow_rlrisk.stored_assessment import stored_groups
from mlflow_rlrisk.verifiers import PreflightResult, VerifierPool, preflight

REPORT = "report.json"
_LIBRARIES = ("mlflow", "numpy", "scipy", "torch", "transformers")


@dataclass(frozen=True, slots=True, kw_only=True)
class Assessment:
    """A report, and the folder with its rollouts where they were kept."""

    report: RiskReport
    folder: Path | None


def run_assessment(
    model: str | Path,
    prompts: object,
    *,
    verifier: str | Callable[..., Any],
    config: AssessmentConfig | None = None,
    policy: PolicyConfig | None = None,
    mapping: Mapping[str, str] | None = None,
    context: AssessmentContext | None = None,
    out_dir: str | Path | None = None,
    out_root: str | Path | None = None,
    run_preflight: bool = True,
    observer: Observer | None = None,
    command: str = "",
) -> Assessment:
    """Do what `assess` says; its arguments mean the same here.

    ``out_root`` may stand instead of ``out_dir``: the folder is then made below it and named by
    the inputs, so that the same command finds its own rollouts again.
    """
    config, policy = config or AssessmentConfig(), policy or PolicyConfig()
    watch = observer or SilentObserver()
    started = _now()
    is_replay = config.backend == "replay"
    if not is_replay and config.sampling.num_samples < config.group_size:
        raise ConfigError(
            "num_samples",
            config.sampling.num_samples,
            f"at least group_size={config.group_size} rollouts a prompt are needed to see a group",
        )
    watch.stage("open")
    prompt_set = prompts if isinstance(prompts, PromptSet) else load_prompts(prompts, mapping)
    source = None if is_replay else open_checkpoint(model, allow_pickle=config.allow_pickle)
    with ExitStack() as stack:
        pool = stack.enter_context(
            VerifierPool(
                verifier, num_workers=config.verifier_workers, timeout_s=config.verifier_timeout_s
            )
        )
        watch.stage("preflight")
        shown = _preflight(pool, prompt_set, config, is_wanted=run_preflight)
        watch.stage("load")
        sampler = load_sampler(config.backend)(source or Path(model), config)
        sampler.on_tokens = watch.sampled
        provenance = _provenance(str(model), source, prompt_set, pool, sampler, config, policy)
        inputs = AssessmentInputs(
            config=config,
            verifier=pool.spec.text,
            prompts=prompt_set,
            provenance=replace(provenance, started_at=started, command=command),
        )
        folder = _folder(out_dir, out_root, str(model), provenance)
        if folder is not None:
            stack.enter_context(locked(folder))
        store = _open_store(folder, inputs)
        collection = Collection(prompt_set, config, watch.graded)
        pending = _take_stored(store, pool, prompt_set, collection)
        watch.planned(_plan(inputs, source, sampler, pool, shown, pending))
        watch.stage("sample")
        _sample(sampler, pool, pending, store, collection)
        watch.stage("summarize")
        report = _report(inputs, policy, collection, context, _remarks(shown))
        if folder is not None:
            write_text_atomically(folder / REPORT, report.to_json())
    watch.stage("done")
    return Assessment(report=report, folder=folder)


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
    collection = Collection(inputs.prompts, config, lambda _: None)
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
            digests["verifier"] = pool.verifier.digest
            provenance = replace(provenance, verifier=pool.verifier.described)
        for group in stored_groups(Path(folder), inputs, pool):
            collection.take(group)
    judged = replace(inputs, config=config, provenance=replace(provenance, digests=digests))
    return _report(judged, policy, collection, context, warnings)


def _preflight(
    pool: VerifierPool, prompts: PromptSet, config: AssessmentConfig, *, is_wanted: bool
) -> PreflightResult:
    if not is_wanted:
        return PreflightResult.skipped()
    return preflight(pool, prompts, success_threshold=config.success_threshold)


def _remarks(shown: PreflightResult) -> tuple[str, ...]:
    """What a reader of the report should know of the preflight."""
    return shown.warnings if shown.status == "passed" else (*shown.warnings, shown.detail)


def _provenance(
    model: str,
    checkpoint: Checkpoint | None,
    prompts: PromptSet,
    pool: VerifierPool,
    sampler: Sampler,
    config: AssessmentConfig,
    policy: PolicyConfig,
) -> Provenance:
    described = sampler.describe()
    identity = {
        "sampling": config.sampling.digest(),
        "backend": described["backend"],
        "dtype": described.get("dtype"),
        **described.get("identity", {}),
    }
    digests = {
        "prompts": prompts.digest,
        "verifier": pool.verifier.digest,
        "sampler": hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest(),
        "policy": policy.digest(),
    }
    if checkpoint is None:
        stored = described.get("stored", {})
        # The rollouts are what the source says; the prompts are those that were asked for.
        digests |= {name: str(value) for name, value in stored.items() if name != "prompts"}
        return _with_versions(model, digests, prompts, pool, described)
    digests |= {"checkpoint": checkpoint.digest, "tokenizer": checkpoint.tokenizer_digest}
    if checkpoint.template_digest is not None:
        digests["template"] = checkpoint.template_digest
    return replace(
        _with_versions(model, digests, prompts, pool, described),
        registered_name=checkpoint.registered_name,
        version=checkpoint.version,
        model_id=checkpoint.model_id,
        run_id=checkpoint.run_id,
    )


def _with_versions(
    model: str,
    digests: dict[str, str],
    prompts: PromptSet,
    pool: VerifierPool,
    described: Mapping[str, Any],
) -> Provenance:
    plain = (str, int, float, bool, type(None))
    return Provenance(
        model_reference=model,
        digests=digests,
        prompts=prompts.schema,
        verifier=pool.verifier.described,
        sampler={
            name: value if isinstance(value, plain) else json.dumps(value, sort_keys=True)
            for name, value in described.items()
        },
        code_version=_version("mlflow-rlrisk") or "source",
        libraries={name: found for name in _LIBRARIES if (found := _version(name))},
    )


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _folder(
    out_dir: str | Path | None, out_root: str | Path | None, model: str, provenance: Provenance
) -> Path | None:
    if out_dir is not None:
        return Path(out_dir)
    if out_root is None:
        return None
    slug = re.sub(r"[^A-Za-z0-9.]+", "-", model.removeprefix("models:/")).strip("-.")[-40:]
    key = json.dumps(_store_identity(provenance), sort_keys=True)
    return Path(out_root) / f"{slug}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"


def _store_identity(provenance: Provenance) -> dict[str, str]:
    """What rollouts depend on; verifier and policy only judge them."""
    names = ("checkpoint", "tokenizer", "template", "rollouts", "prompts", "sampler")
    return {name: provenance.digests[name] for name in names if name in provenance.digests}


def _open_store(folder: Path | None, inputs: AssessmentInputs) -> RolloutStore | None:
    if folder is None:
        return None
    store = RolloutStore(folder)
    store.bind(_store_identity(inputs.provenance))
    # A verifier that ran out of time may answer under another limit.
    timeout = str(inputs.config.verifier_timeout_s)
    store.bind_grades({"verifier": inputs.provenance.digests["verifier"], "timeout_s": timeout})
    inputs.save(folder)
    return store


def _take_stored(
    store: RolloutStore | None, pool: VerifierPool, prompts: PromptSet, collection: Collection
) -> list[Prompt]:
    """Collect what is stored, grading what has no grades. Returns the prompts still to sample."""
    if store is None:
        return list(prompts)
    stored_ids = store.completed_prompt_ids()
    graded_ids = set()
    for group in store.graded_groups(prompts.prompts):
        collection.take(group)
        graded_ids.add(group.prompt.id)
    ungraded = [p for p in prompts if p.id in stored_ids and p.id not in graded_ids]
    with RolloutWriter(store) as writer:
        for group in pool.grade(store.groups(ungraded)):
            writer.add(group)
            collection.take(group)
    return [prompt for prompt in prompts if prompt.id not in stored_ids]


def _sample(
    sampler: Sampler,
    pool: VerifierPool,
    pending: list[Prompt],
    store: RolloutStore | None,
    collection: Collection,
) -> None:
    if not pending:
        return
    with ExitStack() as stack:
        writer = None if store is None else stack.enter_context(RolloutWriter(store))
        for group in pool.grade(sampler.sample(pending)):
            if writer is not None:
                writer.add(group)
            collection.take(group)
    if store is not None:
        store.compact()


def _plan(
    inputs: AssessmentInputs,
    checkpoint: Checkpoint | None,
    sampler: Sampler,
    pool: VerifierPool,
    shown: PreflightResult,
    pending: list[Prompt],
) -> Plan:
    sampling, described = inputs.config.sampling, inputs.provenance.sampler
    warnings = "".join(f"; warning: {warning}" for warning in shown.warnings)
    return Plan(
        model=inputs.provenance.model_reference,
        checkpoint=checkpoint.digest if checkpoint else "stored rollouts",
        prompts=inputs.prompts.schema,
        verifier=pool.verifier.described,
        preflight=shown.detail + warnings,
        template=sampler.template(inputs.prompts.prompts),
        backend=", ".join(
            str(described[name])
            for name in ("backend", "device_name", "dtype", "architecture")
            if described.get(name)
        ),
        num_prompts=len(inputs.prompts),
        num_stored=len(inputs.prompts) - len(pending),
        num_samples=sampling.num_samples,
        max_tokens=len(pending) * sampling.num_samples * sampling.max_new_tokens,
        estimated_s=sampler.estimate_s(pending) if pending else None,
    )


def _report(
    inputs: AssessmentInputs,
    policy: PolicyConfig,
    collection: Collection,
    context: AssessmentContext | None,
    warnings: tuple[str, ...],
) -> RiskReport:
    report = summarize(
        collection.statistics(),
        config=inputs.config,
        policy=policy,
        provenance=replace(inputs.provenance, finished_at=_now()),
        profile=collection.profile,
        examples=collection.examples(),
        context=context,
    )
    return replace(report, notes=report.notes + warnings) if warnings else report


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
