"""Transactions on the service's one database, and the tables that its modules declare."""

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa

METADATA = sa.MetaData()
READS = "rlrisk_reads"
"""Option of a connection that only reads."""


@contextmanager
def write(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A transaction that may write; committed at the end, undone by an exception."""
    with engine.begin() as connection:
        yield connection


@contextmanager
def read(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A transaction that only reads and locks nobody out."""
    with engine.execution_options(**{READS: True}).connect() as connection:
        yield connection


def is_writable(engine: sa.Engine) -> bool:
    """Whether rows can be written; a standby, for one, answers all that only reads.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: It does not answer, is locked, or lies on a read-only disk.
    """
    with write(engine) as connection:  # takes SQLite's lock of writers
        if connection.dialect.name != "postgresql":
            return True
        return str(connection.exec_driver_sql("SHOW transaction_read_only").scalar_one()) == "off"


def storable(text: str) -> str:
    """A text of others as every database takes it: Unicode, and without U+0000.

    What cannot be stored would be tried again for ever.
    """
    return text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")
