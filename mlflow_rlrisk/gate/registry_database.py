"""The gate's log from outside the server: it lies in the registry's database."""

import os
from pathlib import Path

import sqlalchemy as sa

from mlflow_rlrisk.errors import ConfigError
from mlflow_rlrisk.gate.audit import AuditLog

STORE_VARIABLE = "MLFLOW_REGISTRY_STORE_URI"
_PREFIX = "rlrisk+"
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")


def find_store_uri(given: str | None = None) -> str | None:
    """URI of the registry's database, without our prefix; ``None`` where only a server is known.

    The one given, that of ``MLFLOW_REGISTRY_STORE_URI`` (the variable of ``mlflow server``), or
    the registry that MLflow's client is set to.
    """
    import mlflow

    for uri in (given, os.environ.get(STORE_VARIABLE), mlflow.get_registry_uri()):
        plain = (uri or "").removeprefix(_PREFIX)
        if plain.startswith(_DATABASES):
            return plain
    return None


def open_log(given: str | None = None) -> AuditLog:
    """The log of a registry.

    Raises:
        ConfigError: No database is named, or it has no log.
    """
    uri = find_store_uri(given)
    if uri is None:
        need = (
            f"the log lies in the registry's database: name it by --registry-store-uri or "
            f"{STORE_VARIABLE}, as it is given to mlflow server"
        )
        raise ConfigError("registry_store_uri", given, need)
    try:
        engine = sa.create_engine(uri)
        _refuse_missing_file(engine.url)
        tables = sa.inspect(engine).get_table_names()
    except (sa.exc.SQLAlchemyError, ImportError) as error:  # or its driver is not installed
        need = f"cannot be opened: {str(error).splitlines()[0]}"
        raise ConfigError("registry_store_uri", uri.split("@")[-1], need) from error
    if "rlrisk_gate_log" not in tables:
        need = "has no gate log: no server with the gate has run on it"
        raise ConfigError("registry_store_uri", uri.split("@")[-1], need)
    return AuditLog(engine)


def _refuse_missing_file(url: sa.URL) -> None:
    """SQLite would make an empty database of a file that is not there."""
    path = url.database
    if url.get_backend_name() != "sqlite" or not path or path.startswith((":", "file:")):
        return
    if Path(path).parent.is_dir() and not Path(path).exists():
        need = "has no gate log: there is no such file"
        raise ConfigError("registry_store_uri", str(url), need)
