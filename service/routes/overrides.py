"""``/v1/overrides``: people answer, by their tokens, for what the gate's policy refuses.

The rules are those of ``rlrisk gate override``: reason, time and place as the gate's policy asks,
content hashed when it is signed, and a version whose signature is bad is never let pass. The
keys are the signer's; where the policy asks for two signatures a second token must approve.
"""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from flask import Blueprint, url_for
from spectree import Response as Answers

from mlflow_rlrisk import ConfigError, ModelReferenceError
from mlflow_rlrisk.attestation import Override as OverrideStatement
from mlflow_rlrisk.attestation import Proven
from mlflow_rlrisk.errors import AttestationError, PromotionRefusedError
from mlflow_rlrisk.gate.client import load_bar, place_of
from mlflow_rlrisk.gate.overrides import attach, check_place, check_terms
from mlflow_rlrisk.gate.promotion_policy import Bar, Target
from service.auth import caller, dependencies, requires
from service.openapi import API
from service.problems import FieldFault, Problem, without_paths
from service.registry.bounded_calls import timed
from service.registry.references import NAMES, version_of
from service.registry.upstream import RETRY, mlflow_problems, point_mlflow
from service.schemas import OverridePage, OverrideRequest, OverrideView, PageQuery
from service.settings import ServiceSettings
from service.signing.protocol import SignerRefusedError, SignerUnavailableError
from service.tables.overrides import OverrideRow, OverrideTable
from service.tables.tokens import Scope

MAX_AT_ONCE = 2
"""Each hashes a whole checkpoint."""
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def blueprint(settings: ServiceSettings) -> Blueprint:
    """The overrides of a service."""
    routes = Blueprint("overrides", __name__, url_prefix="/v1/overrides")
    room = threading.BoundedSemaphore(MAX_AT_ONCE)

    @routes.post("")
    @requires(Scope.OVERRIDE)
    @API.validate(resp=Answers(HTTP_201=OverrideView, HTTP_202=OverrideView), tags=["overrides"])
    def ask(json: OverrideRequest) -> tuple[OverrideView, int, dict[str, str]]:
        """Let a version take a place although the policy refuses: 201 when it is signed.

        202 where the policy asks for two signatures: somebody else's token must approve.
        """
        bar = _bar()
        model, version, target = _named(json)
        with _faults_of_fields():
            check_terms(json.reason, json.expires, bar)
        with mlflow_problems():
            found = timed(point_mlflow(settings)).get_model_version(model, version)
        with _faults_of_fields():
            check_place(found, target, bar)
        needs_approval = bar.policy.override.required_signatures > 1
        table = _table()
        # What there is no room for now is not even kept: nobody would sign it later.
        with nullcontext() if needs_approval else _a_place_in(room):
            row = table.ask(
                model=model,
                version=version,
                target=(target.kind, target.name),
                reason=json.reason.strip(),
                expires=json.expires,
                person=_person(),
                needs_approval=needs_approval,
            )
            if not needs_approval:
                row = _signed(table, row, bar, settings)
        place = url_for("overrides.show", override_id=row.id)
        return OverrideView.of(row), 202 if needs_approval else 201, {"Location": place}

    @routes.post("/<override_id>/approval")
    @requires(Scope.OVERRIDE)
    @API.validate(resp=Answers(HTTP_201=OverrideView), tags=["overrides"])
    def approve(override_id: str) -> tuple[OverrideView, int]:
        """Answer for it as the second person; it is signed then.

        The same person goes on with what was approved and then broke off before it was signed.
        """
        table, bar = _table(), _bar()
        row = _found(table, override_id)
        if row.requested_by == caller().id:
            raise Problem("forbidden", "whoever asked cannot approve: another token is needed")
        with _a_place_in(room):
            if not table.approve(row.id, _person()):
                raise Problem("override-refused", f"it is {row.state} and waits for nobody")
            return OverrideView.of(_signed(table, _found(table, row.id), bar, settings)), 201

    @routes.get("")
    @requires(Scope.OVERRIDE)
    @API.validate(resp=Answers(HTTP_200=OverridePage), tags=["overrides"])
    def index(query: PageQuery) -> OverridePage:
        """What was asked for over this service, the newest first."""
        rows = _table().page(before=query.before, before_id=query.before_id, limit=query.limit)
        return OverridePage(
            overrides=[OverrideView.of(row) for row in rows], **query.following(rows)
        )

    @routes.get("/<override_id>")
    @requires(Scope.OVERRIDE)
    @API.validate(resp=Answers(HTTP_200=OverrideView), tags=["overrides"])
    def show(override_id: str) -> OverrideView:
        """One of them."""
        return OverrideView.of(_found(_table(), override_id))

    return routes


