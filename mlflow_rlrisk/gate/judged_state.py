"""What a decision was about, read again under a lock before the change is written.

Judging takes reads of its own, and files may be listed over a network; meanwhile others write.
Whoever writes locks the model first and compares: what has changed since is judged anew.
"""

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from mlflow.entities.model_registry.model_version_stages import STAGE_DELETED_INTERNAL
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED
from mlflow.store.model_registry.dbmodels.models import (
    SqlModelVersion,
    SqlModelVersionTag,
    SqlRegisteredModel,
    SqlRegisteredModelAlias,
    SqlRegisteredModelTag,
)

from mlflow_rlrisk.gate.tags import is_reserved

_MODEL = SqlRegisteredModel.__table__
_READ = (
    (SqlModelVersion.__table__, ("version", "current_stage", "source", "storage_location")),
    (SqlRegisteredModelAlias.__table__, ("version", "alias")),
    (SqlModelVersionTag.__table__, ("version", "key", "value")),
    (SqlRegisteredModelTag.__table__, ("key", "value")),
)
_VERSIONS, _TAGS = SqlModelVersion.__table__, SqlModelVersionTag.__table__
VERSION_WITH_TAGS = (
    sa.select(
        _VERSIONS.c.name,
        _VERSIONS.c.source,
        _VERSIONS.c.storage_location,
        _TAGS.c.key,
        _TAGS.c.value,
    )
    .outerjoin_from(
        _VERSIONS,
        _TAGS,
        (_TAGS.c.workspace == _VERSIONS.c.workspace)
        & (_TAGS.c.name == _VERSIONS.c.name)
        & (_TAGS.c.version == _VERSIONS.c.version),
    )
    .where(
        _VERSIONS.c.workspace == sa.bindparam("workspace"),
        _VERSIONS.c.name == sa.bindparam("name"),
        _VERSIONS.c.version == sa.bindparam("version"),
        _VERSIONS.c.current_stage != STAGE_DELETED_INTERNAL,
    )
)
"""One row a tag, or one row where there is none."""

State = list[tuple[Any, ...]]
"""Files and verdict tags of a version; of a model versions, aliases and verdict tags."""


class ChangedMeanwhileError(MlflowException):
    """What was judged is no longer there."""

    def __init__(self, action: str, name: str) -> None:
        text = (
            f"rlrisk gate: '{action}' is refused: others go on changing '{name}' while it is "
            f"decided; try again"
        )
        super().__init__(text, error_code=PERMISSION_DENIED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A model as it was when the decision began.

    Attributes:
        action: What was asked for.
        workspace: Of the model.
        name: The model.
        version: The one that the decision is about; ``None`` for all of them.
        state: What it held.
    """

    action: str
    workspace: str
    name: str
    version: str | None
    state: State

    def check(self, session: Any) -> None:
        """Lock the model until the transaction ends.

        Raises:
            ChangedMeanwhileError: It holds something else now.
        """
        # Where rows cannot be locked, in SQLite, a write locks the file.
        is_it = (_MODEL.c.workspace == self.workspace, _MODEL.c.name == self.name)
        unchanged = {"last_updated_time": _MODEL.c.last_updated_time}
        session.execute(_MODEL.update().where(*is_it).values(unchanged))
        if self.version is None:  # nor does anybody give it a version or an alias
            session.execute(_MODEL.select().where(*is_it).with_for_update()).all()
        if state_of(session, self.workspace, self.name, self.version, lock=True) != self.state:
            raise ChangedMeanwhileError(self.action, self.name)


def state_of(
    session: Any, workspace: str, name: str, version: str | None, *, lock: bool = False
) -> State:
    """What a decision about a version (``None``: about a model's name) depends on.

    A model may have thousands of versions, and each gets a dozen tags: no write reads them all.
    A version is never locked: every writer of a verdict tag waits for the model, and a stage's
    writer that has locked versions before it waits for the model would wait for ever.
    """
    if version is not None:
        wanted = {"workspace": workspace, "name": name, "version": int(version)}
        rows = session.execute(VERSION_WITH_TAGS, wanted).all()
        said = sorted((row.key, row.value) for row in rows if row.key and is_reserved(row.key))
        return [*{(row.source, row.storage_location) for row in rows}, *said]
    found: State = []
    for table, columns in _READ:
        query = (
            sa.select(*(table.c[column] for column in columns))
            .where(table.c.workspace == workspace, table.c.name == name)
            .order_by(*(table.c[column] for column in columns))
        )
        rows = session.execute(query.with_for_update() if lock else query).all()
        found += [tuple(row) for row in rows if "key" not in columns or is_reserved(row.key)]
    return found
