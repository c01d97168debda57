"""What a decision was about, read again under a lock before the change is written.

Judging takes reads of its own, and files may be listed over a network; meanwhile others write.
Whoever writes locks the model first and compares: what has changed since is judged anew.
"""

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
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
_EVIDENCE = (
    (SqlModelVersion.__table__, ("version", "source", "storage_location")),
    (SqlModelVersionTag.__table__, ("version", "key", "value")),
)
_HELD = (
    (SqlModelVersion.__table__, ("version", "current_stage")),
    (SqlRegisteredModelAlias.__table__, ("version", "alias")),
    (SqlRegisteredModelTag.__table__, ("key", "value")),
)

State = list[tuple[Any, ...]]
"""Where the files of versions lie and their verdict tags; of a model also what it holds."""


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
        session.execute(
            _MODEL.update()
            .where(_MODEL.c.workspace == self.workspace, _MODEL.c.name == self.name)
            .values(last_updated_time=_MODEL.c.last_updated_time)
        )
        for_all = _MODEL.select().with_for_update()
        session.execute(
            for_all.where(_MODEL.c.workspace == self.workspace, _MODEL.c.name == self.name)
        ).all()
        # Every writer of a verdict tag waits for the model. A stage's writer has locked versions
        # before it waits: to wait for those in turn, where it is not needed, would be a deadlock.
        lock = self.version is None
        if state_of(session, self.workspace, self.name, self.version, lock=lock) != self.state:
            raise ChangedMeanwhileError(self.action, self.name)


def state_of(
    session: Any, workspace: str, name: str, version: str | None, *, lock: bool = False
) -> State:
    """What a decision about a version (``None``: about a model's name) depends on.

    A model may have thousands of versions, and each gets a dozen tags: no write reads them all.
    """
    found: State = []
    for table, columns in _EVIDENCE if version is not None else _EVIDENCE + _HELD:
        query = (
            sa.select(*(table.c[column] for column in columns))
            .where(table.c.workspace == workspace, table.c.name == name)
            .order_by(*(table.c[column] for column in columns[:2]))
        )
        if version is not None:
            query = query.where(table.c.version == int(version))
        rows = session.execute(query.with_for_update() if lock else query).all()
        found += [tuple(row) for row in rows if "key" not in columns or is_reserved(row.key)]
    return found
