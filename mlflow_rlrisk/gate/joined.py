"""The entry of the log and the change that it allows: committed together, or neither.

One transaction in place of two makes "no audit entry, no promotion" hold whatever dies in
between, and costs one wait for the disk less.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from mlflow_rlrisk.errors import AuditError
from mlflow_rlrisk.gate.audit import AuditLog, Entry
from mlflow_rlrisk.gate.refusals import refusing

Check = Callable[[Any], None]
"""Called with a session before it is written to; raises where nothing may be written."""

SessionMaker = Callable[..., AbstractContextManager[Any]]
"""MLflow's ``ManagedSessionMaker``: commits at the end of the block, rolls back on an error."""


class JoinedSessions:
    """Stands in for a store's session maker; used by any number of threads.

    Args:
        make_session: The store's own.
        log: Where entries go; in the same database.
    """

    def __init__(self, make_session: SessionMaker, log: AuditLog) -> None:
        self._make_session = make_session
        self._log = log
        self._own = threading.local()

    @contextmanager
    def carrying(self, entry: Entry | None, now: datetime) -> Iterator[None]:
        """Let the next commit of this thread end with ``entry``, if there is one.

        Raises:
            MlflowException: The block ended well and opened no such session: the entry is missing.
        """
        self._own.due = None if entry is None else (entry, now)
        try:
            yield
            if entry is not None and self._own.due is not None:
                with refusing(entry.action):
                    raise AuditError("the registry wrote by other means than the gate knows")
        finally:
            self._own.due = None

    @contextmanager
    def checking(self, check: Check) -> Iterator[None]:
        """Let the sessions of this thread that write begin with ``check``."""
        self._own.check = check
        try:
            yield
        finally:
            self._own.check = None

    @contextmanager
    def __call__(self, read_only: bool = True) -> Iterator[Any]:
        """A session, as the store's own session maker gives it."""
        due = None if read_only else getattr(self._own, "due", None)
        check = None if read_only else getattr(self._own, "check", None)
        turn = nullcontext if due is None else self._log.turn
        with turn(), self._make_session(read_only=read_only) as session:
            if check is not None:
                check(session)
            if due is not None:
                # Before every commit, not after the block: the store may commit within it.
                sa.event.listen(session, "before_commit", self._append_due)
            yield session

    def _append_due(self, session: Any) -> None:
        if self._own.due is None:
            return
        entry, now = self._own.due
        session.flush()  # the entry comes last: from there to the commit all writers wait
        with refusing(entry.action):
            self._log.append_last(session.connection(), entry, now)
        self._own.due = None
