"""A row of an assessment: its columns, its states, and how it is found."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from service.tables.database import METADATA


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

TABLE = sa.Table(
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
LIGHT = [column for column in TABLE.c if column.name != "report"]


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


def repeated(
    connection: sa.Connection, owner: str, body_digest: str, key: str | None, since: float
) -> Assessment | None:
    """What an owner submitted under a key since then; `KeyConflictError` for another body."""
    if key is None:
        return None
    columns = TABLE.c
    is_it = sa.and_(columns.owner == owner, columns.idempotency_key == key)
    # A clock that was set back brings an older one of this key back to life.
    wanted = sa.select(*LIGHT).where(is_it, columns.created_at > since)
    wanted = wanted.order_by(columns.number.desc()).limit(1)
    row = connection.execute(wanted).mappings().one_or_none()
    if row is not None and row["body_digest"] != body_digest:
        raise KeyConflictError
    return None if row is None else assessment_of(row)


def next_number(connection: sa.Connection, now: float) -> float:
    """Now, or a hair after the row before."""
    last = connection.execute(sa.select(sa.func.max(TABLE.c.number))).scalar_one()
    return now if last is None or now > last else math.nextafter(last, math.inf)


def check_room(connection: sa.Connection, owner: str, most: int, most_of_owner: int) -> None:
    """`QueueFullError` where as many are open as there may be, in all or of an owner."""
    wanted = sa.select(sa.func.count()).where(TABLE.c.state.in_(OPEN))
    if connection.execute(wanted).scalar_one() >= most:
        raise QueueFullError
    if connection.execute(wanted.where(TABLE.c.owner == owner)).scalar_one() >= most_of_owner:
        raise QueueFullError


def find(
    connection: sa.Connection, assessment_id: str, *, is_locked: bool = False
) -> Assessment | None:
    """The row of that id; locked against other writers until the transaction ends."""
    wanted = sa.select(*LIGHT).where(TABLE.c.id == assessment_id)
    if is_locked:  # SQLite has no such lock: its writers exclude each other
        wanted = wanted.with_for_update()
    row = connection.execute(wanted).mappings().one_or_none()
    return None if row is None else assessment_of(row)


def assessment_of(row: sa.RowMapping) -> Assessment:
    """The row as a record."""
    values = {name: row[name] for name in Assessment.__slots__}
    for name in ("request", "pinned", "progress"):
        values[name] = None if values[name] is None else json.loads(values[name])
    values["state"] = State(values["state"])
    return Assessment(**values)
