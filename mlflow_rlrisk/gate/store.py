"""The MLflow registry-store plugin: ``rlrisk+sqlite:///``, ``rlrisk+postgresql://`` and others.

MLflow's own SQL store with a `Gatekeeper` before everything by which a version can reach a
protected place, show a verdict that nobody signed, or be read through an alias whose proof is
gone. Every route of the server ends here, whatever its path or encoding. Each guarded method
decides first and acts after; an error while deciding is a refusal. What lets a version take an
alias or a stage is committed together with it.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import sqlalchemy as sa
from mlflow.entities.model_registry import ModelVersionTag
from mlflow.entities.model_registry.model_version_stages import (
    STAGE_ARCHIVED,
    STAGE_DELETED_INTERNAL,
    STAGE_NONE,
    get_canonical_stage,
)
from mlflow.environment_variables import MLFLOW_ENABLE_WORKSPACES
from mlflow.exceptions import MlflowException
from mlflow.store.model_registry.dbmodels.models import (
    SqlModelVersion,
    SqlRegisteredModelAlias,
)
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore
from mlflow.store.model_registry.sqlalchemy_workspace_store import WorkspaceAwareSqlAlchemyStore
from mlflow.utils.validation import _validate_model_version

from mlflow_rlrisk.errors import ConfigError
from mlflow_rlrisk.gate.audit import AuditLog, Entry
from mlflow_rlrisk.gate.evidence import original_of
from mlflow_rlrisk.gate.gatekeeper import DONE, FAILED, Gatekeeper, utc_now
from mlflow_rlrisk.gate.joined import JoinedSessions
from mlflow_rlrisk.gate.judged_state import (
    VERSION_WITH_TAGS,
    ChangedMeanwhileError,
    Judged,
    state_of,
)
from mlflow_rlrisk.gate.promotion_policy import POLICY_VARIABLE, PolicySource, Target
from mlflow_rlrisk.gate.refusals import refusing
from mlflow_rlrisk.gate.tags import is_reserved

SCHEME_PREFIX = "rlrisk+"
MAX_TRIES = 20
"""Decisions that others overtake before one is given up."""
_ARCHIVED = Target("stage", STAGE_ARCHIVED)
_Leave = TypeVar("_Leave")


def make_store(store_uri: str, tracking_uri: str | None = None) -> SqlAlchemyStore:
    """What MLflow calls for a registry URI of one of our schemes.

    Raises:
        MlflowException: ``RLRISK_POLICY`` names no usable policy; a server does not start then.
    """
    del tracking_uri  # the SQL store does not use it either
    gated = _GatedWorkspaces if MLFLOW_ENABLE_WORKSPACES.get() else _GatedStore
    with refusing("open the registry"):
        return gated(store_uri.removeprefix(SCHEME_PREFIX))


def _number(version: Any) -> str:
    """A version as the registry will read it: ``01`` is ``1``."""
    return str(_validate_model_version(version))


class _GatedStore(SqlAlchemyStore):
    """The gate before MLflow's SQL registry."""

    gatekeeper: Gatekeeper
    reading: sa.Engine
    ManagedSessionMaker: JoinedSessions

    def __init__(self, db_uri: str) -> None:
        path = os.environ.get(POLICY_VARIABLE)
        if not path:
            raise ConfigError(POLICY_VARIABLE, path, "must name the policy file of the gate")
        # No read replica: a revocation or a tag that lags there would let through.
        super().__init__(db_uri)
        # A lone query needs no transaction: two round trips to the database fewer.
        self.reading = self.engine.execution_options(isolation_level="AUTOCOMMIT")
        log = AuditLog(self.engine)
        log.prepare()
        self.ManagedSessionMaker = JoinedSessions(self.ManagedSessionMaker, log)
        self.gatekeeper = Gatekeeper(
            source=PolicySource(path),
            log=log,
            registry=_Versions(self),
            workspace=self._get_active_workspace,
        )
        self.gatekeeper.source.current()

    def set_registered_model_alias(self, name: str, alias: str, version: Any) -> None:
        target = Target("alias", alias)

        def admit() -> Entry | None:
            return self.gatekeeper.admit("set_alias", name, _number(version), target)

        def write(entry: Entry | None) -> None:
            told = {"version": str(version), "target": target.key}
            with self._acting("set_alias", name, entry, **told):
                super(_GatedStore, self).set_registered_model_alias(name, alias, version)

        self._as_judged("set_alias", name, _number(version), admit, write)

    def delete_registered_model_alias(self, name: str, alias: str) -> None:
        super().delete_registered_model_alias(name, alias)
        self.gatekeeper.note("delete_alias", DONE, name, target=Target("alias", alias).key)

    def transition_model_version_stage(
        self, name: str, version: Any, stage: str, archive_existing_versions: bool
    ) -> Any:
        target = Target("stage", get_canonical_stage(stage))

        def admit() -> Entry | None:
            entry = None
            if target.name != STAGE_NONE:  # a version can always leave, as an alias can be deleted
                entry = self.gatekeeper.admit("transition_stage", name, _number(version), target)
            if archive_existing_versions:
                leaving = [each for each, held in self._held_places(name) if held == target]
                archived = [(each, _ARCHIVED) for each in leaving if each != _number(version)]
                self.gatekeeper.admit_archiving(name, archived)
            return entry

        def move(entry: Entry | None) -> Any:
            told = {"version": str(version), "target": target.key}
            with self._acting("transition_stage", name, entry, **told):
                return super(_GatedStore, self).transition_model_version_stage(
                    name, version, stage, archive_existing_versions
                )

        about: str | None = _number(version)
        with refusing("transition_stage"):
            if archive_existing_versions and self.gatekeeper.protects(name, _ARCHIVED):
                about = None  # it depends on who else is in the stage
        return self._as_judged("transition_stage", name, about, admit, move)

    def create_model_version(
        self,
        name: str,
        source: str,
        run_id: Any = None,
        tags: Any = None,
        *more: Any,
        **named: Any,
    ) -> Any:
        given = {tag.key: tag.value for tag in tags or []}

        def admit() -> dict[str, str]:
            return self.gatekeeper.admit_creation(name, source, given)

        def create(kept: dict[str, str]) -> Any:
            entities = [ModelVersionTag(key, value) for key, value in kept.items()]
            with self._acting("create_version", name, None, target=source):
                return super(_GatedStore, self).create_model_version(
                    name, source, run_id, entities, *more, **named
                )

        if (copied := original_of(source)) is not None:
            return self._as_judged("create_version", *copied, admit, create)
        with refusing("create_version"):
            kept = admit()
        return create(kept)

    def rename_registered_model(self, name: str, new_name: str) -> Any:
        def admit() -> None:
            held = self._held_places(name)
            tags = self.get_registered_model(name).tags
            self.gatekeeper.admit_renaming(name, new_name, held, list(tags))

        def rename(_: None) -> Any:
            return super(_GatedStore, self).rename_registered_model(name, new_name)

        renamed = self._as_judged("rename", name, None, admit, rename)
        self.gatekeeper.note("rename", DONE, name, target=new_name)
        return renamed

    def set_model_version_tag(self, name: str, version: Any, tag: Any) -> None:
        def admit() -> None:
            self.gatekeeper.admit_tag(name, _number(version), tag.key, str(tag.value))

        def write(_: None = None) -> None:
            super(_GatedStore, self).set_model_version_tag(name, version, tag)

        if is_reserved(tag.key):
            self._as_judged("set_tag", name, _number(version), admit, write)
            return
        try:
            write()
        except MlflowException as error:
            if not isinstance(error.__cause__, sa.exc.IntegrityError):
                raise
            write()  # another made this tag after the store had looked

    def delete_model_version_tag(self, name: str, version: Any, key: str) -> None:
        def admit() -> None:
            self.gatekeeper.admit_tag(name, _number(version), key, None)

        def delete(_: None = None) -> None:
            super(_GatedStore, self).delete_model_version_tag(name, version, key)

        if is_reserved(key):
            self._as_judged("delete_tag", name, _number(version), admit, delete)
        else:
            delete()

    def create_registered_model(self, name: str, tags: Any = None, *more: Any, **named: Any) -> Any:
        for tag in tags or []:
            with refusing("create_model"):
                self.gatekeeper.admit_model_tag("create_model", name, tag.key)
        return super().create_registered_model(name, tags, *more, **named)

    def set_registered_model_tag(self, name: str, tag: Any) -> None:
        with refusing("set_model_tag"):
            self.gatekeeper.admit_model_tag("set_model_tag", name, tag.key)
        super().set_registered_model_tag(name, tag)

    def delete_registered_model_tag(self, name: str, key: str) -> None:
        with refusing("delete_model_tag"):
            self.gatekeeper.admit_model_tag("delete_model_tag", name, key)
        super().delete_registered_model_tag(name, key)

    def get_model_version_by_alias(self, name: str, alias: str) -> Any:
        found = super().get_model_version_by_alias(name, alias)
        with refusing("read"):
            self.gatekeeper.admit_reading(name, str(found.version), Target("alias", alias))
        return found

    def get_latest_versions(self, name: str, stages: Any = None) -> Any:
        found = super().get_latest_versions(name, stages)
        if stages:  # a consumer that loads models:/name/Production; the UI asks for all stages
            for each in found:
                target = Target("stage", each.current_stage)
                with refusing("read"):
                    self.gatekeeper.admit_reading(name, str(each.version), target)
        return found

    def _held_places(self, name: str) -> list[tuple[str, Target]]:
        """Every alias and stage that versions of a model have, and that they exist."""
        with self.ManagedSessionMaker() as session:
            aliases = self._get_query(session, SqlRegisteredModelAlias)
            versions = self._get_query(session, SqlModelVersion).filter(
                SqlModelVersion.name == name,
                SqlModelVersion.current_stage != STAGE_DELETED_INTERNAL,
            )
            held = [
                (str(each.version), Target("alias", each.alias))
                for each in aliases.filter(SqlRegisteredModelAlias.name == name)
            ]
            for each in versions:
                held.append((str(each.version), Target("version")))
                if each.current_stage != STAGE_NONE:
                    held.append((str(each.version), Target("stage", each.current_stage)))
        return held

    def _as_judged(
        self,
        action: str,
        name: str,
        version: str | None,
        admit: Callable[[], _Leave],
        act: Callable[[_Leave], Any],
    ) -> Any:
        """Judge and act on one state of a model, or of a version; anew where others changed it.

        What ``admit`` returns is handed to ``act``.
        """
        about: dict[str, Any] = {"name": name, "version": version}
        about["workspace"] = self._get_active_workspace()
        tries = 0
        while True:
            tries += 1
            with refusing(action), self.reading.connect() as connection:
                state = state_of(connection, **about)
            judged = Judged(action=action, state=state, **about)
            with refusing(action):
                leave = admit()
            try:
                with self.ManagedSessionMaker.checking(judged.check):
                    return act(leave)
            except ChangedMeanwhileError:
                if tries == MAX_TRIES:
                    raise

    @contextmanager
    def _acting(self, action: str, name: str, entry: Entry | None, **more: str) -> Iterator[None]:
        """Commit an entry with the change it allows; log where the registry does not make it."""
        try:
            with self.ManagedSessionMaker.carrying(entry, utc_now()):
                yield
        except ChangedMeanwhileError:  # nothing failed: it is judged anew
            raise
        except MlflowException as error:
            self.gatekeeper.note(action, FAILED, name, message=str(error.message), **more)
            raise


