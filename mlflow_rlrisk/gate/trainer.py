"""What a trainer calls before it loads: every byte hashed, signature, policy, expiry.

The gate looks at file lists and sizes; this looks at the content. Nothing is returned unless all
of it holds.
"""

import atexit
import os
import shutil
import tempfile
from dataclasses import replace
from os import PathLike
from pathlib import Path

from mlflow_rlrisk.attestation.keys import ring_path
from mlflow_rlrisk.content import FileEntry, hash_folder
from mlflow_rlrisk.errors import CheckpointError, ModelReferenceError, PromotionRefusedError
from mlflow_rlrisk.gate.client import (
    load_bar,
    mlflow_refusals,
    place_of,
    registry_name,
)
from mlflow_rlrisk.gate.evidence import gather
from mlflow_rlrisk.gate.gatekeeper import utc_now
from mlflow_rlrisk.gate.guard import Verdict, judge_under
from mlflow_rlrisk.gate.promotion_policy import (
    POLICY_VARIABLE,
    Bar,
    PromotionRule,
    Target,
    bar_without_file,
)
from mlflow_rlrisk.model_reference import ModelSource, resolve_reference
from mlflow_rlrisk.policy import Outcome


def verify(
    model_uri: str,
    *,
    alias: str | None = None,
    policy: str | PathLike[str] | None = None,
    dst_path: str | PathLike[str] | None = None,
) -> Path:
    """Check a registered version in full and return the folder with exactly that content.

    Args:
        model_uri: ``models:/name@alias``, ``models:/name/stage`` or ``models:/name/version``.
        alias: Alias whose rules must be met; where none is given the alias or stage that
            ``model_uri`` names. By a number, every rule of the policy that speaks about the model
            must be.
        policy: The gate's policy file; that of ``RLRISK_POLICY`` where it is set. Without one, a
            valid attestation of level ``low`` by a key of the ring in ``RLRISK_KEY_RING`` is
            demanded.
        dst_path: Where remote artifacts are put; a folder removed at exit otherwise. What is
            refused is removed at once. Artifacts in a local folder are verified, and returned, in
            place.

    Returns:
        The folder of the version.

    Raises:
        PromotionRefusedError: The proof does not hold; nothing may be loaded.
        ModelReferenceError: The reference names no registered version.
        ConfigError: Policy or key ring cannot be used.
    """
    bar = _bar(policy)
    source = _resolved(model_uri)
    if source.registered_name is None or source.version is None:
        raise ModelReferenceError(f"model={model_uri!r}: only registered versions are attested")
    if source.local_path is not None:
        return _verified(source, source.local_path, bar, alias)
    private = _destination(dst_path)
    try:
        return _verified(source, source.download(private), bar, alias)
    except BaseException:
        shutil.rmtree(private, ignore_errors=True)  # nothing that was refused is left to be loaded
        raise


def _verified(source: ModelSource, folder: Path, bar: Bar, alias: str | None) -> Path:
    """The folder, if it holds exactly what was attested of the version."""
    try:
        hashed = hash_folder(folder)
    except CheckpointError as error:
        text = (
            f"rlrisk gate: version {source.version} of '{source.registered_name}' is blocked: its "
            f"content cannot be hashed: {error}; do not load it"
        )
        raise PromotionRefusedError(str(Outcome.BLOCK), "content_unreadable", text) from error
    verdict, files = _judged(bar, source, _target(source, alias), hashed)
    if not verdict.allows:
        raise PromotionRefusedError(str(verdict.outcome), verdict.reason, verdict.message)
    if files != verdict.files:
        changed = next(iter(sorted(set(files) ^ set(verdict.files)))).path
        text = (
            f"rlrisk gate: version {source.version} of '{source.registered_name}' is blocked: the "
            f"content of {changed} is not what was attested; do not load it; "
            f"run: rlrisk gate log"
        )
        raise PromotionRefusedError(str(Outcome.BLOCK), "content_changed", text)
    return folder


def _bar(policy: str | PathLike[str] | None) -> Bar:
    chosen = policy or os.environ.get(POLICY_VARIABLE)
    if chosen:
        return load_bar(os.fspath(chosen))
    return bar_without_file(ring_path(), registry_name())


def _resolved(model_uri: str) -> ModelSource:
    try:
        return resolve_reference(model_uri)
    except ModelReferenceError as error:
        if refusal := PromotionRefusedError.told_by(error.__cause__):
            raise refusal from error  # the registry itself refuses to hand it out
        raise


def _destination(dst_path: str | PathLike[str] | None) -> Path:
    if dst_path is not None:
        path = Path(dst_path)
        path.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix="verified-", dir=path))
    private = Path(tempfile.mkdtemp(prefix="rlrisk-verified-"))
    atexit.register(shutil.rmtree, private, ignore_errors=True)
    return private


def _target(source: ModelSource, alias: str | None) -> Target:
    """The place by which it is read."""
    if alias or source.alias:
        return Target("alias", alias or str(source.alias))
    return Target("stage", source.stage) if source.stage else Target("version")


def _judged(
    bar: Bar, source: ModelSource, target: Target, files: tuple[FileEntry, ...]
) -> tuple[Verdict, tuple[FileEntry, ...]]:
    """The verdict with the sizes of the very files that were hashed."""
    from mlflow import MlflowClient

    client = MlflowClient()
    with mlflow_refusals(source.reference):
        version = client.get_model_version(str(source.registered_name), str(source.version))
        place = place_of(version, bar.policy.registry)
        evidence = gather(client, place, with_files=False)
    evidence = replace(evidence, files={entry.path: entry.size for entry in files})
    rules = enforced_rules(bar, place.model, place.workspace, target)
    return judge_under(rules, bar, evidence, target, utc_now()), files


def enforced_rules(bar: Bar, model: str, workspace: str, target: Target) -> list[PromotionRule]:
    """The rules that a consumer holds a version to; one that only audits counts as well.

    Where neither alias nor stage is named, or no rule protects it, all that speak about the model
    count; where none does, an attestation is demanded all the same.
    """
    rules = bar.policy.rules_for(model, workspace, target) if target.name else []
    rules = rules or bar.policy.rules_for_model(model, workspace)
    rules = rules or [PromotionRule(name="default", every_version=True)]
    return [rule.model_copy(update={"mode": "enforce"}) for rule in rules]
