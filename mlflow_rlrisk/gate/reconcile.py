"""Finds protected aliases and stages whose proof broke after they were set, and takes them back.

The gate cannot hash gigabytes while somebody waits for an alias; this does, again and again. An
alias whose holder is no longer proven goes back to the last version that was let in and still is
proven, or is deleted. A version that is no longer proven leaves its stage, and the last good one
comes back where nobody else is in it. What was done, and why, is logged.

One place that cannot be looked at keeps nobody from looking at the others.
"""

import logging
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from mlflow_rlrisk.content import FileEntry, hash_folder
from mlflow_rlrisk.errors import CheckpointError, RLRiskError
from mlflow_rlrisk.gate.audit import AuditLog, Entry
from mlflow_rlrisk.gate.client import mlflow_refusals, place_of
from mlflow_rlrisk.gate.evidence import fault_of, gather
from mlflow_rlrisk.gate.gatekeeper import actor, utc_now
from mlflow_rlrisk.gate.guard import Evidence, Verdict, judge
from mlflow_rlrisk.gate.promotion_policy import Bar, Target
from mlflow_rlrisk.model_reference import quoted, resolve_reference
from mlflow_rlrisk.policy import Outcome

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

HASH_AGAIN_S = 3600.0
"""How long a hash counts of local files that look unchanged: a mapped file can be written to
without its times moving, and a disk can fail."""
_PROMPTS = "tags.`mlflow.prompt.is_prompt` = 'true'"
"""Anybody may mark a model as a prompt, and MLflow then leaves it out of searches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One protected alias or stage of a version, and what became of it.

    Attributes:
        model: Registered model.
        alias: The alias, if it is one.
        stage: The stage, if it is one; ``*`` where the registry could not list a model's stages.
        version: Who held it; ``*`` as well there.
        action: ``kept``, ``restored``, ``removed``, or ``failed`` where it could not be judged or
            changed.
        restored_to: Version that has it now, where it was restored.
        message: Why.
        workspace: MLflow workspace of the model.
    """

    model: str
    alias: str | None
    stage: str | None
    version: str
    action: str
    restored_to: str | None
    message: str
    workspace: str

    @property
    def told(self) -> str:
        """What was done, and who holds the place now."""
        return f"{self.action} {self.restored_to}" if self.restored_to else self.action

    def to_dict(self) -> dict[str, Any]:
        """The finding as JSON values."""
        return {name: getattr(self, name) for name in self.__slots__}