@dataclass(frozen=True, slots=True, kw_only=True)
class _Version:
    """The part of a version that the gate asks for."""

    name: str
    version: str
    source: str
    artifact_location: str
    tags: dict[str, str]


class _Versions:
    """Reads versions in one query; MLflow's entities bring run, metrics and aliases along."""

    def __init__(self, store: _GatedStore) -> None:
        self._store = store

    def get_model_version(self, name: str, version: str) -> Any:
        """A `_Version`; where there is none, MLflow's own answer to that."""
        wanted = {"workspace": self._store._get_active_workspace(), "name": name}
        values = {**wanted, "version": int(version)}
        # A cursor left open by an error would keep SQLite's database locked.
        with (
            self._store.reading.connect() as connection,
            connection.execute(VERSION_WITH_TAGS, values) as result,
        ):
            rows = result.all()
        if not rows:
            return self._store.get_model_version(name, version)
        found = rows[0]
        return _Version(
            name=found.name,
            version=version,
            source=found.source,
            artifact_location=found.storage_location or found.source,
            tags={row.key: row.value for row in rows if row.key is not None},
        )

    def get_model_version_download_uri(self, name: str, version: str) -> str:
        """Where its artifacts lie."""
        return str(self._store.get_model_version_download_uri(name, version))


class _GatedWorkspaces(_GatedStore, WorkspaceAwareSqlAlchemyStore):
    """The gate before MLflow's SQL registry with workspaces."""
