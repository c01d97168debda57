"""The service's one database: SQLite in a file, or PostgreSQL by its address."""

from pathlib import Path
from typing import Any

import sqlalchemy as sa

from mlflow_rlrisk import ConfigError
from service.tables import (  # noqa: F401  (all add their tables to the metadata)
    assessments,
    attestations,
    deliveries,
    overrides,
    poller_state,
    sandboxes,
    tokens,
    worker_presence,
)
from service.tables.database import METADATA, READS

LOCK_LIMIT_S = 5.0
"""A locked database is waited for this long, then the answer is 503."""
CONNECT_LIMIT_S = 10
"""For PostgreSQL's first answer, where its address says nothing else."""
SCHEMA_LIMIT_S = 60
"""For others that create the tables just now."""
_SCHEMA_LOCK = 0x726C7269736B
"""Key of PostgreSQL's advisory lock: ``rlrisk`` in ASCII."""


def open_database(address: str) -> sa.Engine:
    """Connect, and create what is missing.

    Raises:
        ConfigError: The address cannot be read, or is of another kind of database, of a driver
            that is not installed, or of a PostgreSQL database that does not hold every text.
        sqlalchemy.exc.SQLAlchemyError: The database cannot be used.
    """
    url = _url(address)
    if url.get_backend_name() == "sqlite":
        Path(str(url.database)).parent.mkdir(parents=True, exist_ok=True)
        engine = sa.create_engine(url, connect_args={"timeout": LOCK_LIMIT_S})
        sa.event.listen(engine, "connect", _prepare_sqlite)
        sa.event.listen(engine, "begin", _begin_sqlite)
    else:
        if url.drivername == "postgresql":
            url = url.set(drivername="postgresql+psycopg")
        engine = _postgresql(url)
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            _check_encoding(connection, url)
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{SCHEMA_LIMIT_S}s'")
            # Two that start at once would both create it.
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_SCHEMA_LOCK)))
        METADATA.create_all(connection)
    return engine


def _url(address: str) -> sa.URL:
    try:
        url = sa.make_url(address)
    except sa.exc.ArgumentError:
        url = None
    kind = url.get_backend_name() if url else None
    if url is None or kind not in ("sqlite", "postgresql"):
        shown = url.render_as_string() if url else address.rpartition("@")[2]
        raise ConfigError("database", shown, "sqlite:///FILE or postgresql://... is needed")
    if kind == "sqlite" and url.database in (None, "", ":memory:"):
        need = "a file: API, worker and signer are processes of their own, and would share nothing"
        raise ConfigError("database", address, need)
    return url


def _postgresql(url: sa.URL) -> sa.Engine:
    # In an encoding of its own, or one of ASCII could not even be asked for its encoding.
    options = {"client_encoding": "utf8"}
    if "connect_timeout" not in url.query:
        options["connect_timeout"] = str(CONNECT_LIMIT_S)
    try:
        engine = sa.create_engine(url, pool_pre_ping=True, connect_args=options)
    except (ImportError, sa.exc.ArgumentError) as error:
        raise ConfigError("database", url.render_as_string(), f"its driver: {error}") from error
    sa.event.listen(engine, "connect", _bound_postgresql)
    return engine


def _check_encoding(connection: sa.Connection, url: sa.URL) -> None:
    encoding = connection.exec_driver_sql("SHOW server_encoding").scalar_one()
    if encoding != "UTF8":
        need = f"ENCODING 'UTF8' is needed, it has {encoding}, which does not hold every text"
        raise ConfigError("database", url.render_as_string(), need)


def _prepare_sqlite(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # the driver must not begin transactions of its own
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _bound_postgresql(connection: Any, _: Any) -> None:
    with connection.cursor() as cursor:  # by itself it waits for a lock for ever
        cursor.execute(f"SET lock_timeout = '{round(1000 * LOCK_LIMIT_S)}ms'")
    connection.commit()


def _begin_sqlite(connection: sa.Connection) -> None:
    # A transaction that reads first and then writes cannot wait for a lock; it must take it first.
    reads = connection.get_execution_options().get(READS)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")