class Reconciler:
    """Re-hashes what protected aliases point to; for a while local files count that look unchanged.

    Args:
        client: The registry.
        log: Where findings go; without one nothing is restored.
        clock: Seconds of a clock that nobody sets.
    """

    def __init__(
        self,
        client: "MlflowClient",
        log: AuditLog | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client, self._log, self._clock = client, log, clock
        self._hashed: dict[Path, tuple[object, float, tuple[FileEntry, ...]]] = {}

    def run(self, bar: Bar) -> list[Finding]:
        """Look once at every protected alias and stage of the registry, in all its workspaces.

        Raises:
            ModelReferenceError: The registry does not list its workspaces, or the models of the
                only one.
        """
        from mlflow.utils.workspace_context import WorkspaceContext

        workspaces = self._workspaces()
        if not workspaces:
            return list(self._in_workspace(bar))
        findings: list[Finding] = []
        for workspace in workspaces:
            with WorkspaceContext(workspace):
                try:
                    findings += self._in_workspace(bar)
                except RLRiskError as error:  # the other workspaces are still looked at
                    findings.append(_failed("*", workspace, Target("stage", "*"), "*", error))
        return findings

    def _in_workspace(self, bar: Bar) -> Iterator[Finding]:
        for model, is_prompt in self._models():
            yield from self._findings(bar, model, is_prompt)

    def _workspaces(self) -> list[str]:
        """Every workspace; none where one was chosen or the registry has no more than one."""
        from mlflow.utils.workspace_context import get_request_workspace

        with mlflow_refusals("registry"):
            registry = self._client._get_registry_client()  # type: ignore[no-untyped-call]
            if get_request_workspace() or not registry.store.supports_workspaces:
                return []
            return [each.name for each in self._client.list_workspaces()]

    def _findings(self, bar: Bar, model: Any, is_prompt: bool) -> Iterator[Finding]:
        """One finding for each protected place of a model, and one where some are not listed."""
        held = [(Target("alias", a), str(v)) for a, v in sorted(dict(model.aliases).items())]
        if bar.policy.rules_for_model(model.name, model.workspace):
            try:
                staged = self._staged(model)
            except Exception as error:  # noqa: BLE001  the other models are still looked at
                yield _failed(model.name, model.workspace, Target("stage", "*"), "*", error)
                staged = _in_stages(model.latest_versions)
            in_order = sorted(staged, key=lambda each: int(each[0]))
            held += [(Target("stage", stage), version) for version, stage in in_order]
        for target, version in held:
            if bar.policy.rules_for(model.name, model.workspace, target):
                try:
                    finding = self._look(bar, model, target, version, is_prompt)
                except Exception as error:  # noqa: BLE001  the other places are still looked at
                    finding = _failed(model.name, model.workspace, target, version, error)
                yield finding

    def _staged(self, model: Any) -> set[tuple[str, str]]:
        """Versions of a model that are in a stage, with the stage.

        Searches leave out what is marked as a prompt; the latest of each stage, which is what a
        consumer of the stage gets, is told with the model.
        """
        versions = list(model.latest_versions)
        for more in ("", f" AND {_PROMPTS}"):
            token: str | None = None
            while True:
                with mlflow_refusals("registry"):
                    page = self._client.search_model_versions(
                        f"name = {quoted(model.name)}{more}", page_token=token
                    )
                versions += page
                if not (token := page.token):
                    break
        return _in_stages(versions)

    def _models(self) -> Iterator[tuple[Any, bool]]:
        """Every registered model, and whether it is marked as a prompt."""
        for filter_string in (None, _PROMPTS):
            token: str | None = None
            while True:
                with mlflow_refusals("registry"):
                    page = self._client.search_registered_models(filter_string, page_token=token)
                yield from ((model, filter_string is not None) for model in page)
                if not (token := page.token):
                    break

    def _look(self, bar: Bar, model: Any, target: Target, version: str, is_prompt: bool) -> Finding:
        name = model.name
        verdict = self._judge(bar, name, version, target)
        finding = _finding(name, model.workspace, target, version, "kept", verdict.message)
        if verdict.allows:
            return finding
        candidate = self._last_good(bar, model, target, version)
        try:
            with mlflow_refusals(name):
                if target.kind == "stage":
                    candidate = self._leave_stage(bar, model, is_prompt, target, version, candidate)
                elif candidate is None:
                    remove = self._client.delete_registered_model_alias
                    if is_prompt:  # MLflow's client asks for another call
                        remove = self._client.delete_prompt_alias
                    remove(name, target.name)
                else:
                    self._client.set_registered_model_alias(name, target.name, candidate)
        except RLRiskError as error:
            logger.error("%s of %s cannot be taken back: %s", target, name, error)
            text = f"{verdict.message} (and cannot be taken back: {error})"
            finding = replace(finding, action="failed", message=text)
        else:
            action = "removed" if candidate is None else "restored"
            finding = replace(finding, action=action, restored_to=candidate)
        return self._recorded(bar, finding, verdict, target)

    def _leave_stage(
        self,
        bar: Bar,
        model: Any,
        is_prompt: bool,
        target: Target,
        version: str,
        candidate: str | None,
    ) -> str | None:
        """Take a version out of a stage; returns who came back into it, if anybody had to."""
        archive = bar.policy.rules_for(model.name, model.workspace, Target("stage", "Archived"))
        goal = "None" if archive else "Archived"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # stages are on their way out
            move = self._client.transition_model_version_stage
            if is_prompt:  # MLflow's client has no call for that
                registry = self._client._get_registry_client()  # type: ignore[no-untyped-call]
                move = partial(
                    registry.transition_model_version_stage, archive_existing_versions=False
                )
            move(model.name, version, goal)
            others = self._staged(model) - {(version, target.name)}
            if candidate is None or any(stage == target.name for _, stage in others):
                return None
            move(model.name, candidate, target.name)
        return candidate

    def _judge(self, bar: Bar, name: str, version: str, target: Target) -> Verdict:
        """Judge by the content, not by sizes; what cannot be hashed is not proven."""
        with mlflow_refusals(name):
            found = self._client.get_model_version(name, version)
            place = place_of(found, bar.policy.registry)
            try:
                evidence = gather(self._client, place, with_files=False)
            except CheckpointError:  # copies without end: nobody speaks for it
                evidence = Evidence(
                    place=place,
                    envelope=None,
                    attested_places=(),
                    source=str(found.source),
                    files=None,
                )
        try:
            files = self._files(f"models:/{name}/{version}")
        except Exception as error:  # noqa: BLE001  any store may raise anything; see gather
            evidence = replace(evidence, files_fault=fault_of(error))
            return judge(bar, evidence, target, utc_now())
        evidence = replace(evidence, files={entry.path: entry.size for entry in files})
        verdict = judge(bar, evidence, target, utc_now())
        changed = sorted(set(files) ^ set(verdict.files)) if verdict.files else []
        if not verdict.allows or verdict.reason == "audit_only" or not changed:
            return verdict
        text = (
            f"rlrisk gate: {target} of '{name}' version {version} is blocked by rule "
            f"'{verdict.rule}': the content of {changed[0].path} is not what was attested"
        )
        return replace(verdict, outcome=Outcome.BLOCK, reason="content_changed", message=text)

    def _files(self, reference: str) -> tuple[FileEntry, ...]:
        source = resolve_reference(reference)
        if source.local_path is None:
            with TemporaryDirectory(prefix="rlrisk-reconcile-") as private:
                return hash_folder(source.download(Path(private)))
        stamp = [
            # The change time is the file system's own; a writer cannot set it back.
            (str(path), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)
            for path in sorted(source.local_path.rglob("*"))
            for stat in [path.lstat()]
        ]
        now, known = self._clock(), self._hashed.get(source.local_path)
        if known is None or known[0] != stamp or now - known[1] >= HASH_AGAIN_S:
            known = (stamp, now, hash_folder(source.local_path))
            self._hashed[source.local_path] = known
        return known[2]

    def _last_good(self, bar: Bar, model: Any, target: Target, broken: str) -> str | None:
        """The version that was let in last, apart from the broken one, and is still proven."""
        if self._log is None:
            return None
        action = "set_alias" if target.kind == "alias" else "transition_stage"
        name, wanted = model.name, {"action": action, "outcome": str(Outcome.PROMOTE)}
        there = {"workspace": model.workspace, "model": name, "target": target.key}
        entries = self._log.find(**wanted, **there)
        for version in dict.fromkeys(each.version for each in entries if each.version != broken):
            try:
                if self._judge(bar, name, version, target).allows:
                    return version
            except Exception as error:  # noqa: BLE001  what cannot be judged is not proven
                logger.info("%s version %s cannot come back: %s", name, version, fault_of(error))
        return None

    def _recorded(self, bar: Bar, finding: Finding, verdict: Verdict, target: Target) -> Finding:
        """The finding once it is logged; one that cannot be says so, for what was done is done."""
        if self._log is None:
            return finding
        entry = Entry(
            action="reconcile",
            outcome=str(verdict.outcome),
            reason=verdict.reason,
            message=f"{finding.told}: {verdict.message}",
            workspace=finding.workspace,
            model=finding.model,
            version=finding.version,
            target=target.key,
            rule=verdict.rule,
            actor=actor(),
            content_digest=verdict.content_digest,
            key_ids=" ".join(verdict.key_ids),
            bar_digest=bar.digest,
        )
        try:
            self._log.append(entry, utc_now())
        except Exception as error:
            logger.exception("%s of %s could not be logged", target, finding.model)
            return replace(finding, message=f"{finding.message} (not logged: {fault_of(error)})")
        return finding


def _in_stages(versions: Iterable[Any]) -> set[tuple[str, str]]:
    """Version and stage of those that are in one."""
    return {
        (str(each.version), each.current_stage)
        for each in versions
        if each.current_stage not in (None, "None")
    }


def _finding(
    model: str, workspace: str, target: Target, version: str, action: str, message: str
) -> Finding:
    return Finding(
        model=model,
        alias=target.name if target.kind == "alias" else None,
        stage=target.name if target.kind == "stage" else None,
        version=version,
        action=action,
        restored_to=None,
        message=message,
        workspace=workspace,
    )


def _failed(model: str, workspace: str, target: Target, version: str, error: Exception) -> Finding:
    logger.error("%s of %s cannot be looked at: %s", target, model, fault_of(error))
    text = f"cannot be looked at: {fault_of(error)}"
    return _finding(model, workspace, target, version, "failed", text)
