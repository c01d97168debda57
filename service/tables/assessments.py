"""Accepted assessments, durable: one row each, every change of state in one transaction.

A row is the truth. What runs it (a workflow, a child process) may die at any point; it asks here
whether it may begin, and what it brings counts only while the row says ``running``. Rows have
numbers in the order in which they were accepted, which no clock that is set back changes.
"""

import json
import math
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from service.commit_points import CommitPoint, reached
from service.tables.database import METADATA, read, storable, write

KEY_LIFE_S = 7 * 24 * 3600.0


class State(StrEnum):
    """Where an assessment is; ``succeeded`` has a report, whatever its level."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether nothing changes any more."""
        return self not in (State.QUEUED, State.RUNNING)


OPEN = (State.QUEUED, State.RUNNING)

_TABLE = sa.Table(
    "rlrisk_assessments",
    METADATA,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("number", sa.Float, nullable=False, index=True),
    sa.Column("owner", sa.String(64), nullable=False),
    sa.Column("request", sa.Text, nullable=False),
    sa.Column("body_digest", sa.String(64), nullable=False),
    sa.Column("idempotency_key", sa.String(128)),
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("stage", sa.String(32), nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("fence", sa.Integer, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("started_at", sa.Float),
    sa.Column("finished_at", sa.Float),
    sa.Column("pinned", sa.Text),
    sa.Column("model_name", sa.String(256), index=True),
    sa.Column("model_version", sa.String(32)),
    sa.Column("progress", sa.Text),
    sa.Column("report", sa.Text),
    sa.Column("risk_level", sa.String(16)),
    sa.Column("outcome", sa.String(16)),
    sa.Column("error_code", sa.String(64)),
    sa.Column("error_detail", sa.Text),
    sa.Column("run_id", sa.String(64)),
    sa.Column("report_uri", sa.Text),
    sa.Column("published_at", sa.Float),
    sa.Column("publish_error", sa.Text),
)
_LIGHT = [column for column in _TABLE.c if column.name != "report"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Assessment:
    """One row, without its report; times are seconds since the epoch.

    ``number`` grows with every row: when it was accepted, or a hair after the one before.
    """

    id: str
    number: float
    owner: str
    request: Mapping[str, Any]
    body_digest: str
    state: State
    stage: str
    attempts: int
    fence: int
    created_at: float
    started_at: float | None
    finished_at: float | None
    pinned: Mapping[str, Any] | None
    model_name: str | None
    model_version: str | None
    progress: Mapping[str, Any] | None
    risk_level: str | None
    outcome: str | None
    error_code: str | None
    error_detail: str | None
    run_id: str | None
    report_uri: str | None
    published_at: float | None
    publish_error: str | None


class QueueFullError(Exception):
    """More assessments are open than the limits allow."""


class KeyConflictError(Exception):
    """The idempotency key was used with another body."""


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
            if known := _repeated(connection, owner, body_digest, key, now - key_life_s):
                return known, False
            _check_room(connection, owner, max_open, max_open_per_owner)
            row = {
                "id": str(uuid.uuid4()),
                "number": _next_number(connection, now),
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
            connection.execute(sa.insert(_TABLE).values(row))
            found = _find(connection, str(row["id"]))
            reached(CommitPoint.ACCEPT_UNCOMMITTED)
        reached(CommitPoint.ACCEPT_COMMITTED)
        assert found is not None
        return found, True

    def repeated(self, *, owner: str, body_digest: str, key: str | None) -> Assessment | None:
        """What `submit` accepted under this key; arguments and errors as there."""
        with read(self.engine) as connection:
            return _repeated(connection, owner, body_digest, key, time.time() - KEY_LIFE_S)

    def find(self, assessment_id: str) -> Assessment | None:
        """The assessment of that id."""
        with read(self.engine) as connection:
            return _find(connection, assessment_id)

    def report(self, assessment_id: str) -> str | None:
        """The report as JSON text; ``None`` where there is none yet."""
        with read(self.engine) as connection:
            wanted = sa.select(_TABLE.c.report).where(_TABLE.c.id == assessment_id)
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
        in_order = (_TABLE.c.number.desc(), _TABLE.c.id.desc())
        wanted = sa.select(*_LIGHT).order_by(*in_order).limit(limit)
        if owners is not None:
            wanted = wanted.where(_TABLE.c.owner.in_(owners))
        for column, value in (("model_name", model), ("state", state)):
            if value is not None:
                wanted = wanted.where(_TABLE.c[column] == value)
        if before is not None:
            is_same = sa.and_(_TABLE.c.number == before, _TABLE.c.id < before_id)
            wanted = wanted.where(sa.or_(_TABLE.c.number < before, is_same))
        with read(self.engine) as connection:
            return [_assessment(row) for row in connection.execute(wanted).mappings()]

    def latest_report(self, name: str, version: str) -> Assessment | None:
        """The assessment of a version that has a report and was accepted last."""
        wanted = (
            sa.select(*_LIGHT)
            .where(
                _TABLE.c.model_name == name,
                _TABLE.c.model_version == version,
                _TABLE.c.state == State.SUCCEEDED,
            )
            .order_by(_TABLE.c.number.desc())
            .limit(1)
        )
        with read(self.engine) as connection:
            row = connection.execute(wanted).mappings().one_or_none()
        return None if row is None else _assessment(row)

    def counts(self) -> dict[str, int]:
        """Assessments by state."""
        wanted = sa.select(_TABLE.c.state, sa.func.count()).group_by(_TABLE.c.state)
        with read(self.engine) as connection:
            found = {str(state): int(count) for state, count in connection.execute(wanted)}
        return {str(state): found.get(str(state), 0) for state in State}

    def mean_duration_s(self) -> float | None:
        """Mean seconds of the last assessments that succeeded; ``None`` before the first."""
        wanted = (
            sa.select(_TABLE.c.finished_at - _TABLE.c.started_at)
            .where(_TABLE.c.state == State.SUCCEEDED)
            .order_by(_TABLE.c.finished_at.desc())
            .limit(20)
        )
        with read(self.engine) as connection:
            found = [float(each) for (each,) in connection.execute(wanted) if each is not None]
        return sum(found) / len(found) if found else None

    def waiting(self, *states: State, is_unpublished: bool = False) -> list[str]:
        """Ids in one of the states, the oldest first; optionally those not yet published."""
        wanted = sa.select(_TABLE.c.id).where(_TABLE.c.state.in_(states)).order_by(_TABLE.c.number)
        if is_unpublished:
            wanted = wanted.where(_TABLE.c.published_at.is_(None))
        with read(self.engine) as connection:
            return [str(each) for (each,) in connection.execute(wanted)]

    def begin(self, assessment_id: str, *, max_attempts: int) -> Assessment | None:
        """Take an assessment: a new fence, and ``None`` where nothing is left to do.

        An attempt counts until it brings a graded prompt; after ``max_attempts`` that ended with
        the death of a worker the assessment fails, it never passes.
        """
        with write(self.engine) as connection:
            # Locked, so that nobody cancels, ends or takes it between this look and the change.
            found = _find(connection, assessment_id, is_locked=True)
            if found is None or found.state.is_final:
                return None
            values: dict[str, Any] = {"fence": found.fence + 1, "attempts": found.attempts + 1}
            if found.attempts >= max_attempts:
                values |= {
                    "state": State.FAILED,
                    "stage": "done",
                    "finished_at": time.time(),
                    "error_code": "worker_lost",
                    "error_detail": f"{max_attempts} attempts ended with the death of a worker",
                }
            else:
                values |= {
                    "state": State.RUNNING,
                    "started_at": found.started_at or time.time(),
                }
            change = sa.update(_TABLE).where(_TABLE.c.id == assessment_id)
            connection.execute(change.values(values))
            begun = _find(connection, assessment_id)
        return begun if begun is not None and begun.state is State.RUNNING else None

    def update(self, assessment_id: str, fence: int, **values: Any) -> bool:
        """Write while it runs under this fence; false where it was cancelled or taken over."""
        for name in ("pinned", "progress"):
            if name in values:
                values[name] = json.dumps(values[name])
        change = sa.update(_TABLE).where(
            _TABLE.c.id == assessment_id,
            _TABLE.c.state == State.RUNNING,
            _TABLE.c.fence == fence,
        )
        with write(self.engine) as connection:
            # Nothing to write still asks whether it is ours.
            return connection.execute(change.values({"fence": fence} | _kept(values))).rowcount == 1

    def put_back(self, assessment_id: str, fence: int, **values: Any) -> bool:
        """As `update`, after an attempt that does not count: nobody died."""
        attempts = _TABLE.c.attempts
        kept = sa.case((attempts > 0, attempts - 1), else_=0)  # 0 where it brought something
        return self.update(assessment_id, fence, attempts=kept, **values)

    def finish(self, assessment_id: str, fence: int, state: State, **values: Any) -> bool:
        """End it with its report or its error, in one transaction."""
        return self.update(
            assessment_id, fence, state=state, stage="done", finished_at=time.time(), **values
        )

    def cancel(self, assessment_id: str) -> Assessment | None:
        """Cancel it unless it is at its end; returns it as it is then."""
        change = sa.update(_TABLE).where(_TABLE.c.id == assessment_id, _TABLE.c.state.in_(OPEN))
        values = {"state": State.CANCELLED, "stage": "done", "finished_at": time.time()}
        with write(self.engine) as connection:
            connection.execute(change.values(values))
            return _find(connection, assessment_id)

    def choose_run(self, assessment_id: str, run_id: str, *, instead_of: str | None) -> bool:
        """Note which run gets the report; false where another was noted, or it is published."""
        noted = _TABLE.c.run_id
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
        is_it = (_TABLE.c.id == assessment_id, _TABLE.c.published_at.is_(None), *more)
        with write(self.engine) as connection:
            change = sa.update(_TABLE).where(*is_it).values(_kept(values))
            return connection.execute(change).rowcount == 1


def _kept(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: storable(value) if isinstance(value, str) else value for name, value in values.items()
    }


def _repeated(
    connection: sa.Connection, owner: str, body_digest: str, key: str | None, since: float
) -> Assessment | None:
    if key is None:
        return None
    columns = _TABLE.c
    is_it = sa.and_(columns.owner == owner, columns.idempotency_key == key)
    # A clock that was set back brings an older one of this key back to life.
    wanted = sa.select(*_LIGHT).where(is_it, columns.created_at > since)
    wanted = wanted.order_by(columns.number.desc()).limit(1)
    row = connection.execute(wanted).mappings().one_or_none()
    if row is not None and row["body_digest"] != body_digest:
        raise KeyConflictError
    return None if row is None else _assessment(row)


def _next_number(connection: sa.Connection, now: float) -> float:
    last = connection.execute(sa.select(sa.func.max(_TABLE.c.number))).scalar_one()
    return now if last is None or now > last else math.nextafter(last, math.inf)


def _check_room(connection: sa.Connection, owner: str, most: int, most_of_owner: int) -> None:
    wanted = sa.select(sa.func.count()).where(_TABLE.c.state.in_(OPEN))
    if connection.execute(wanted).scalar_one() >= most:
        raise QueueFullError
    if connection.execute(wanted.where(_TABLE.c.owner == owner)).scalar_one() >= most_of_owner:
        raise QueueFullError


def _find(
    connection: sa.Connection, assessment_id: str, *, is_locked: bool = False
) -> Assessment | None:
    wanted = sa.select(*_LIGHT).where(_TABLE.c.id == assessment_id)
    if is_locked:  # SQLite has no such lock: its writers exclude each other
        wanted = wanted.with_for_update()
    row = connection.execute(wanted).mappings().one_or_none()
    return None if row is None else _assessment(row)


def _assessment(row: sa.RowMapping) -> Assessment:
    values = {name: row[name] for name in Assessment.__slots__}
    for name in ("request", "pinned", "progress"):
        values[name] = None if values[name] is None else json.loads(values[name])
    values["state"] = State(values["state"])
    return Assessment(**values)
