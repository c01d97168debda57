"""How the gate's log lies in a database: tables, seals, and what appends to it.

One row of a second table holds the head; whoever appends locks that row first, so that the chain
never forks, whatever the number of workers. All writers wait for each other from there to the end
of the transaction. In PostgreSQL a function does it all, and its call travels with the ``COMMIT``:
nobody waits for another one's Python, or the network, while the head is locked.
"""

from dataclasses import asdict, fields

import sqlalchemy as sa

from mlflow_rlrisk.attestation.envelope import canonical_json
from mlflow_rlrisk.errors import AuditError
from mlflow_rlrisk.gate.audit_entries import GENESIS, Entry, chained

_METADATA = sa.MetaData()

LOG = sa.Table(
    "rlrisk_gate_log",
    _METADATA,
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("recorded_at", sa.String(32), nullable=False),
    *(sa.Column(each.name, sa.Text, nullable=False) for each in fields(Entry)),
    sa.Column("previous", sa.String(64), nullable=False),
    sa.Column("hash", sa.String(64), nullable=False),
)
HEAD = sa.Table(
    "rlrisk_gate_head",
    _METADATA,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("sequence", sa.Integer, nullable=False),
    sa.Column("hash", sa.String(64), nullable=False),
)
_SEALS = {
    "sqlite": [
        "CREATE TRIGGER IF NOT EXISTS rlrisk_gate_log_no_{verb} BEFORE {verb} ON rlrisk_gate_log "
        "BEGIN SELECT RAISE(ABORT, 'the rlrisk gate log is append-only'); END",
        # INSERT OR REPLACE deletes without asking the trigger above.
        "CREATE TRIGGER IF NOT EXISTS rlrisk_gate_log_no_replace BEFORE INSERT ON rlrisk_gate_log "
        "WHEN EXISTS (SELECT 1 FROM rlrisk_gate_log WHERE sequence = NEW.sequence) BEGIN SELECT "
        "RAISE(ABORT, 'the rlrisk gate log is append-only, its numbers are UNIQUE'); END",
    ],
    "postgresql": [
        "CREATE OR REPLACE FUNCTION rlrisk_gate_log_seal() RETURNS trigger AS $$ BEGIN "
        "RAISE EXCEPTION 'the rlrisk gate log is append-only'; END $$ LANGUAGE plpgsql",
        "CREATE OR REPLACE TRIGGER rlrisk_gate_log_no_{verb} BEFORE {verb} ON rlrisk_gate_log "
        "FOR EACH ROW EXECUTE FUNCTION rlrisk_gate_log_seal()",
        "CREATE OR REPLACE TRIGGER rlrisk_gate_log_no_truncate BEFORE TRUNCATE ON rlrisk_gate_log "
        "FOR EACH STATEMENT EXECUTE FUNCTION rlrisk_gate_log_seal()",
    ],
}
_COLUMNS = [each.name for each in fields(Entry)]
_POSTGRESQL_FUNCTION = f"""
CREATE OR REPLACE FUNCTION rlrisk_gate_append(moment text, entry text) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    head rlrisk_gate_head%ROWTYPE;
    digest text;
BEGIN
    SELECT * INTO head FROM rlrisk_gate_head WHERE id = 1 FOR UPDATE;
    IF NOT FOUND THEN RAISE EXCEPTION 'the gate log has no head'; END IF;
    digest := encode(sha256(convert_to(
        concat('[', head.sequence + 1, ',"', moment, '",', entry, ',"', head.hash, '"]'),
        'UTF8')), 'hex');
    INSERT INTO rlrisk_gate_log (sequence, recorded_at, {", ".join(_COLUMNS)}, previous, hash)
        SELECT head.sequence + 1, moment, {", ".join(f"new.{each}" for each in _COLUMNS)},
            head.hash, digest
        FROM json_populate_record(NULL::rlrisk_gate_log, entry::json) AS new;
    UPDATE rlrisk_gate_head SET sequence = head.sequence + 1, hash = digest WHERE id = 1;
END $$
"""
"""Does what `chained` and `append_last` do elsewhere; `entry` is the entry's canonical JSON."""

# Writing first takes the lock on the head, before it is read.
_ADVANCE = HEAD.update().where(HEAD.c.id == 1).values(sequence=HEAD.c.sequence + 1)
_READ_HEAD = sa.select(HEAD.c.sequence, HEAD.c.hash).where(HEAD.c.id == 1)
_SET_HEAD = HEAD.update().where(HEAD.c.id == 1).values(hash=sa.bindparam("entry_hash"))


def prepare(connection: sa.Connection) -> None:
    """Make tables, head row, seals and function where they are not there yet."""
    is_postgresql = connection.dialect.name == "postgresql"
    if is_postgresql:  # workers of one server start together
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(719031)"))
    _METADATA.create_all(connection)
    for statement in _SEALS.get(connection.dialect.name, []):
        for verb in ("UPDATE", "DELETE"):
            connection.execute(sa.text(statement.format(verb=verb)))
    if is_postgresql:
        connection.execute(sa.text(_POSTGRESQL_FUNCTION))
    if connection.execute(sa.select(HEAD)).first() is None:
        connection.execute(HEAD.insert().values(id=1, sequence=0, hash=GENESIS))


def append_last(connection: sa.Connection, entry: Entry, moment: str) -> None:
    """Append as the last thing that a transaction does; in PostgreSQL it is committed as well.

    Raises:
        AuditError: There is no head.
        SQLAlchemyError: The database does not take it.
    """
    if connection.dialect.name == "postgresql":
        given = (moment, canonical_json(asdict(entry)))
        # Hexadecimal, because two statements in one message take no parameters.
        texts = (f"convert_from(decode('{each.encode().hex()}','hex'),'UTF8')" for each in given)
        connection.exec_driver_sql(f"SELECT rlrisk_gate_append({','.join(texts)}); COMMIT")
        return
    if connection.execute(_ADVANCE).rowcount != 1:
        raise AuditError("the gate log has no head")
    sequence, previous = connection.execute(_READ_HEAD).one()
    recorded = chained(sequence, moment, entry, previous)
    connection.execute(LOG.insert(), recorded.to_dict())
    connection.execute(_SET_HEAD, {"entry_hash": recorded.hash})
