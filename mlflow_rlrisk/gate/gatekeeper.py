"""Decides for the registry: collects evidence, lets the guard judge, logs, refuses.

Every method either returns, and then the log holds the decision that allowed it, or raises; only
`Gatekeeper.admit` hands its entry to the caller, who commits it together with the change. A
decision that could not be logged is a refusal. The registry does what was asked for only after
the method has returned.
"""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from getpass import getuser

from mlflow_rlrisk.attestation import Attestation, Override, Place, Proven, is_expired
from mlflow_rlrisk.errors import PromotionRefusedError
from mlflow_rlrisk.gate import tags as verdict_tags
from mlflow_rlrisk.gate.audit import AuditLog, Entry
from mlflow_rlrisk.gate.evidence import Registry, gather, original_of
from mlflow_rlrisk.gate.guard import NEW_VERSION, Evidence, Verdict, judge, judge_under, told
from mlflow_rlrisk.gate.promotion_policy import Bar, PolicySource, Target
from mlflow_rlrisk.policy import Outcome

logger = logging.getLogger(__name__)

DONE, FAILED = "done", "failed"


def utc_now() -> datetime:
    """The present moment; every decision is made at one."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gatekeeper:
    """The gate of one registry.

    Attributes:
        source: The policy file.
        log: The audit log.
        registry: Where versions and their tags are read.
        workspace: The active MLflow workspace.
        clock: The present moment.
    """

    source: PolicySource
    log: AuditLog
    registry: Registry
    workspace: Callable[[], str]
    clock: Callable[[], datetime] = field(default=utc_now)

    def protects(self, name: str, target: Target) -> bool:
        """Whether a rule protects this alias or stage of a model."""
        return bool(self.source.current().policy.rules_for(name, self.workspace(), target))

    def admit(self, action: str, name: str, version: str, target: Target) -> Entry | None:
        """Let a version take an alias or a stage, or raise.

        Returns:
            The entry that must be committed with the change, not yet written; ``None`` where no
            rule protects the place.

        Raises:
            PromotionRefusedError: It may not; that is logged.
        """
        bar, now = self.source.current(), self.clock()
        if not bar.policy.rules_for(name, self.workspace(), target):
            return None
        evidence = gather(self.registry, self._place(bar, name, version), self.former_names)
        verdict = judge(bar, evidence, target, now)
        if not verdict.allows:
            self._settle(bar, action, evidence.place, target, verdict)
        return _decided(bar, action, evidence.place, target, verdict)

    def admit_reading(self, name: str, version: str, target: Target) -> None:
        """Let a version be read through a protected alias or stage, or raise.

        Only refusals are logged: reading promotes nothing.

        Raises:
            PromotionRefusedError: Its proof no longer holds.
        """
        bar, now = self.source.current(), self.clock()
        if not bar.policy.rules_for(name, self.workspace(), target):
            return
        evidence = gather(self.registry, self._place(bar, name, version), self.former_names)
        verdict = judge(bar, evidence, target, now)
        if not verdict.allows:
            self._settle(bar, "read", evidence.place, target, verdict)

    def admit_renaming(
        self, name: str, new_name: str, held: Sequence[tuple[str, Target]], tags: Sequence[str]
    ) -> None:
        """Let a model take a name under which what it holds may be protected, or raise.

        Args:
            name: The model's name.
            new_name: The name it shall have.
            held: Versions with every alias and stage they have.
            tags: Keys of the model's own tags.

        Raises:
            PromotionRefusedError: A version may not be there under the new name, or where no rule
                spoke about the model verdicts were put on it that nobody signed.
        """
        action = f"rename to {new_name}"
        self._admit_each(action, name, new_name, held)
        bar, now = self.source.current(), self.clock()
        if not bar.policy.rules_for_model(new_name, self.workspace()):
            return
        for key in tags if _only_audits(bar, self._place(bar, name, "")) else ():
            self.admit_model_tag(action, new_name, key)
        for version in dict.fromkeys(version for version, _ in held):
            self._admit_tags(bar, action, self._place(bar, name, version), new_name, now)

    def _admit_tags(
        self, bar: Bar, action: str, there: Place, new_name: str, now: datetime
    ) -> None:
        """Let the tags of a version come along under another name, or raise."""
        evidence = gather(self.registry, there, self.former_names, with_files=False)
        shown = self.registry.get_model_version(there.model, there.version).tags
        place = replace(there, model=new_name)
        if _only_audits(bar, there):
            for key in verdict_tags.forged_tags(bar, evidence, shown, now):
                self._refuse_tag(bar, action, place, key, "nobody signed what it says")
        own = evidence.attested_places if there in evidence.attested_places else ()
        for key, value in shown.items():
            said = verdict_tags.statement_in(bar, key, value, [place, *own], now)
            if said and (fault := self._superseded(bar, there, new_name, key, said.statement)):
                self._refuse_tag(bar, action, place, key, fault)

    def admit_archiving(self, name: str, held: Sequence[tuple[str, Target]]) -> None:
        """Let versions be moved to the stage ``Archived`` by another one's transition, or raise.

        Raises:
            PromotionRefusedError: One may not be there.
        """
        self._admit_each("archive", name, name, held)

    def _admit_each(
        self, action: str, name: str, new_name: str, held: Sequence[tuple[str, Target]]
    ) -> None:
        bar, now = self.source.current(), self.clock()
        rules = bar.policy.rules_for_model(new_name, self.workspace())
        for version, target in held:
            protecting = [rule for rule in rules if rule.protects(target)]
            if not protecting:
                continue
            evidence = gather(self.registry, self._place(bar, name, version), self.former_names)
            verdict = judge_under(protecting, bar, evidence, target, now)
            self._settle(bar, action, evidence.place, target, verdict)

    def admit_creation(self, name: str, source: str, tags: dict[str, str]) -> dict[str, str]:
        """Let a version be created, or raise.

        Returns:
            The tags it may be created with.

        Raises:
            PromotionRefusedError: The model itself is protected and the version is not a copy of
                a proven one, or its tags are forged.
        """
        bar, now = self.source.current(), self.clock()
        rules = bar.policy.rules_for_model(name, self.workspace())
        if not rules:
            return tags
        place = self._place(bar, name, NEW_VERSION)
        copied = original_of(source)
        target = Target("version")
        protecting = [rule for rule in rules if rule.protects(target)]
        original = None
        if copied is not None:
            there = self._place(bar, *copied)
            original = gather(self.registry, there, self.former_names, with_files=bool(protecting))
        own = {} if copied is None else dict(self.registry.get_model_version(*copied).tags)
        kept, forged = verdict_tags.copied_tags(bar, tags, original, own, now)
        for key in forged:
            self._refuse_tag(bar, "create_version", place, key, "nobody signed what it says")
        if protecting:
            evidence = _as_copy(original, place, source)
            verdict = judge_under(protecting, bar, evidence, target, now)
            self._settle(bar, "create_version", place, target, verdict)
        return tags if _only_audits(bar, place) else kept

    def admit_tag(self, name: str, version: str, key: str, value: str | None) -> None:
        """Let a reserved tag be set on a version (``None``: deleted from it), or raise.

        Raises:
            PromotionRefusedError: It shows a verdict that nobody signed, or hides one.
        """
        bar, now = self.source.current(), self.clock()
        if not bar.policy.rules_for_model(name, self.workspace()):
            return
        action = "delete_tag" if value is None else "set_tag"
        place = self._place(bar, name, version)
        evidence = gather(self.registry, place, self.former_names, with_files=False)
        if value is None:
            fault = verdict_tags.fault_of_deleting(bar, evidence, key, now)
        else:
            fault = verdict_tags.fault_of_setting(bar, evidence, key, value, now)
        text, key_ids, said = f"tag '{key}' is proven", "", None
        if value is not None and fault is None:
            said = verdict_tags.statement_in(bar, key, value, [place], now)
        if said is not None:
            fault = self._superseded(bar, place, name, key, said.statement)
            text = f"{_issued(key)}{said.statement.issued_at}: {_gist(said)}"
            key_ids = " ".join(signer.key_id for signer in said.signers)
        if fault is not None:
            self._refuse_tag(bar, action, place, key, fault)
        else:
            self._log(bar, action, place, key, Outcome.PROMOTE, "proven", text, key_ids)

    def _superseded(
        self, bar: Bar, place: Place, name: str, key: str, statement: Attestation | Override
    ) -> str | None:
        """Why a statement counts no more under this name: the tag held a newer one, by the log.

        The tag itself does not tell: whoever may rename or delete a model can take it away. What
        a key signed that is revoked by now supersedes nothing, and what has expired gains nothing.
        Nor does what was said under a name that the model had left by then: of another model.
        """
        if is_expired(statement, self.clock()):
            return None
        wanted = {"action": "set_tag", "outcome": str(Outcome.PROMOTE), "target": key}
        wanted |= {"workspace": place.workspace, "version": place.version}
        ends = {**self._names(place.model), place.model: math.inf}
        if statement.model == name:
            ends[name] = math.inf
        for model, end in ends.items():
            for found in self.log.find_recorded(**wanted, model=model):
                before, _, rest = found.entry.message.partition(_issued(key))
                known = rest[: len(statement.issued_at)]
                signers = [bar.ring.keys.get(each) for each in found.entry.key_ids.split()]
                is_good = all(each is not None and each.revoked_at is None for each in signers)
                is_good &= found.sequence <= end and not before
                if is_good and known > statement.issued_at:
                    return f"the version had a newer one, of {known}"
        return None

    def admit_model_tag(self, action: str, name: str, key: str) -> None:
        """Let a tag of a registered model be set or deleted, or raise.

        Raises:
            PromotionRefusedError: It can be read as a verdict; verdicts stand on versions.
        """
        if not verdict_tags.is_reserved(key):
            return
        bar = self.source.current()
        if bar.policy.rules_for_model(name, self.workspace()):
            place = self._place(bar, name, "")
            self._refuse_tag(bar, action, place, key, "verdicts stand on versions, not on models")

    def note(self, action: str, outcome: str, name: str, **more: str) -> None:
        """Log what needs no leave, or how something allowed ended; never in the way of it."""
        try:
            self.log.append(self._entry(action, outcome, name, **more), self.clock())
        except Exception:  # an alias can always be deleted, log or not
            logger.exception("rlrisk gate: %s of %s could not be logged", action, name)

    def former_names(self, name: str) -> Sequence[str]:
        """Names that a model had before, by the renames that the log knows, latest first."""
        return list(self._names(name))

    def _names(self, name: str) -> dict[str, float]:
        """Former name -> place in the log of the last rename by which a model may have left it."""
        ends: dict[str, float] = {}
        searching = [name]
        for each in searching:  # grows meanwhile
            wanted = {"action": "rename", "outcome": DONE, "target": each}
            for found in self.log.find_recorded(workspace=self.workspace(), **wanted):
                former = found.entry.model
                if former not in (name, *ends):
                    searching.append(former)
                if former != name:
                    ends[former] = max(found.sequence, ends.get(former, 0))
        return ends

    def _settle(
        self, bar: Bar, action: str, place: Place, target: Target, verdict: Verdict
    ) -> None:
        """Log a verdict, then raise where it is a refusal."""
        self.log.append(_decided(bar, action, place, target, verdict), self.clock())
        if not verdict.allows:
            raise PromotionRefusedError(str(verdict.outcome), verdict.reason, verdict.message)

    def _refuse_tag(self, bar: Bar, action: str, place: Place, key: str, why: str) -> None:
        """Log and raise; where every rule of the model only audits, log."""
        about = f"version {place.version} of '{place.model}'" if place.version else place.model
        text = f"rlrisk gate: tag '{key}' of {about} is blocked: {why}; run: rlrisk gate log"
        if _only_audits(bar, place):
            self._log(bar, action, place, key, Outcome.PROMOTE, "audit_only", text)
            return
        self._log(bar, action, place, key, Outcome.BLOCK, "tag", text)
        raise PromotionRefusedError(str(Outcome.BLOCK), "tag", text)

    def _log(
        self,
        bar: Bar,
        action: str,
        place: Place,
        target: str,
        outcome: Outcome,
        reason: str,
        message: str,
        key_ids: str = "",
    ) -> None:
        more = {"version": place.version, "target": target, "bar_digest": bar.digest}
        more["key_ids"] = key_ids
        entry = self._entry(action, str(outcome), place.model, reason, message, **more)
        self.log.append(entry, self.clock())

    def _entry(
        self,
        action: str,
        outcome: str,
        name: str,
        reason: str = "",
        message: str = "",
        **more: str,
    ) -> Entry:
        return Entry(
            action=action,
            outcome=outcome,
            reason=reason or outcome,
            message=message,
            workspace=self.workspace(),
            model=name,
            actor=actor(),
            **more,
        )

    def _place(self, bar: Bar, name: str, version: str) -> Place:
        return Place(
            registry=bar.policy.registry,
            workspace=self.workspace(),
            model=name,
            version=version,
        )


def _issued(key: str) -> str:
    """What a message about a tag with a statement begins with; the statement's moment follows."""
    return f"tag '{key}' is proven, issued "


