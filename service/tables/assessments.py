"""Accepted assessments, durable: one row each, every change of state in one transaction.

A row is the truth. What runs it (a workflow, a child process) may die at any point; it asks here
whether it may begin, and what it brings counts only while the row says ``running``. Rows have
numbers in the order in which they were accepted, which no clock that is set back changes.
"""

import json
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from mlflow_rlrisk.plurals import counted
from service.commit_points import CommitPoint, reached
from service.tables import assessment_rows as rows
from service.tables.assessment_rows import LIGHT, OPEN, TABLE, Assessment, State
from service.tables.database import read, storable, write

KEY_LIFE_S = 7 * 24 * 3600.0


class AssessmentTable:
    """The assessments of a service."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine

    def submit(
        self,
        request: Mapping[str, Any],
        *,
        owner: str,
        body_digest: str,
        key: str | None,
        max_open: int,
        max_open_per_owner: int,
        key_life_s: float = KEY_LIFE_S,
    ) -> tuple[Assessment, bool]:
        """Accept an assessment; returns it, and whether it is a new one.

        Raises:
            KeyConflictError: ``key`` was used by this owner with another body.
            QueueFullError: Too many are open.
        """
        now = time.time()
        with write(self.engine) as connection:
            if connection.dialect.name == "postgresql":  # SQLite's transactions exclude each other
                connection.execute(sa.text("SELECT pg_advisory_xact_lock(7216401)"))
            if known := rows.repeated(connection, owner, body_digest, key, now - key_life_s):
                return known, False
            rows.check_room(connection, owner, max_open, max_open_per_owner)
            row = {
                "id": str(uuid.uuid4()),
                "number": rows.next_number(connection, now),
                "owner": owner,
                "request": json.dumps(request, sort_keys=True),
                "body_digest": body_digest,
                "idempotency_key": key,
                "state": State.QUEUED,
                "stage": "queued",
                "attempts": 0,
                "fence": 0,
                "created_at": now,
            }
            connection.execute(sa.insert(TABLE).values(row))
            found = rows.find(connection, str(row["id"]))
            reached(CommitPoint.ACCEPT_UNCOMMITTED)
        reached(CommitPoint.ACCEPT_COMMITTED)
        assert found is not None
        return found, True

    def repeated(self, *, owner: str, body_digest: str, key: str | None) -> Assessment | None:
        """What `submit` accepted under this key; arguments and errors as there."""
        with read(self.engine) as connection:
            return rows.repeated(connection, owner, body_digest, key, time.time() - KEY_LIFE_S)

    def find(self, assessment_id: str) -> Assessment | None:
        """The assessment of that id."""
        with read(self.engine) as connection:
            return rows.find(connection, assessment_id)

    def report(self, assessment_id: str) -> str | None:
        """The report as JSON text; ``None`` where there is none yet."""
        with read(self.engine) as connection:
            wanted = sa.select(TABLE.c.report).where(TABLE.c.id == assessment_id)
            text: str | None = connection.execute(wanted).scalar_one_or_none()
            return text

    def page(
        self,
        *,
        owners: Sequence[str] | None = None,
        model: str | None = None,
        state: str | None = None,
        before: float | None = None,
        before_id: str = "",
        limit: int = 50,
    ) -> list[Assessment]:
        """The newest first; of the same number the one with the greater id.

        Args:
            owners: Whose; ``None`` means everybody's.
            model: Name of a registered model; ``None`` means any.
            state: Where they are; ``None`` means anywhere.
            before: Number of the last one that was seen, or a time.
            before_id: Its id; without it nothing of the same number comes any more.
            limit: How many at most.
        """
        in_order = (TABLE.c.number.desc(), TABLE.c.id.desc())
        wanted = sa.select(*LIGHT).order_by(*in_order).limit(limit)
        if owners is not None:
            wanted = wanted.where(TABLE.c.owner.in_(owners))
        for column, value in (("model_name", model), ("state", state)):
            if value is not None:
                wanted = wanted.where(TABLE.c[column] == value)
        if before is not None:
            is_same = sa.and_(TABLE.c.number == before, TABLE.c.id < before_id)
            wanted = wanted.where(sa.or_(TABLE.c.number < before, is_same))
        with read(self.engine) as connection:
            return [rows.assessment_of(row) for row in connection.execute(wanted).mappings()]

    def latest_report(self, name: str, version: str) -> Assessment | None:
        """The assessment of a version that has a report and was accepted last."""
        wanted = (
            sa.select(*LIGHT)
            .where(
                TABLE.c.model_name == name,
                TABLE.c.model_version == version,
                TABLE.c.state == State.SUCCEEDED,
            )
            .order_by(TABLE.c.number.desc())
            .limit(1)
        )
        with read(self.engine) as connection:
            row = connection.execute(wanted).mappings().one_or_none()
        return None if row is None else rows.assessment_of(row)

    def counts(self) -> dict[str, int]:
        """Assessments by state."""
        wanted = sa.select(TABLE.c.state, sa.func.count()).group_by(TABLE.c.state)
        with read(self.engine) as connection:
            found = {str(state): int(count) for state, count in connection.execute(wanted)}
        return {str(state): found.get(str(state), 0) for state in State}

    def mean_duration_s(self) -> float | None:
        """Mean seconds of the last assessments that succeeded; ``None`` before the first."""
        wanted = (
            sa.select(TABLE.c.finished_at - TABLE.c.started_at)
            .where(TABLE.c.state == State.SUCCEEDED)
            .order_by(TABLE.c.finished_at.desc())
            .limit(20)
        )
        with read(self.engine) as connection:
            found = [float(each) for (each,) in connection.execute(wanted) if each is not None]
        return sum(found) / len(found) if found else None

    def waiting(self, *states: State, is_unpublished: bool = False) -> list[str]:
        """Ids in one of the states, the oldest first; optionally those not yet published."""
        wanted = sa.select(TABLE.c.id).where(TABLE.c.state.in_(states)).order_by(TABLE.c.number)
        if is_unpublished:
            wanted = wanted.where(TABLE.c.published_at.is_(None))
        with read(self.engine) as connection:
            return [str(each) for (each,) in connection.execute(wanted)]

    def begin(self, assessment_id: str, *, max_attempts: int) -> Assessment | None:
        """Take an assessment: a new fence, and ``None`` where nothing is left to do.

        An attempt counts until it brings a graded prompt; after ``max_attempts`` that ended with
        the death of a worker the assessment fails, it never passes.
        """
        with write(self.engine) as connection:
            # Locked, so that nobody cancels, ends or takes it between this look and the change.
            found = rows.find(connection, assessment_id, is_locked=True)
            if found is None or found.state.is_final:
                return None
            values: dict[str, Any] = {"fence": found.fence + 1, "attempts": found.attempts + 1}
            if found.attempts >= max_attempts:
                values |= {
                    "state": State.FAILED,
                    "stage": "done",
                    "finished_at": time.time(),
                    "error_code": "worker_lost",
                    "error_detail": f"{counted(max_attempts, 'attempt')} ended with the death "
                    "of a worker",
                }
            else:
                values |= {
                    "state": State.RUNNING,
                    "started_at": found.started_at or time.time(),
                }
            change = sa.update(TABLE).where(TABLE.c.id == assessment_id)
            connection.execute(change.values(values))
            begun = rows.find(connection, assessment_id)
        return begun if begun is not None and begun.state is State.RUNNING else None

    def update(self, assessment_id: str, fence: int, **values: Any) -> bool:
        """Write while it runs under this fence; false where it was cancelled or taken over."""
        for name in ("pinned", "progress"):
            if name in values:
                values[name] = json.dumps(values[name])
        change = sa.update(TABLE).where(
            TABLE.c.id == assessment_id,
            TABLE.c.state == State.RUNNING,
            TABLE.c.fence == fence,
        )
        with write(self.engine) as connection:
            # Nothing to write still asks whether it is ours.
            return connection.execute(change.values({"fence": fence} | _kept(values))).rowcount == 1

    def put_back(self, assessment_id: str, fence: int, **values: Any) -> bool:
        """As `update`, after an attempt that does not count: nobody died."""
        attempts = TABLE.c.attempts
        kept = sa.case((attempts > 0, attempts - 1), else_=0)  # 0 where it brought something
        return self.update(assessment_id, fence, attempts=kept, **values)

    def finish(self, assessment_id: str, fence: int, state: State, **values: Any) -> bool:
        """End it with its report or its error, in one transaction."""
        return self.update(
            assessment_id, fence, state=state, stage="done", finished_at=time.time(), **values
        )

    def cancel(self, assessment_id: str) -> Assessment | None:
        """Cancel it unless it is at its end; returns it as it is then."""
        change = sa.update(TABLE).where(TABLE.c.id == assessment_id, TABLE.c.state.in_(OPEN))
        values = {"state": State.CANCELLED, "stage": "done", "finished_at": time.time()}
        with write(self.engine) as connection:
            connection.execute(change.values(values))
            return rows.find(connection, assessment_id)

    def choose_run(self, assessment_id: str, run_id: str, *, instead_of: str | None) -> bool:
        """Note which run gets the report; false where another was noted, or it is published."""
        noted = TABLE.c.run_id
        is_free = sa.or_(noted == run_id, noted.is_not_distinct_from(instead_of))
        return self._set_unpublished(assessment_id, is_free, run_id=run_id)

    def published(
        self, assessment_id: str, run_id: str, report_uri: str, *, note: str | None = None
    ) -> None:
        """Note where the report is, and what is missing there; the first note stays."""
        values = {"run_id": run_id, "report_uri": report_uri, "publish_error": note}
        self._set_unpublished(assessment_id, published_at=time.time(), **values)

    def publish_failed(self, assessment_id: str, why: str) -> None:
        """Note why publishing waits."""
        self._set_unpublished(assessment_id, publish_error=why)

    def _set_unpublished(self, assessment_id: str, *more: Any, **values: Any) -> bool:
        is_it = (TABLE.c.id == assessment_id, TABLE.c.published_at.is_(None), *more)
        with write(self.engine) as connection:
            change = sa.update(TABLE).where(*is_it).values(_kept(values))
            return connection.execute(change).rowcount == 1


def _kept(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: storable(value) if isinstance(value, str) else value for name, value in values.items()
    }