def _table() -> OverrideTable:
    return OverrideTable(dependencies().jobs.engine)


def _found(table: OverrideTable, override_id: str) -> OverrideRow:
    row = table.find(override_id) if _UUID.fullmatch(override_id) else None
    if row is None:
        raise Problem("not-found")
    return row


def _person() -> tuple[str, str]:
    tokens, token_id = dependencies().tokens, caller().id
    return token_id, token_id if tokens is None else tokens.name_of(token_id)


def _bar() -> Bar:
    if dependencies().signer is None:
        raise Problem("override-unavailable", "the service has no signer")
    try:
        return load_bar()
    except ConfigError as error:
        raise Problem("override-unavailable", f"{error.field}: {error.need}") from error


def _named(asked: OverrideRequest) -> tuple[str, str, Target]:
    named = version_of(asked.model)
    if named is None:
        raise Problem("model-uri-refused", f"models:/name/version is needed; {NAMES}")
    if (asked.alias is None) == (asked.stage is None):
        raise _fault("/alias", "missing", "either alias or stage is needed")
    if asked.alias is not None:
        return *named, Target("alias", asked.alias)
    return *named, Target("stage", str(asked.stage))


def _signed(
    table: OverrideTable, row: OverrideRow, bar: Bar, settings: ServiceSettings
) -> OverrideRow:
    """Have it signed and put it onto the version; what went wrong is kept in the row."""
    try:
        found = _attached(row, bar, settings)
    except Problem as problem:
        table.failed(row.id, f"{problem.slug}: {problem.detail}")
        raise
    keys = " ".join(key.key_id for key in found.signers)
    table.signed(row.id, expires_at=found.statement.expires_at, key_ids=keys)
    return _found(table, row.id)


def _attached(row: OverrideRow, bar: Bar, settings: ServiceSettings) -> Proven[OverrideStatement]:
    signer, client = dependencies().signer, timed(point_mlflow(settings))
    assert signer is not None  # `_bar` has asked
    try:
        envelope = signer.override(row.id)
        with mlflow_problems():
            version = client.get_model_version(row.model, row.version)
        return attach(client, envelope, place_of(version, bar.policy.registry), bar)
    except SignerUnavailableError as error:
        retry = {"Retry-After": "10"}
        raise Problem(
            "override-unavailable", "the signer does not answer", headers=retry
        ) from error
    except SignerRefusedError as error:
        text = without_paths(f"{error.code}: {error.detail}")[:1000]
        if error.is_final:
            raise Problem("override-refused", text) from error
        raise Problem("override-unavailable", text, headers={"Retry-After": "10"}) from error
    except (AttestationError, PromotionRefusedError) as error:
        raise Problem("override-refused", without_paths(str(error))[:1000]) from error
    except (ModelReferenceError, OSError) as error:
        raise Problem("upstream", headers=RETRY) from error


@contextmanager
def _a_place_in(room: threading.BoundedSemaphore) -> Iterator[None]:
    if not room.acquire(blocking=False):
        raise Problem("quota", "other overrides are being signed", headers={"Retry-After": "30"})
    try:
        yield
    finally:
        room.release()


@contextmanager
def _faults_of_fields() -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        raise _fault(f"/{error.field}", "unusable", error.need) from error


def _fault(pointer: str, code: str, message: str) -> Problem:
    return Problem(
        "invalid-field", errors=[FieldFault(pointer=pointer, code=code, message=message)]
    )