def _gist(said: Proven[Attestation] | Proven[Override]) -> str:
    if isinstance(said.statement, Override):
        return f"by {told(said)}"
    return f"risk level {said.statement.risk_level}"


def _decided(bar: Bar, action: str, place: Place, target: Target, verdict: Verdict) -> Entry:
    return Entry(
        action=action,
        outcome=str(verdict.outcome),
        reason=verdict.reason,
        message=verdict.message,
        workspace=place.workspace,
        model=place.model,
        version=place.version,
        target=target.key,
        rule=verdict.rule,
        actor=actor(),
        content_digest=verdict.content_digest,
        key_ids=" ".join(verdict.key_ids),
        bar_digest=bar.digest,
    )


def _as_copy(original: Evidence | None, place: Place, source: str) -> Evidence:
    """The evidence on a version that does not exist yet: that of the version it will copy."""
    if original is None:
        return Evidence(place=place, envelope=None, attested_places=(), source=source, files=None)
    return replace(original, place=place, overrides={})


def _only_audits(bar: Bar, place: Place) -> bool:
    rules = bar.policy.rules_for_model(place.model, place.workspace)
    return all(rule.mode == "audit" for rule in rules)


def actor() -> str:
    """Who asks: user and address of the request, or the user of this process."""
    from flask import has_request_context, request

    if not has_request_context():
        return getuser()
    user = request.authorization.username if request.authorization else None
    return f"{user or 'anonymous'}@{request.remote_addr or 'unknown'}"
